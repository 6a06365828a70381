"""The environment of a run: output, home, signals, the kernels' variables.

A container's user may have no home and no name. The user's settings of matplotlib,
IPython and Python must not change what a study draws and saves.
"""

import importlib.util
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from helpers import paths

# Settings of the user's that Python would apply at every start.
OTHERS = ("PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONINSPECT")
NO_READER = 141  # exit status if nobody reads the output


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
    kept = {name: value for name, value in os.environ.items() if name not in OTHERS}
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
