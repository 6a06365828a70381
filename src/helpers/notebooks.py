"""The chapters: their files, and what their metadata says of them under `study`."""

import json
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from helpers import paths
from helpers.paths import number_of


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
    defaults = {"number": number_of(notebook.stem), "question": "", "minutes": 0}
    return Chapter(**(defaults | content["metadata"].get("study", {})))


def files(folder: Path) -> list[Path]:
    """The chapters' files, `NN_name.ipynb`, in the order of their numbers.

    A chapter that carries another one on has its number and a letter, as in `02b`.
    Raises ValueError where two files have the same number.
    """
    found = sorted(folder.glob("[0-9][0-9]*_*.ipynb"))
    found = [p for p in found if re.fullmatch(r"\d\d[a-z]?", number_of(p.stem))]
    for one, other in pairwise(found):
        if number_of(one.stem) == number_of(other.stem):
            raise ValueError(
                f"{paths.shown(one)} and {paths.shown(other)} have the same number: "
                "rename one"
            )
    return found


def chapters() -> list[Chapter]:
    """All chapters of this repository, in order."""
    return [read(path) for path in files(paths.NOTEBOOKS)]
