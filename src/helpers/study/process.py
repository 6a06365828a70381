"""The processes of a run: what they inherit, how they are stopped, what they hold.

A container's user may have no home and no name. The user's settings of matplotlib,
IPython and Python must not change what a study draws and saves.

`watched` looks every second at what the kernel and its children hold and at what the
machine, or its container, has left. It interrupts the kernel when too little is left,
before the machine starts to swap, and kills what does not end.
"""

import importlib.util
import math
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from helpers import paths

# Settings of the user's that Python would apply at every start.
USER_SETTINGS = ("PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONINSPECT")
NO_READER = 141  # exit status if nobody reads the output
RESERVE = 0.04, 10**9  # left free: this share of the memory, so many bytes at most
KILL_SECONDS = 15  # seconds between the interrupt and the kill
CGROUPS = Path("/sys/fs/cgroup")


class Stopped(KeyboardInterrupt):
    """A signal asked the run to end; `status` is the exit status for this signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


@contextmanager
def prepared() -> Iterator[None]:
    """Give the block output that accepts any text, a home and signal handlers.

    OpenMP's threads spin while they wait, which takes cores from other processes on a
    busy machine. GNU's threads get a short spin count unless the user has set one.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    _set_home_and_user()
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ["MATPLOTLIBRC"] = _plain_matplotlib()
    with _signals_as_exceptions():
        yield


def discard_output() -> None:
    """Discard all further output, since nobody reads it any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())


def kernel_variables(outputs: Path, private: Path) -> dict[str, str]:
    """The environment variables of a kernel that writes to `outputs`.

    They are this process's own, without settings that change what the kernel saves.
    `private` is a folder for the kernel's own files.
    """
    kept = {k: value for k, value in os.environ.items() if k not in USER_SETTINGS}
    return {
        **kept,
        "TMPDIR": tempfile.gettempdir(),
        "PYTHONPATH": _search_path(kept.get("PYTHONPATH", "")),
        "STUDY_OUTPUTS": str(paths.from_here(outputs)),
        "STUDY_CACHE": str(paths.CACHE),
        "IPYTHONDIR": str(private),
        "JUPYTER_RUNTIME_DIR": str(private),
        "MATPLOTLIBRC": _plain_matplotlib(),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no warning about frozen modules
    }


def kernel() -> None:
    """Become IPython's kernel without its user's settings and start-up files.

    Profiles, the machine's /etc/ipython and PYTHONSTARTUP may load, set and print
    anything, which would change what a study saves.
    """
    from ipykernel.kernelapp import IPKernelApp

    class PlainKernelApp(IPKernelApp):
        def load_config_file(self, *_: Any, **__: Any) -> None:
            """Read no settings."""

        def _run_startup_files(self) -> None:
            """Run no files."""

        def initialize(self, argv: Any = None) -> None:
            super().initialize(argv)
            # Each shutdown begins with an interrupt while the kernel is idle.
            message = "KeyboardInterrupt caught in kernel"
            self.log.addFilter(lambda record: message not in record.getMessage())

    PlainKernelApp.launch_instance()


def _search_path(given: str) -> str:
    """PYTHONPATH with this package first, since another one may be called "helpers"."""
    source = Path(__file__).parents[2]
    others = [str(paths.from_here(part)) for part in given.split(os.pathsep) if part]
    return os.pathsep.join([str(source), *others])


def _plain_matplotlib() -> str:
    """Matplotlib's default settings file, which replaces the user's."""
    (folder,) = importlib.util.find_spec("matplotlib").submodule_search_locations
    return str(Path(folder) / "mpl-data" / "matplotlibrc")


def _set_home_and_user() -> None:
    """Set HOME and USER if neither a variable nor the system defines them."""
    for name in ("HOME", "TMPDIR"):
        if os.environ.get(name) == "":
            del os.environ[name]  # empty is as good as unset
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(paths.CACHE / "home")
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER")):
        import getpass

        try:
            getpass.getuser()
        except (KeyError, OSError):
            os.environ["USER"] = f"user{os.getuid()}"


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Stopped`, once, unless they are ignored (nohup)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    taken = [n for n, handler in before.items() if handler == signal.SIG_DFL]

    def stop(number: int, frame: FrameType | None) -> None:
        for one in taken:
            signal.signal(one, signal.SIG_IGN)  # the cleanup must not be interrupted
        raise Stopped(number)

    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def print_error(text: str) -> None:
    """Print the text on stderr, if stderr is open."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


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
        share, most = RESERVE
        total = min(psutil.virtual_memory().total, _cgroup()[1])
        free, floor = available_memory(), min(share * total, most)
        # Stopping a kernel that holds little would free nothing.
        if free >= floor or sum(held.values()) < floor or self.cause:
            return
        ours, left, kept = map(gigabytes, (sum(held.values()), free, floor))
        self.cause = (
            f"would have used up the memory: it held {ours} and {left} were left, of "
            f"which {kept} stay free. Take fewer images or views, smaller batches, or "
            "close other programs"
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
            if seconds >= KILL_SECONDS:  # in a library's code that nothing interrupts
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
