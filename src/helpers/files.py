"""Files that are whole or not there."""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(OSError):
    """A file finds no room; the message names its folder and what helps."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour that takes the place of `path` if the block succeeds.

    Whoever reads `path` finds the old file or the new one, never a half; two processes
    that write it at once leave the work of one of them. Raises `DiskFull` where the
    disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with enough_room(path):
        path.parent.mkdir(parents=True, exist_ok=True)
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
        raise DiskFull(
            f"no room for {path.name} in {path.parent}: make some there and run again "
            "(what is finished is kept), or write elsewhere: results with --outputs, "
            "the cache with STUDY_CACHE"
        ) from error


def digest(paths: Iterable[Path]) -> str:
    """A short hash of the names and contents of files, whatever their order."""
    found = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.as_posix()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(f"{path.name} {content}\n".encode())
    return found.hexdigest()[:16]


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
