"""Folders of the repository and of what runs write, and the names of chapters."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PARAMS = ROOT / "params"


def located(path: str | Path, base: str | Path) -> Path:
    """Resolve a user's path: "~" is the home folder, a relative path starts at `base`.

    "~name" of an unknown user is not expanded.
    """
    return Path(base) / os.path.expanduser(path)


def from_root(path: str | Path) -> Path:
    """Resolve a path in a notebook or in a parameter file of this repository."""
    return located(path, ROOT)


def from_here(path: str | Path) -> Path:
    """Resolve a path on the command line or in an environment variable."""
    absolute = os.path.isabs(os.path.expanduser(path))
    return located(path, ROOT if absolute else here())


def shown(path: Path) -> str:
    """A path as messages show it, valid where the user stands: relative below there."""
    try:
        return _relative(path, Path.cwd())
    except FileNotFoundError:  # the folder was deleted
        return str(path)


def in_repository(path: Path) -> str:
    """A path as results show it: relative to the repository's root inside it."""
    return _relative(path, ROOT)


def _relative(path: Path, base: Path) -> str:
    path = path.absolute()
    return str(path.relative_to(base) if path.is_relative_to(base) else path)


def here() -> Path:
    """Return the working directory; raises FileNotFoundError if it was deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise FileNotFoundError(
            "the folder you stand in is gone: go to one that is there"
        ) from None


def require_checkout() -> None:
    """Raise RuntimeError if the package was installed without its notebooks."""
    if not PARAMS.is_dir():
        raise RuntimeError(
            f"{Path(__file__).parent} is a copy without notebooks and parameter files: "
            "clone the repository and install it from there with `pip install -e .` "
            "(or `make study`)"
        )


def number_of(chapter: str) -> str:
    """The number of a chapter of this name: "02" of "02_tpt_augmentations"."""
    return chapter.partition("_")[0]


# A variable that is "" counts as unset.
OUTPUTS = from_here(os.environ.get("STUDY_OUTPUTS") or ROOT / "outputs")
CACHE = from_here(os.environ.get("STUDY_CACHE") or ROOT / ".cache")
