"""The environment of a run: output streams, home, signals, the kernels' variables.

A user's machine may have no home, terminal or encoding. The user's settings of
matplotlib, IPython and Python must not change what a study draws and saves.
"""

import codecs
import importlib.util
import os
import signal
import sys
import tempfile
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from helpers import paths

PLAIN = {"✓": "+", "✗": "x", "…": "...", "–": "-", "—": "-", "→": "->", "×": "x"}
PLAIN |= {"‘": "'", "’": "'", "“": '"', "”": '"', "·": "-", "−": "-", "≥": ">="}
# Variables of other programs that name files; a kernel has another working directory.
FOLDERS = ("HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TORCH_HOME")
FOLDERS += ("SENTENCE_TRANSFORMERS_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
# Settings of the user's that Python would apply at every start.
OTHERS = ("PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONINSPECT")
HANDLER = "study.plain"
NO_READER = 141  # exit status if nobody reads the output


class Stopped(KeyboardInterrupt):
    """A signal asked the run to end; `status` is the exit status for this signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


@contextmanager
def prepared() -> Iterator[None]:
    """Give the block streams that accept any text, a home and signal handlers.

    OpenMP's threads spin while they wait, which takes cores from other processes on a
    busy machine. GNU's threads get a short spin count unless the user has set one.
    """
    _set_streams()
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
        **{
            name: str(paths.from_here(kept[name])) for name in FOLDERS if kept.get(name)
        },
        **_matplotlib_folder(),
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


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for a kernel's own files that other users cannot read.

    It lies in the cache if no folder for temporary files is writable.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = str(paths.CACHE)
    with tempfile.TemporaryDirectory(
        prefix="study-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _search_path(given: str) -> str:
    """PYTHONPATH with this package first, since another one may be called "helpers"."""
    source = Path(__file__).parents[2]
    others = [str(paths.from_here(part)) for part in given.split(os.pathsep) if part]
    return os.pathsep.join([str(source), *others])


def _plain_matplotlib() -> str:
    """Matplotlib's default settings file, which replaces the user's."""
    (folder,) = importlib.util.find_spec("matplotlib").submodule_search_locations
    return str(Path(folder) / "mpl-data" / "matplotlibrc")


def _matplotlib_folder() -> Mapping[str, str]:
    """A folder for matplotlib's list of fonts, if the usual ones are not writable."""
    named = [os.environ.get(f"XDG_{kind}_HOME") for kind in ("CONFIG", "CACHE")]
    usual = [os.environ.get("MPLCONFIGDIR"), *named, "~/.config", "~/.cache"]
    if all(_may_write(paths.from_here(folder)) for folder in usual if folder):
        return {}
    return {"MPLCONFIGDIR": str(paths.CACHE / "matplotlib")}


def _may_write(folder: Path) -> bool:
    """Whether the folder, or its nearest existing parent, is writable."""
    there = next(f for f in (folder, *folder.parents) if os.path.exists(f))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


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


def _set_streams() -> None:
    """Open closed streams on the null device; let the others accept any character."""
    codecs.register_error(HANDLER, _replace_missing)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)


def _replace_missing(error: UnicodeError) -> tuple[str, int]:
    """Replace the characters that the stream's encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wanted = error.object[error.start : error.end]
    return "".join(map(_plain, wanted)), error.end


def _plain(character: str) -> str:
    if character in PLAIN:
        return PLAIN[character]
    parts = unicodedata.normalize("NFKD", character)
    return "".join(part for part in parts if part.isascii()) or "?"


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
