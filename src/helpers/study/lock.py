"""One run of a study at a time in its folder, whatever becomes of the others.

`flock` holds the lock, so that it ends with the process that took it, however that
ends. The file `.lock` tells who has it and is removed at the end. Where it was left
behind, the run was killed; its notebook's kernel notices within a second or so and
ends, too, and until then nobody else may write.

Where the file system has no `flock`, the file itself is the lock: whoever creates it
has the folder, until that process is gone.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

PATIENCE = 5.0  # seconds that the kernel of a killed run has to end by itself
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[int], None]]:
    """Hold the folder for the block; yields what is to be told each kernel's pid.

    Raises RuntimeError where another run has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with _taken(path) if _has_locks(folder) else _created(path) as file:
        _end_kernel(_owner(file))
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M"),
            "process": _identity(os.getpid()),
        }
        _tell(file, about)
        try:
            yield lambda pid: _tell(file, about | {"kernel": _identity(pid)})
        finally:
            path.unlink(missing_ok=True)


def _taken(path: Path) -> IO[str]:
    """The file, open and locked, and still the one that stands there."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise RuntimeError(_held(path, _owner(file))) from None
        try:
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:
            pass
        file.close()  # its owner has just ended and removed it


def _has_locks(folder: Path) -> bool:
    """Whether `flock` works on the folder's file system; said where it does not."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(
            f"{folder} lies on a file system without locks: do not start a second run "
            "there from another machine",
            file=sys.stderr,
            flush=True,
        )
        return False
    return True


def _created(path: Path) -> IO[str]:
    """The file, made by this process alone. One that a dead process left is removed.

    Two that find it left at the same moment could both remove it, and so each takes it
    away under a name of its own first, and looks whether that was the one it had read.
    """
    while True:
        with suppress(FileExistsError):
            return path.open("x+", encoding="utf-8")
        with suppress(FileNotFoundError):
            with path.open(encoding="utf-8") as file:
                owner = _owner(file)
            if not _is_gone(owner):
                raise RuntimeError(
                    f"{_held(path, owner)}; if no run is at work there, remove {path}"
                )
            left = path.with_name(f".lock.{os.getpid()}")
            path.rename(left)
            with left.open(encoding="utf-8") as file:
                another = _owner(file) != owner
            if another:  # somebody has just taken it
                with suppress(FileExistsError):
                    os.link(left, path)
            else:
                _end_kernel(owner)
            left.unlink()


def _is_gone(owner: dict) -> bool:
    """Whether the process that made the file has surely ended."""
    if owner.get("host") != socket.gethostname() or "process" not in owner:
        return False
    pid, began = owner["process"]
    try:
        ended = psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
        return ended or _identity(int(pid)) != [pid, began]
    except psutil.NoSuchProcess:
        return True


def _held(path: Path, owner: dict) -> str:
    who = "another run"
    if {"pid", "host", "since"} <= owner.keys():
        who = "process {pid} on {host}, running since {since},".format(**owner)
    return (
        f"{who} holds {path.parent}: wait until it has ended or stop it, or give this "
        "run a folder of its own with --outputs"
    )


def _owner(file: IO[str]) -> dict:
    """What the file tells of who has, or had, the lock; empty where it is not told."""
    file.seek(0)
    try:
        found = json.loads(file.read())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _tell(file: IO[str], about: dict) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(about))
    file.flush()


def _identity(pid: int) -> list[float]:
    """What tells a process from a later one of the same number.

    Linux counts the start from the machine's own, which a clock that is set does not
    move. Raises psutil.NoSuchProcess.
    """
    process = psutil.Process(pid)
    with suppress(OSError):
        about = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return [pid, int(about.rpartition(")")[2].split()[19])]
    return [pid, process.create_time()]


def _end_kernel(owner: dict) -> None:
    """Wait for the kernel that a killed run has left; end it where it does not."""
    if "kernel" not in owner or owner.get("host") != socket.gethostname():
        return
    pid, began = owner["kernel"]
    try:
        kernel = psutil.Process(int(pid))
        if _identity(kernel.pid) != [pid, began]:
            return
        try:
            kernel.wait(PATIENCE)
        except psutil.TimeoutExpired:
            kernel.kill()
            kernel.wait(PATIENCE)
    except psutil.NoSuchProcess:
        pass
