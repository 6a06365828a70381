"""Images in: every data set as (stable id, picture, label) with class names.

    dataset = load("imagenet-a", data_root="~/data", images=500)
    dataset.image(0), dataset.labels[0], dataset.class_names

`data_root` is the folder that holds the data sets (or the one that is wanted); empty
means `data/` in the repository, relative paths count from the repository's root.
"""

import difflib
from dataclasses import replace

from helpers.data import digits, embedded, folder, imagenet, vision
from helpers.data.dataset import Dataset, Info, UnreadableImage
from helpers.data.integrity import readable, verify

READERS = {
    name: module
    for module in (embedded, digits, folder, imagenet, vision)
    for name in module.INFO
}

__all__ = [
    "Dataset",
    "Info",
    "UnreadableImage",
    "called",
    "class_names",
    "describe",
    "load",
    "names",
    "other_classes",
    "read",
    "readable",
    "verify",
]


def names() -> list[str]:
    """Every data set that `load` knows."""
    return list(READERS)


def describe(name: str) -> Info:
    """Where to get a data set, how large it is, and the layout its reader expects."""
    return READERS[_checked(name)].INFO[name]


def called(name: str, data_root: str = "") -> str:
    """What results call a data set: by its name, or by that of the user's folder.

    The one place that decides it: `read(name, data_root).name` is the same. A folder
    that happens to be called like another data set is told from it.
    """
    if name != "folder":
        return name
    own = folder.own_name(data_root)
    taken = own != name and own.casefold() in READERS
    return f"{own} folder" if taken else own


def read(name: str, data_root: str = "") -> Dataset:
    """The whole data set as it lies on disk; no picture is opened."""
    found = READERS[_checked(name)].read(name, data_root)
    return replace(found, name=called(name, data_root))


def class_names(name: str, data_root: str = "") -> tuple[str, ...]:
    """Names of a data set's classes; it is read only where they depend on its files."""
    known = {embedded: embedded.CLASS_NAMES, digits: digits.CLASS_NAMES}
    reader = READERS[_checked(name)]
    if reader is imagenet:
        return imagenet.class_names(name)
    return known.get(reader) or read(name, data_root).class_names


def other_classes(name: str, than: str, data_root: str = "") -> str:
    """In what the classes of a data set differ from another's, in words, or "".

    Nothing is said of sets that are not in place.
    """
    try:
        ours, theirs = (class_names(n, data_root) for n in (name, than))
    except (ValueError, OSError):
        return ""
    if ours == theirs:
        return ""
    new = [text for text in ours if text not in theirs]
    what = f"{new[0]!r} and {len(new) - 1:,} others" if new else "fewer, or in disorder"
    return f"{name} has other classes than {than}: {what}"


def load(name: str, data_root: str = "", images: int = 0, seed: int = 0) -> Dataset:
    """A data set to work with: `images` of its pictures, all of them readable.

    `images` = 0 takes all; otherwise a class-balanced sample drawn with `seed`. The
    pictures are decoded once (a few milliseconds each, kept in the cache); damaged ones
    are left out of the sample and listed in `skipped`. Raises ValueError for a wrong
    name or layout, FileNotFoundError with the page to get it at for a missing set.
    """
    return readable(read(name, data_root).sample(images, seed))


def _checked(name: str) -> str:
    if name not in READERS:
        close = difflib.get_close_matches(name, READERS, n=1)
        hint = f" did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"unknown data set {name!r}:{hint} choose one of {', '.join(READERS)}"
        )
    return name
