"""One run at a time in a study's folder, even after another run was killed.

filelock holds `.lock`, which ends with the process that took it, however that ends. The
file `.running` names the process that has the folder and is removed at the end. A file
that is left behind means that the run was killed. Its notebook's kernel notices that
within a second or so and ends, too; until then no other run may write.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

PATIENCE = 5.0  # seconds that the kernel of a killed run has to end by itself


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[int], object]]:
    """Hold the folder for the block; yields the function that notes a kernel's pid.

    Raises RuntimeError where another run has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running, lock = folder / ".running", FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        owner = {"pid": "?", "host": "?", "since": "?"} | _owner(running)
        raise RuntimeError(
            "another run, process {pid} on {host}, since {since}, ".format(**owner)
            + f"holds {folder}: wait until it has ended or stop it, or give this run a "
            "folder of its own with --outputs"
        ) from None
    try:
        _end_kernel(_owner(running))
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M"),
        }
        running.write_text(json.dumps(about))
        yield lambda pid: running.write_text(
            json.dumps(about | {"kernel": [pid, psutil.Process(pid).create_time()]})
        )
    finally:
        running.unlink(missing_ok=True)
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is still held
        lock.release()


def _owner(running: Path) -> dict:
    """What the file says of the process that has, or had, the folder; empty if none."""
    try:
        found = json.loads(running.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _end_kernel(owner: dict) -> None:
    """Wait for the kernel that a killed run has left; kill it if it does not end."""
    if "kernel" not in owner or owner.get("host") != socket.gethostname():
        return
    pid, began = owner["kernel"]
    with suppress(psutil.NoSuchProcess):
        kernel = psutil.Process(pid)
        if kernel.create_time() != began:  # another process with its number
            return
        try:
            kernel.wait(PATIENCE)
        except psutil.TimeoutExpired:
            kernel.kill()
            kernel.wait(PATIENCE)
