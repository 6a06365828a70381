"""The splits of the world: their scenes and pictures.

Scene i of a split is a function of the split's name and i alone. So no picture is
stored: each can be drawn again, in any order, on any machine.
"""

import dataclasses
import functools
import hashlib
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from picto.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from picto.drawing import SIDE
from picto.render import contrast, object_mask, render
from picto.scenes import HARD, Scene, sample
from picto.shapes import CLASSES
from picto.styles import STYLES, training_shares

CLASS_NAMES: tuple[str, ...] = tuple(sorted(CLASSES))

SHOTS = 16
RENDITIONS = tuple(name for name in STYLES if name not in ("photo", "sketch"))
KEPT = Path(__file__).parent / "assets" / "picto_a.json"

# Conditions for a hard scene that a person can solve
LEAST_AREA = 120.0  # visible pixels of the object
LEAST_CONTRAST = 20.0  # grey levels between the object and its surroundings
MOST_HIDDEN = 0.5  # share of the object behind the occluder
HARD_ODD = 0.25  # share of hard scenes with untypical context and colours

FACTS = (
    "class_name",
    "style",
    "context",
    "colour",
    "typical",
    "scale",
    "rotation",
    "occluded",
    "clutter",
    "light",
    "quality",
    "cropped",
    "corruption",
    "severity",
)


@dataclasses.dataclass(frozen=True)
class Split:
    """A named sequence of scenes."""

    name: str
    count: int | None  # None: the scenes that the filter network selected
    about: str
    make: Callable[[int], Scene]
    endless: bool = False  # there are scenes at any index

    @property
    def size(self) -> int:
        """Number of scenes."""
        return len(kept(self.name)) if self.count is None else self.count


def scene(split: str, index: int) -> Scene:
    """Return scene `index` of a split; ValueError for an unknown split or index."""
    found = _split(split)
    if index < 0 or (index >= found.size and not found.endless):
        raise ValueError(f"{split} has scenes 0 to {found.size - 1}, not {index}")
    return found.make(int(index))


def image(split: str, index: int) -> np.ndarray:
    """Draw the picture of a split's scene, with its corruption: uint8 [64, 64, 3]."""
    return picture(scene(split, index))


def images(split: str, indices: Iterable[int]) -> np.ndarray:
    """Draw the pictures of many scenes of a split: uint8 [N, 64, 64, 3]."""
    pictures = [image(split, i) for i in indices]
    return np.stack(pictures) if pictures else np.empty((0, SIDE, SIDE, 3), np.uint8)


def picture(of: Scene) -> np.ndarray:
    """Render a scene and apply its corruption, if it has one: uint8 [64, 64, 3]."""
    pixels = render(of)
    if of.corruption:
        pixels = corrupt(pixels, of.corruption, of.severity, of.seed)
    return pixels


def facts(split: str, indices: Iterable[int]) -> pd.DataFrame:
    """Return the attributes of scenes, a row per index, with the columns `FACTS`."""
    scenes = [scene(split, i) for i in indices]
    rows = [[getattr(s, name) for name in FACTS] for s in scenes]
    return pd.DataFrame(rows, columns=list(FACTS))


def _split(name: str) -> Split:
    if name not in SPLITS:
        raise ValueError(f"unknown split {name!r}; choose one of {', '.join(SPLITS)}")
    return SPLITS[name]


def _stream(split: str, index: int, attempt: int = 0) -> random.Random:
    """The scene's random stream, from a hash that all Python versions share."""
    text = f"picto/{split}/{index}/{attempt}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest))


def _balanced(split: str, index: int, kinds: int = 1, **how: object) -> Scene:
    """A scene of one of several kinds in turn; labels cycle within each kind."""
    kind, turn = index % kinds, index // kinds
    label = (turn + 11 * kind) % len(CLASS_NAMES)
    rng = _stream(split, index)
    name = CLASS_NAMES[label]
    return sample(rng, name, label=label, split=split, index=index, **how)


def _train(index: int) -> Scene:
    rng = _stream("train", index)
    shares = training_shares()
    style = rng.choices(tuple(shares), tuple(shares.values()))[0]
    label = rng.randrange(len(CLASS_NAMES))
    return sample(
        rng, CLASS_NAMES[label], style=style, label=label, split="train", index=index
    )


def _rendition(split: str, index: int) -> Scene:
    kinds = len(RENDITIONS)
    return _balanced(split, index, kinds, style=RENDITIONS[index % kinds])


def _corrupted(split: str, index: int) -> Scene:
    cells = [(kind, severity) for severity in SEVERITIES for kind in CORRUPTIONS]
    kind, severity = cells[index % len(cells)]
    clean = _balanced(split, index, len(cells))
    return dataclasses.replace(clean, corruption=kind, severity=severity)


