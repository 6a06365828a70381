"""The study's own folder of pictures: has it the labels and names that are needed?"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from helpers import data
from helpers.data import folder
from helpers.data.dataset import Dataset
from helpers.data.naming import Classes, parse

NAME = "folder"  # of the data set


class OwnImages:
    """Reads each folder once, whichever chapters ask for it.

    `class_names` are the study's, "" for none.
    """

    def __init__(self, class_names: str | Sequence = "") -> None:
        self._classes = parse(class_names) if class_names else ()
        self._found: dict[tuple[str, Classes], Dataset | None] = {}

    def lacks_labels(self, parameters: Mapping[str, Any]) -> str:
        """Why a chapter that needs labels cannot run with its parameters, or ""."""
        found = self._read(parameters, self._classes)
        if found is None or (lacking := data.unlabelled(found)):
            return lacking if found else ""
        if "class_names" in parameters or not self._classes:
            return ""
        plain = self._read(parameters, ())
        if plain and plain.class_names == found.class_names:
            return data.unlabelled(plain)
        return (
            f"class names are read from {folder.NAMES_FILES[0]} in data_root there, "
            "not from the parameter class_names"
        )

    def too_long(self, parameters: Mapping[str, Any]) -> list[str]:
        """A line for each class name that a chapter's CLIPs cannot read whole."""
        named = self._classes if "class_names" in parameters else ()
        found = self._read(parameters, named)
        if found is None:
            return []
        from helpers.prompts.names import too_long

        models = (parameters.get(key) for key in ("backbone", "second_backbone"))
        texts = found.every_name[0]
        return [line for model in models if model for line in too_long(model, texts)]

    def _read(self, parameters: Mapping[str, Any], classes: Classes) -> Dataset | None:
        """The pictures; None without such a data set, and where the run will fail."""
        values = parameters.values()
        if not any(NAME in v if isinstance(v, list) else v == NAME for v in values):
            return None
        at = parameters.get("data_root", ""), classes
        if at not in self._found:
            try:
                with warnings.catch_warnings(action="ignore"):
                    self._found[at] = data.read(NAME, *at)
            except (ValueError, OSError):
                self._found[at] = None
        return self._found[at]
