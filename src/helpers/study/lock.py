"""One run at a time in a study's folder, even after another run was killed.

filelock holds `.lock`: with `flock`, so that it ends with the process that took it,
however that ends, or by the file's mere existence where the file system has no `flock`.
The file `.running` names the process that has the folder and is removed at the end. A
file that is left behind means that the run was killed. Its notebook's kernel notices
that within a second or so and ends, too; until then no other run may write.
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

import psutil
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

PATIENCE = 5.0  # seconds that the kernel of a killed run has to end by itself
SOFT = 1.0  # seconds for filelock to find that the lock file's process is gone
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[int], object]]:
    """Hold the folder for the block; yields the function that notes a kernel's pid.

    Raises RuntimeError where another run has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running = folder / ".running"
    with _taken(folder, running):
        _end_kernel(_owner(running))
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M"),
        }
        running.write_text(json.dumps(about))
        try:
            yield lambda pid: running.write_text(
                json.dumps(about | {"kernel": _identity(pid)})
            )
        finally:
            running.unlink(missing_ok=True)


@contextmanager
def _taken(folder: Path, running: Path) -> Iterator[None]:
    """Hold the lock for the block; its file is removed before the lock is released."""
    path, native = folder / ".lock", _has_locks(folder)
    lock: BaseFileLock = FileLock(path) if native else SoftFileLock(path)
    try:
        lock.acquire(timeout=0 if native else SOFT)
    except Timeout:
        cure = "" if native else f"; if no run is at work there, remove {path}"
        raise RuntimeError(_held(folder, _owner(running)) + cure) from None
    try:
        yield
    finally:
        if native:
            path.unlink(missing_ok=True)
        lock.release()


def _has_locks(folder: Path) -> bool:
    """Whether `flock` works on the folder's file system; prints a warning if not.

    filelock notices the error ENOSYS alone.
    """
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


def _held(folder: Path, owner: dict) -> str:
    who = "another run"
    if {"pid", "host", "since"} <= owner.keys():
        who = "process {pid} on {host}, running since {since},".format(**owner)
    return (
        f"{who} holds {folder}: wait until it has ended or stop it, or give this "
        "run a folder of its own with --outputs"
    )


def _owner(running: Path) -> dict:
    """What the file says of the process that has, or had, the folder; empty if none."""
    try:
        found = json.loads(running.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _identity(pid: int) -> list[float]:
    """The process's number and start, which no later process shares.

    Linux counts the start from the machine's own, which a clock that is set does not
    move. Raises psutil.NoSuchProcess.
    """
    process = psutil.Process(pid)
    with suppress(OSError):
        about = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return [pid, int(about.rpartition(")")[2].split()[19])]
    return [pid, process.create_time()]


def _end_kernel(owner: dict) -> None:
    """Wait for the kernel that a killed run has left; kill it if it does not end."""
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
