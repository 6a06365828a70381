"""Files that are whole or not there."""

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.keys import key

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BARRED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class DiskFull(OSError):
    """A file finds no room; the message names its folder and what helps."""


class NotWritable(OSError):
    """A folder takes no files; the message names it and what helps."""


def check_writable(folder: Path) -> None:
    """Make the folder, and see that it takes files. Raises `NotWritable`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: OSError) -> NotWritable:
    there = os.path.lexists(folder) and not os.path.isdir(folder)
    reason = "it is no folder" if there else error.strerror
    return NotWritable(
        f"cannot write in {folder} ({reason}): name folders that you may write, for "
        "results with --outputs or STUDY_OUTPUTS, for the cache with STUDY_CACHE"
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour that takes the place of `path` if the block succeeds.

    Whoever reads `path` finds the old file or the new one, never a half; two processes
    that write it at once leave the work of one of them. Raises `DiskFull` where the
    disk is full, `NotWritable` where the folder takes no files.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with enough_room(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
        except OSError as error:
            if error.errno in BARRED:
                raise _not_writable(path.parent, error) from error
            raise
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def enough_room(path: Path) -> Iterator[None]:
    """Turn what a block that writes `path` raises on a full disk into `DiskFull`."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not _says_full(error):
            raise
        full = path
        if isinstance(getattr(error, "filename", None), str):
            elsewhere = Path(error.filename)  # say, a file for temporary use
            full = path if elsewhere.parent == path.parent else elsewhere
        raise DiskFull(
            f"no room for {full.name} in {full.parent}: make some there and run again "
            "(what is finished is kept), or write elsewhere: results with --outputs, "
            "the cache with STUDY_CACHE, temporary files with TMPDIR"
        ) from error


def digest(paths: Iterable[Path]) -> str:
    """A key of the names and contents of files, whatever their order."""
    return key((path.name, path.read_bytes()) for path in sorted(paths))


def _says_full(error: BaseException | None) -> bool:
    """Whether the error or its cause tells of a full disk.

    Libraries that are not Python's raise errors of their own, and tell it in words.
    """
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    if any(f"os error {number}" in str(error) for number in FULL):
        return True
    return _says_full(error.__cause__ or error.__context__)