def _hard(split: str, index: int, label: int, attempt: int) -> Scene:
    """The hard scene of an attempt, solvable or not."""
    rng = _stream(split, index, attempt)
    return sample(
        rng,
        CLASS_NAMES[label],
        odd=rng.random() < HARD_ODD,
        nuisance=HARD,
        label=label,
        split=split,
        index=index,
    )


@functools.lru_cache(maxsize=20_000)
def solvable_attempt(split: str, index: int, label: int) -> int:
    """Return the first attempt that makes a solvable hard scene."""
    for attempt in range(1000):
        if solvable(_hard(split, index, label, attempt)):
            return attempt
    raise RuntimeError(f"no solvable scene for {split}/{index}; relax the floor")


def _solvable(split: str, index: int, label: int) -> Scene:
    return _hard(split, index, label, solvable_attempt(split, index, label))


def solvable(of: Scene) -> bool:
    """Whether enough of the object is visible, with enough contrast."""
    mask = object_mask(of)
    area = mask.sum()
    if area <= LEAST_AREA:
        return False
    if of.occluded:
        whole = object_mask(dataclasses.replace(of, occluded=False)).sum()
        if area <= (1 - MOST_HIDDEN) * whole:
            return False
    return contrast(render(of), mask) > LEAST_CONTRAST


def _pool(index: int) -> Scene:
    return _solvable("hard-pool", index, index % len(CLASS_NAMES))


def _adversarial(split: str, index: int) -> Scene:
    source, attempt = kept(split)[index]
    found = _hard("hard-pool", source, source % len(CLASS_NAMES), attempt)
    return dataclasses.replace(found, split=split, index=index)


@functools.cache
def kept(split: str = "picto-a") -> tuple[tuple[int, int], ...]:
    """Return index and solvable attempt of the scenes of `hard-pool` in a split.

    Raises FileNotFoundError if no filter network has selected them yet.
    """
    if not KEPT.is_file():
        raise FileNotFoundError(
            f"{KEPT} is missing; `study train picto-filter` chooses picto-a's scenes"
        )
    scenes = json.loads(KEPT.read_text())["scenes"][split]
    return tuple((i, attempt) for i, attempt in scenes)


DEV_PARTS = ("photo", "odd", "sketch", "rendition", "corruption", "hard")


def _dev(index: int) -> Scene:
    split, kinds = "picto-dev", len(DEV_PARTS)
    turn = index // kinds
    match DEV_PARTS[index % kinds]:
        case "photo":
            return _balanced(split, index, kinds)
        case "odd":
            return _balanced(split, index, kinds, odd=True)
        case "sketch":
            return _balanced(split, index, kinds, style="sketch")
        case "rendition":
            style = RENDITIONS[turn % len(RENDITIONS)]
            return _balanced(split, index, kinds, style=style)
        case "corruption":
            kind = tuple(CORRUPTIONS)[turn % len(CORRUPTIONS)]
            severity = SEVERITIES[turn % len(SEVERITIES)]
            clean = _balanced(split, index, kinds)
            return dataclasses.replace(clean, corruption=kind, severity=severity)
        case _:
            return _solvable(split, index, turn % len(CLASS_NAMES))


def _splits() -> dict[str, Split]:
    few_shot = SHOTS * len(CLASS_NAMES)

    def drawn(
        name: str, count: int | None, about: str, make: Callable, **how: object
    ) -> Split:
        return Split(name, count, about, functools.partial(make, name, **how))

    photos = functools.partial(drawn, make=_balanced)
    splits = (
        Split(
            "train",
            40_000,
            "all styles but six; captions; more past its size",
            _train,
            True,
        ),
        photos("few-shot", few_shot, f"{SHOTS} labelled photos per class"),
        photos("picto", 2_000, "photos like those of training"),
        photos("picto-o", 2_000, "photos in odd places and colours", odd=True),
        photos("picto-s", 2_000, "sketches", style="sketch"),
        drawn("picto-r", 2_400, "renditions, half in unseen styles", make=_rendition),
        drawn("picto-c", 3_000, "six corruptions at five severities", make=_corrupted),
        Split("hard-pool", 20_000, "hard photos that a person can solve", _pool),
        drawn(
            "picto-a",
            None,
            "hard photos that a filter network got wrong",
            make=_adversarial,
        ),
        # Like the test sets, in their order; nobody reads their labels.
        photos("unlabelled", 6_000, "more photos to learn from"),
        photos("unlabelled-o", 2_000, "more photos in odd places", odd=True),
        photos("unlabelled-s", 2_000, "more sketches", style="sketch"),
        drawn("unlabelled-r", 2_400, "more renditions", make=_rendition),
        drawn("unlabelled-c", 3_000, "more corruptions", make=_corrupted),
        drawn("unlabelled-a", None, "more such hard photos", make=_adversarial),
        Split("picto-dev", 2_000, "a little of each, for every choice", _dev),
    )
    return {split.name: split for split in splits}


SPLITS: dict[str, Split] = _splits()
