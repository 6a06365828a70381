"""Images in: every data set as (stable id, picture, label) with class names.

A folder of the user's may leave labels unknown: they are -1.

    dataset = load("imagenet-a", data_root="~/data", images=500)
    dataset.image(0), dataset.labels[0], dataset.class_names

`data_root` is the folder that holds the data sets, or the folder of one of them. ""
means `data/` in the repository; a relative path starts at the repository's root.
"""

from collections.abc import Sequence
from dataclasses import replace

from helpers.data import digits, embedded, folder, imagenet, vision
from helpers.data.dataset import Dataset, Info, UnreadableImage, readable, verify
from helpers.words import closest

READERS = {
    name: module
    for module in (embedded, digits, folder, imagenet, vision)
    for name in module.INFO
}


def names() -> list[str]:
    """Return the names of all data sets that `load` knows."""
    return list(READERS)


def describe(name: str) -> Info:
    """Return a data set's web page, its size, and the layout its reader expects."""
    return READERS[_checked(name)].INFO[name]


def called(name: str, data_root: str = "") -> str:
    """Return a data set's name in results; for "folder" it is the user's folder name.

    `read(name, data_root).name` is the same. " folder" is appended to the name of a
    folder that is called like another data set.
    """
    if name != "folder":
        return name
    own = folder.own_name(data_root)
    taken = own != name and own.casefold() in READERS
    return f"{own} folder" if taken else own


def read(name: str, data_root: str = "", class_names: str | Sequence = "") -> Dataset:
    """Read the whole data set without opening a picture.

    `class_names` name the classes of a folder whose pictures need no label,
    see `helpers.data.folder`; ValueError for any other data set.
    """
    reader = READERS[_checked(name)]
    if class_names and reader is not folder:
        raise ValueError(
            f"class_names are for data set 'folder', a folder of yours: {name} has "
            "classes of its own"
        )
    given = (class_names,) if class_names else ()
    found = reader.read(name, data_root, *given)
    return replace(found, name=called(name, data_root))


def class_names(name: str, data_root: str = "") -> tuple[str, ...]:
    """Return a data set's class names; it is read only if they depend on its files."""
    reader = READERS[_checked(name)]
    if reader is imagenet:
        return imagenet.class_names(name)
    known = getattr(reader, "CLASS_NAMES", None)
    return known or read(name, data_root).class_names


def other_classes(name: str, than: str, data_root: str = "") -> str:
    """Describe how a data set's classes differ from those of `than`.

    Returns "" for the same classes, or if one of the two data sets cannot be read.
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


def load(
    name: str,
    data_root: str = "",
    images: int = 0,
    seed: int = 0,
    class_names: str | Sequence = "",
    labelled: bool = True,
) -> Dataset:
    """Load a data set, or a sample of it, without its damaged pictures.

    Each picture is decoded once to check it, which takes a few milliseconds; the cache
    keeps the outcome.

    Args:
        name: one of `names()`.
        data_root: the folder that holds the data sets, see above.
        images: size of a class-balanced sample, 0 for all images. Damaged pictures
            leave the sample and are listed in `skipped`.
        seed: of the sample.
        class_names: see `read`.
        labelled: whether the work needs the label of every image.

    Raises:
        ValueError: unknown name or wrong layout, or unknown labels if `labelled`.
        FileNotFoundError: no such data set here; the message names its web page.
    """
    whole = read(name, data_root, class_names)
    if labelled and (lacking := unlabelled(whole)):
        raise ValueError(
            f"this chapter measures against labels, but {lacking}: give labels by "
            f"folders or in {folder.LABELS_CSV} (columns path,name), or run chapter "
            "08, which works without them (study run NAME --only 08)"
            + "".join(f"\n{line}" for line in without_label(whole))
        )
    return readable(whole.sample(images, seed))


def pool_name(pools: str, dataset: str, first: str) -> str:
    """Return the data set whose images methods learn from before `dataset` is tested.

    Args:
        pools: a name with {} for that of the tested data set, for all that have such a
            pool; or the name of one, the pool of `first`.
        first: the study's first data set.

    Returns "" where there is none.
    """
    if "{}" not in pools:
        return pools if dataset == first else ""
    name = pools.replace("{}", dataset)
    return name if name in READERS else ""


def unlabelled(dataset: Dataset) -> str:
    """Say how many images have no label; "" where all have one."""
    count = int((~dataset.labelled).sum())
    if not count:
        return ""
    have = "has" if count == 1 else "have"
    return f"{count:,} of the {len(dataset):,} images of {dataset.name} {have} no label"


def without_label(dataset: Dataset) -> list[str]:
    """Say which images have no label, and the cure; see `folder.without_label`."""
    return folder.without_label(dataset) if unlabelled(dataset) else []


def _checked(name: str) -> str:
    if name not in READERS:
        raise ValueError(
            f"unknown data set {name!r}{closest(name, READERS)}: choose one of "
            f"{', '.join(READERS)}"
        )
    return name
