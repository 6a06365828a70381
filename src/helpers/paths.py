"""Where things are. Two environment variables move what a run writes."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PARAMS = ROOT / "params"
OUTPUTS = Path(os.environ.get("STUDY_OUTPUTS", ROOT / "outputs")).absolute()
CACHE = Path(os.environ.get("STUDY_CACHE", ROOT / ".cache")).absolute()


def from_root(path: str | Path) -> Path:
    """A path that a user gave: "~" is the home, relative ones count from the root.

    "~name" of a user that is not there stays as it is.
    """
    return ROOT / os.path.expanduser(path)
