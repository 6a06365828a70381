"""Class names that a user gives, each class with one name or several.

    parse("cat, dog | hound, fox")
    parse(["cat", "dog | hound", ["fox", "red fox"]])
    parse("names.txt")      a line per class: dog | hound
    parse("names.csv")      a row per class: columns name and, optionally, other_names

Several names of a class, split by "|", are for methods that compare an image with every
name: `helpers.methods.zero_shot.best_name` then gives a class the logit of its best.
"""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from helpers.data import tables
from helpers.paths import ROOT, located
from helpers.words import composed, folded

SUFFIXES = (".txt", ".csv")
BETWEEN_NAMES = "|"
Classes = tuple[tuple[str, ...], ...]


def parse(given: str | Sequence, base: Path = ROOT) -> Classes:
    """The names of each class, the one that is shown first.

    Args:
        given: a list of classes, each a text or a list of names; a text with a comma
            or a line's end between classes; or the path of a .txt or .csv file. In all
            of them "|" stands between the names of one class.
        base: where a relative path starts.

    Raises:
        ValueError: fewer than two classes, a class without a name, the same name
            twice (`helpers.words.folded`), or a name that is no text.
        FileNotFoundError: no such file.
    """
    if not isinstance(given, str):
        if not isinstance(given, Sequence):
            raise ValueError(f"class names must be a text or a list, not {given!r}")
        return _checked(given, "class names")
    path = located(given.strip(), base)
    if path.suffix.lower() in SUFFIXES or os.path.isfile(path):
        return read(path)
    entries = given.replace("\n", ",").split(",")
    return _checked([entry for entry in entries if entry.strip()], "class names")


def read(path: Path) -> Classes:
    """The names of each class from a .txt or .csv file, see `parse`.

    Blank lines are passed over, and those of a .txt file that begin with "#".
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"no file {path}: name the file of class names, or the names themselves "
            "with commas between them"
        )
    suffix = path.suffix.lower()
    if suffix == ".csv":
        rows = tables.rows(path, "name")
        found = [
            [cell for key in ("name", "other_names") if (cell := row.get(key))]
            for row in rows
        ]
        return _checked([names for names in found if "".join(names).strip()], str(path))
    if suffix != ".txt":
        raise ValueError(f"{path}: class names are read from {' or '.join(SUFFIXES)}")
    lines = [line.strip() for line in tables.text(path).splitlines()]
    classes = [line for line in lines if line and not line.startswith("#")]
    return _checked(classes, str(path))


def flat(classes: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], np.ndarray]:
    """All K names, class by class, and the class of each: int64 [K]."""
    names = tuple(name for names in classes for name in names)
    return names, np.repeat(np.arange(len(classes)), [len(names) for names in classes])


def _checked(entries: Iterable, where: str) -> Classes:
    classes = tuple(_names(entry, where) for entry in entries)
    if not classes:
        raise ValueError(f"{where}: no class names: give two or more")
    if len(classes) == 1:
        raise ValueError(f"{where}: {_one(classes[0], where)}")
    first: dict[str, str] = {}
    for name in flat(classes)[0]:
        if folded(name) in first:
            twin = first[folded(name)]
            also = "" if twin == name else f" as {twin!r} and"
            raise ValueError(f"{where}:{also} {name!r} is given twice: give it once")
        first[folded(name)] = name
    return classes


def _names(entry: object, where: str) -> tuple[str, ...]:
    """The names of one class."""
    parts = [entry] if isinstance(entry, str) else entry
    if not isinstance(parts, list | tuple) or not all(
        isinstance(p, str) for p in parts
    ):
        quotes = " (put numbers, yes, no and null into quotes)"
        raise ValueError(f"{where}: {entry!r} is no text{quotes}")
    split = (name for part in parts for name in part.split(BETWEEN_NAMES))
    names = tuple(composed(name) for name in split if name.strip())
    if not names:
        raise ValueError(f"{where}: a class has no name: {entry!r}")
    for name in names:
        odd = any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name)
        if odd or not folded(name):
            raise ValueError(f"{where}: {name!a} is no text that a prompt could hold")
    return names


def _one(names: Sequence[str], where: str) -> str:
    """Explain why the names of one class do not do."""
    text = BETWEEN_NAMES.join(names)
    ways = "add the name of something else"
    if len(names) > 1:
        ways = f"{BETWEEN_NAMES!r} stands between names of one class"
    if where.endswith(SUFFIXES):
        ways += ", and each class has a line of its own"
    elif "," in text:
        ways = "give each class as an entry of the list"
    return (
        f"{text!r} is one class, but telling classes apart takes at least two: {ways}"
    )
