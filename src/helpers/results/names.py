"""What readers see for a data set; parameters and files keep its code."""

import re

DRAWN = {
    "picto": "ordinary pictures",
    "picto-a": "small or off-centre objects",
    "picto-s": "sketches",
    "picto-r": "other styles",
    "picto-c": "damaged images",
    "picto-o": "odd places and colours",
    "picto-dev": "development pictures",
    "picto-few-shot": "labelled pictures",
}
"""What each data set of the embedded world shows; the dev set has a little of each."""

NAMES = {f"{code}-unlabelled": f"unlabelled {name}" for code, name in DRAWN.items()}
NAMES |= DRAWN | {
    "imagenet": "ImageNet",
    "imagenet-a": "ImageNet-A",
    "imagenet-r": "ImageNet-R",
    "imagenet-v2": "ImageNet-V2",
    "imagenet-sketch": "ImageNet-Sketch",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "eurosat": "EuroSAT",
    "dtd": "DTD",
    "flowers102": "Flowers-102",
    "food101": "Food-101",
    "oxford-iiit-pet": "Oxford-IIIT Pet",
}
_CELL = re.compile(r"(<t[dh]\b[^>]*>\s*)([^<>]+?)(?=\s*</t[dh]>)")


def named(text: str) -> str:
    """ "sketches" for picto-s; what is no data set's code, a folder's name, stays.

    In several names, joined by ", ", each has its turn.
    """
    return ", ".join(NAMES.get(part, part) for part in text.split(", "))


def kind(dataset: str) -> str:
    """The name with the code that parameters take: "sketches (picto-s)"."""
    return f"{named(dataset)} ({dataset})" if dataset in DRAWN else named(dataset)


def in_cells(markup: str) -> str:
    """A table in HTML, with names where a cell holds data sets' codes and no more.

    A study may be called like a data set: say "study picto" in such a table.
    """

    def readable(cell: re.Match) -> str:
        text = "data set" if cell[2] == "dataset" else cell[2]
        return cell[1] + named(text)

    return _CELL.sub(readable, markup)
