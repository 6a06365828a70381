"""Atomic writes, errors of a full or read-only disk, and the notes of a study.

The notes, `provenance.json` in the study's folder, have an entry for each chapter.
"""

import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from helpers.keys import key

SOURCE = Path(__file__).parents[1]
PACKAGES = ("torch", "open_clip_torch", "transformers", "numpy", "pillow")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class DiskFull(OSError):
    """There is no room for a file; the message names its folder and the remedy."""


class NotWritable(OSError):
    """A folder cannot be written to; the message names it and the remedy."""


def check_writable(folder: Path) -> None:
    """Make the folder and try to write to it; raises `NotWritable`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: OSError) -> NotWritable:
    is_file = os.path.lexists(folder) and not os.path.isdir(folder)
    reason = "it is no folder" if is_file else error.strerror
    return NotWritable(
        f"cannot write in {folder} ({reason}): name folders that you may write, for "
        "results with --outputs or STUDY_OUTPUTS, for the cache with STUDY_CACHE"
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` if the block succeeds.

    The replacement is atomic: a reader finds the old file or the new one. Of two
    processes that write at once, one wins. Raises `DiskFull` or `NotWritable`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with enough_room(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
        except OSError as error:
            if error.errno in DENIED:
                raise _not_writable(path.parent, error) from error
            raise
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def enough_room(path: Path) -> Iterator[None]:
    """Raise `DiskFull` instead of the error of a block that writes `path`."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not _is_disk_full(error):
            raise
        full = path
        if isinstance(getattr(error, "filename", None), str):
            elsewhere = Path(error.filename)  # such as a temporary file
            full = path if elsewhere.parent == path.parent else elsewhere
        raise DiskFull(
            f"no room for {full.name} in {full.parent}: make some there and run again "
            "(what is finished is kept), or write elsewhere: results with --outputs, "
            "the cache with STUDY_CACHE, temporary files with TMPDIR"
        ) from error


def digest(paths: Iterable[Path]) -> str:
    """Return a short hash of names and contents of files, in any order."""
    return key((path.name, path.read_bytes()) for path in sorted(paths))


@cache
def code() -> str:
    """Hash of both packages' files and of the versions of the libraries."""
    found = [*(SOURCE / "helpers").rglob("*"), *(SOURCE / "picto").rglob("*")]
    files = [
        f for f in found if f.is_file() and f.suffix != ".pyc" and f.name[0] != "."
    ]
    named = {f.relative_to(SOURCE).as_posix(): digest([f]) for f in sorted(files)}
    return key([named, {package: version(package) for package in PACKAGES}])


def note(
    folder: Path, chapter: str, facts: dict[str, Any], afresh: bool = False
) -> None:
    """Add facts to a chapter's entry in a study's notes, dictionaries key by key.

    `afresh` drops what the entry held.
    """
    known = notes(folder)
    entry = {} if afresh else known.get(chapter, {})
    for name, fact in facts.items():
        old = entry.get(name)
        entry[name] = {**old, **fact} if isinstance(old, dict) else fact
    known[chapter] = entry
    text = json.dumps(dict(sorted(known.items())), indent=2, ensure_ascii=False)
    with replacing(folder / "provenance.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def notes(folder: Path) -> dict[str, Any]:
    """A study's notes; empty where there are none yet, or damaged ones."""
    return read_object(folder / "provenance.json")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where the file is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether the error or its cause is a full disk.

    Libraries written in Rust raise errors of their own, with the number in the message.
    """
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return True
    if any(f"os error {number}" in str(error) for number in DISK_FULL):
        return True
    return _is_disk_full(error.__cause__ or error.__context__)
