"""Watches a run's memory: interrupts a kernel before the machine starts to swap.

`watched` looks every second at what the kernel and its children hold and at what the
machine, or its container, has left. It interrupts the kernel when too little is left,
and kills what does not end.
"""

import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

FLOOR = 0.04, 10**9  # left free: this share of the memory, so many bytes at most
PATIENCE = 15  # seconds between the interrupt and the kill
CGROUPS = Path("/sys/fs/cgroup")


@dataclass
class Watch:
    """The most memory that a kernel held, and why it was stopped."""

    peak: int = 0  # bytes
    cause: str = ""  # empty where nothing was stopped
    _done: threading.Event = field(default_factory=threading.Event, repr=False)

    def look(self, kernels: Mapping[int, psutil.Process]) -> None:
        """Look once: note what the kernels hold, stop them where nothing is left."""
        held = {p: _held(p) for p in kernels.values()}
        self.peak = max(self.peak, sum(held.values()))
        share, most = FLOOR
        total = min(psutil.virtual_memory().total, _cgroup()[1])
        free, floor = available_memory(), min(share * total, most)
        # Stopping a kernel that holds little would free nothing.
        if free >= floor or sum(held.values()) < floor or self.cause:
            return
        ours, left, kept = map(gigabytes, (sum(held.values()), free, floor))
        self.cause = (
            f"would have used up the memory: it held {ours} and {left} were left, of "
            f"which {kept} stay free. Take fewer images or views, smaller batches, or "
            "close other programs; `study doctor NAME` tells what each chapter needs"
        )
        for process in held:
            _send(process, signal.SIGINT)


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch the processes that the block starts, and their own, every second."""
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    watch, seconds = Watch(), 0

    def look() -> None:
        nonlocal seconds
        while True:
            ours = psutil.Process().children(recursive=True)
            watch.look({p.pid: p for p in ours if p.pid not in before})
            seconds += bool(watch.cause)
            if seconds >= PATIENCE:  # deep in a library, where nothing interrupts it
                for process in ours:
                    if process.pid not in before:
                        _send(process, signal.SIGKILL)
            if watch._done.wait(1):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch._done.set()
        thread.join()


def available_memory() -> float:
    """Bytes that can be had before anything swaps or is killed."""
    return min(psutil.virtual_memory().available, _cgroup()[0])


def _cgroup(root: Path = CGROUPS) -> tuple[float, float]:
    """(bytes free, bytes allowed) under the tightest limit of the process's groups."""
    free, allowed = math.inf, math.inf
    for folder in _groups(root):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            try:
                most = float((folder / limit).read_text().replace("max", "inf"))
                now = int((folder / used).read_text())
                facts = (folder / "memory.stat").read_text().splitlines()
                facts = dict(map(str.split, facts))
            except (OSError, ValueError):
                continue
            if most < 2**60:  # version 1 writes a huge number for no limit
                now -= int(facts.get("total_inactive_file", facts["inactive_file"]))
                free, allowed = min(free, most - now), min(allowed, most)
    return free, allowed


def _groups(root: Path) -> list[Path]:
    """Folders that may limit this process: its groups and all above them."""
    found = [root, root / "memory"]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return found
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds in ("", "memory"):
            group = root / kinds / path.lstrip("/")
            while group != root and group not in found:
                found.append(group)
                group = group.parent
    return found


def gigabytes(size: float) -> str:
    """A number of bytes as messages show it."""
    return f"{size / 1e9:,.1f} GB"


def _held(process: psutil.Process) -> int:
    try:
        # Between its fork and its exec a child shows the memory of this process.
        if process.cmdline() == psutil.Process().cmdline():
            return 0
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.Error):  # the process has ended
        process.send_signal(number)
