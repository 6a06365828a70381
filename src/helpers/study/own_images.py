"""The study's own folder of pictures: has it the labels and names that are needed?"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from helpers import data
from helpers.data import folder
from helpers.data.class_names import parse
from helpers.data.dataset import Dataset

NAME = "folder"  # of the data set


class OwnImages:
    """Reads each folder once, whichever chapters ask for it.

    `class_names` are the study's, "" for none.
    """

    def __init__(self, class_names: str | Sequence = "") -> None:
        self._classes = parse(class_names) if class_names else ()
        self._read: dict[tuple[str, bool], Dataset | None] = {}

    def lacks_labels(self, parameters: Mapping[str, Any]) -> str:
        """Why a chapter that needs labels cannot run with its parameters, or ""."""
        found, named = self.read(parameters), "class_names" in parameters
        if self._classes and not named and _is_asked(parameters):
            asked = tuple(names[0] for names in self._classes)
            if found is None or found.class_names != asked:
                return (
                    f"class names are read from {folder.NAMES_FILES[0]} in data_root "
                    "there, not from the parameter class_names"
                )
        return data.unlabelled(found) if found else ""

    def too_long(self, parameters: Mapping[str, Any]) -> list[str]:
        """A line for each class name that a chapter's CLIPs cannot read whole."""
        found, models = self.read(parameters), ("backbone", "second_backbone")
        if found is None:
            return []
        from helpers.prompts import names

        wanted = (parameters.get(key) for key in models)
        return [
            line for m in wanted if m for line in names.too_long(m, found.every_name[0])
        ]

    def read(self, parameters: Mapping[str, Any]) -> Dataset | None:
        """The pictures; None without such a data set, and where the run will fail."""
        if not _is_asked(parameters):
            return None
        root, named = parameters.get("data_root", ""), "class_names" in parameters
        if (root, named) not in self._read:
            given = self._classes if named else ""
            try:
                with warnings.catch_warnings(action="ignore"):
                    found = data.read(NAME, root, given)
            except (ValueError, OSError):
                found = None
            self._read[root, named] = found
        return self._read[root, named]


def _is_asked(parameters: Mapping[str, Any]) -> bool:
    return any(
        NAME in v if isinstance(v, list) else v == NAME for v in parameters.values()
    )
