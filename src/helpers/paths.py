"""Where things are. Two environment variables move what a run writes."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PARAMS = ROOT / "params"
OUTPUTS = Path(os.environ.get("STUDY_OUTPUTS", ROOT / "outputs")).absolute()
CACHE = Path(os.environ.get("STUDY_CACHE", ROOT / ".cache")).absolute()
