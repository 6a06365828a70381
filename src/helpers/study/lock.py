"""One run of a study at a time in its folder, whatever becomes of the others.

`flock` holds the lock, so that it ends with the process that took it, however that
ends. The file `.lock` tells who has it and is removed at the end. Where it was left
behind, the run was killed; its notebook's kernel notices within a second or so and
ends, too, and until then nobody else may write.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

PATIENCE = 5.0  # seconds that the kernel of a killed run has to end by itself


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[int], None]]:
    """Hold the folder for the block; yields what is to be told each kernel's pid.

    Raises RuntimeError where another run has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with _taken(path) as file:
        _end_kernel(_owner(file))
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M"),
        }
        _tell(file, about)
        try:
            yield lambda pid: _tell(file, about | {"kernel": _identity(pid)})
        finally:
            path.unlink()


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


def _held(path: Path, owner: dict) -> str:
    who = "another run"
    if owner:
        who = "process {pid} on {host}, running since {since},".format(**owner)
    return (
        f"{who} holds {path.parent}: wait until it has ended or stop it, or give this "
        "run a folder of its own with --outputs"
    )


def _owner(file: IO[str]) -> dict:
    """What the file tells of who has, or had, the lock; empty where it is not told."""
    file.seek(0)
    try:
        return json.loads(file.read())
    except ValueError:
        return {}


def _tell(file: IO[str], about: dict) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(about))
    file.flush()


def _identity(pid: int) -> list[float]:
    """What tells a process from a later one of the same number."""
    return [pid, psutil.Process(pid).create_time()]


def _end_kernel(owner: dict) -> None:
    """Wait for the kernel that a killed run has left; end it where it does not."""
    if "kernel" not in owner or owner.get("host") != socket.gethostname():
        return
    pid, began = owner["kernel"]
    try:
        kernel = psutil.Process(int(pid))
        if kernel.create_time() != began:
            return
        try:
            kernel.wait(PATIENCE)
        except psutil.TimeoutExpired:
            kernel.kill()
            kernel.wait(PATIENCE)
    except psutil.NoSuchProcess:
        pass
