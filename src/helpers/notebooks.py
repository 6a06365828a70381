"""What the chapters say of themselves, in their notebooks' metadata under `study`."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import paths


@dataclass(frozen=True)
class Chapter:
    """A notebook's own words; all but these five may be missing in one's own."""

    number: str  # as in the file's name, "02b"
    question: str  # that the title asks
    minutes: float  # that the embedded study takes on two cores
    needs: dict[str, str] = field(default_factory=dict)
    """Parameter -> the value, or pattern of values, that a study must have.

    `labels`: "all" is no parameter: the study's images must have labels.
    """
    optional: dict[str, str] = field(default_factory=dict)
    """Parameter of a model besides CLIP -> what is left out without that model."""
    claims: tuple[dict[str, Any], ...] = ()
    """What the synthesis tests, see `helpers.results.findings.claims`."""


def read(notebook: Path) -> Chapter:
    """What a notebook says; a notebook without such metadata has no question."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    number = notebook.stem.partition("_")[0]
    said = {"number": number, "question": "", "minutes": 0}
    return Chapter(**(said | content["metadata"].get("study", {})))


def chapters() -> list[Chapter]:
    """All chapters of this repository, in order."""
    found = [read(path) for path in paths.NOTEBOOKS.glob("[0-9]*_*.ipynb")]
    return sorted(found, key=lambda chapter: chapter.number)
