"""Picto, the world that is drawn on demand: no files, nothing to download.

`facts` tell what each picture shows (style, place, corruption, ...), for tables by
cause; those of picto-dev also its part.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image

from helpers.data.dataset import Dataset, Info
from picto.scenes import Scene
from picto.splits import CLASS_NAMES, DEV_PARTS, SPLITS, facts, image, picture, scene

# Data set -> split: the test sets by their own names, and what methods may learn from.
OFFERED = {name: name for name in SPLITS if name.startswith("picto")}
OFFERED |= {"picto-few-shot": "few-shot"}
OFFERED |= {  # such as picto-s-unlabelled, drawn like picto-s
    f"picto{split.removeprefix('unlabelled')}-unlabelled": split
    for split in SPLITS
    if split.startswith("unlabelled")
}

CACHED_IMAGES = 4096  # 50 MB; the largest test split fits, for the next backbone

INFO = {
    name: Info(
        page="",
        megabytes=0,
        layout=f"nothing to do: {SPLITS[split].about}, drawn on demand",
        images=SPLITS[split].count or 0,
        classes=len(CLASS_NAMES),
    )
    for name, split in OFFERED.items()
}


def read(name: str, data_root: str) -> Dataset:
    """Return one of the splits; `data_root` is not used."""
    split = OFFERED[name]
    indices = range(SPLITS[split].size)
    shown = facts(split, indices)
    if split == "picto-dev":
        shown["part"] = [DEV_PARTS[i % len(DEV_PARTS)] for i in indices]
    return Dataset(
        name=name,
        ids=tuple(f"{name}/{i:05d}" for i in indices),
        labels=shown["class_name"].map(CLASS_NAMES.index).to_numpy(),
        class_names=CLASS_NAMES,
        read=_Drawn(split),
        facts=shown,
    )


def strange(weights: str, names: Iterable[str]) -> str:
    """What to know where the embedded CLIPs get data sets of other pictures, or ""."""
    if weights != "picto" or set(names) <= set(OFFERED):
        return ""
    return (
        f"the weights picto know drawn pictures of {len(CLASS_NAMES)} classes only; "
        "for photographs say -p backbone ViT-B-32-quickgelu -p weights openai"
    )


def redrawn(
    name: str, positions: Sequence[int], changes: Sequence[Mapping], what: str
) -> Dataset:
    """Draw the scenes at these positions of a data set again, each with its changes.

    Ids stay those of the unchanged pictures, so that random views of a picture are the
    same crops at every dose.

    Args:
        name: one of `OFFERED`.
        changes: for each position, values of attributes of `picto.scenes.Scene`.
        what: the doses in words; they end the name of the new data set.

    Raises ValueError for another name, or unless there are as many changes as
    positions.
    """
    if name not in OFFERED:
        known = ", ".join(OFFERED)
        raise ValueError(f"{name!r} has no scenes to draw again: choose one of {known}")
    scenes = tuple(
        replace(scene(OFFERED[name], i), **change)
        for i, change in zip(positions, changes, strict=True)
    )
    return Dataset(
        name=f"{name}, {what}",
        ids=tuple(f"{name}/{i:05d}" for i in positions),
        labels=np.array([of.label for of in scenes]),
        class_names=CLASS_NAMES,
        read=_Scenes(scenes),
    )


def world_hash() -> str:
    """Return a short hash of the pictures and captions of the world."""
    from picto.pool import world_hash  # it imports torch

    return world_hash()


@dataclass(frozen=True)
class _Drawn:
    """`read` of a split: draws the scene at a position."""

    split: str

    def __call__(self, position: int) -> Image.Image:
        return Image.fromarray(_drawn(self.split, position))


@dataclass(frozen=True)
class _Scenes:
    """`read` of scenes that are in no split."""

    scenes: tuple[Scene, ...]

    def __call__(self, position: int) -> Image.Image:
        return Image.fromarray(picture(self.scenes[position]))


_drawn = lru_cache(CACHED_IMAGES)(image)
