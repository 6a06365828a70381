"""What a data set is here: stable ids, pictures, labels and class names.

Pictures stay where they are (files, an array, a renderer) until `image(i)` asks for
one. Every picture becomes RGB the same way, whatever it was stored as: see `to_rgb`.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

# What a file may hold, whatever its suffix says. Pillow opens more, some of it with
# the help of programs: an EPS file is handed to Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")


@dataclass(frozen=True)
class Info:
    """What there is to know about a data set before it is on disk.

    `page` is its official address, `megabytes` the size of its download (0: nothing to
    download), `layout` where the reader expects it under `data_root`. `images` and
    `classes` are the official counts; 0 where they are not fixed.
    """

    page: str
    megabytes: int
    layout: str
    images: int
    classes: int


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled pictures in a fixed order.

    `name` is what results call the set, see `helpers.data.called`. `ids` are unique and
    define the order; `labels` int64 [N] index `class_names`;
    `read(i)` gives picture i as a PIL image of any mode and size. `templates` names the
    usual prompt templates (a key of `helpers.prompts.templates.TEMPLATES`). `facts` has
    a row per id where more than the label is known. `skipped` lists, with the reason,
    every file that the reader left out. `files` says where the pictures lie, and is
    empty for sets that have no picture files.
    """

    name: str
    ids: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    read: Callable[[int], Image.Image]
    templates: str = "openai_7"
    facts: pd.DataFrame | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels, dtype=np.int64)
        object.__setattr__(self, "labels", labels)
        if not self.ids:
            raise ValueError(f"data set {self.name!r} has no images")
        if len(self.class_names) < 2:
            raise ValueError(
                f"data set {self.name!r} has {len(self.class_names)} class, "
                "but telling classes apart takes at least two"
            )
        if len(set(self.ids)) != len(self.ids):
            raise ValueError(f"data set {self.name!r} has image ids that occur twice")
        for field in ("labels", "facts", "files"):
            values = getattr(self, field)
            if values is not None and len(values) not in (len(self), 0):
                raise ValueError(
                    f"data set {self.name!r}: {len(values)} {field} for "
                    f"{len(self)} image ids"
                )
        if labels.ndim != 1 or len(labels) != len(self):
            raise ValueError(f"data set {self.name!r}: labels must be one per image")
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise ValueError(
                f"data set {self.name!r}: labels run from {labels.min()} to "
                f"{labels.max()}, but there are {len(self.class_names)} class names"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, position: int) -> Image.Image:
        """Picture at this position as RGB."""
        return to_rgb(self.read(position))

    def subset(self, positions: Sequence[int]) -> "Dataset":
        """The pictures at these positions, in this order; classes stay as they are."""
        chosen = np.asarray(positions, dtype=np.int64)
        facts = self.facts
        return replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            labels=self.labels[chosen],
            read=_Picked(self.read, chosen),
            facts=None if facts is None else facts.iloc[chosen].reset_index(drop=True),
            files=tuple(self.files[i] for i in chosen) if self.files else (),
        )

    def sample(self, n: int, seed: int = 0) -> "Dataset":
        """`n` pictures, spread over the classes as evenly as their sizes allow.

        0, or as many as there are, gives the whole set. The same (n, seed) gives the
        same pictures, a smaller n a part of them; the order of ids is kept.
        """
        if n < 0:
            raise ValueError(f"images must be 0 (all) or more, not {n}")
        if n == 0 or n >= len(self):
            return self
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(self))
        # Round r takes the r-th picture of every class; ties keep the shuffled order.
        rounds = pd.Series(self.labels[shuffled]).groupby(self.labels[shuffled])
        order = np.argsort(rounds.cumcount().to_numpy(), kind="stable")
        return self.subset(np.sort(shuffled[order[:n]]).tolist())

    @cached_property
    def fingerprint(self) -> str:
        """Hash that names what is computed from this data set; cheap.

        It covers name, ids, labels and class names, and of the pictures: the sizes of
        all files, or, where there are no files, the pixels of 16 spread over the set
        (so that a renderer that draws differently counts as other data). A file
        replaced by one of exactly as many bytes goes unnoticed.
        """
        digest = hashlib.sha256()
        for texts in ((self.name,), self.class_names, self.ids):
            digest.update("\0".join(texts).encode() + b"\1")
        digest.update(self.labels.astype("<i8").tobytes())
        if self.files:
            sizes = [os.stat(path).st_size for path in self.files]
            digest.update(np.asarray(sizes, dtype="<i8").tobytes())
        else:
            for position in range(0, len(self), max(1, len(self) // 16)):
                digest.update(self.image(position).tobytes())
        return digest.hexdigest()[:16]


class UnreadableImage(ValueError):
    """A picture that cannot be decoded."""


class DamagedNotes(UserWarning):
    """A picture whose notes cannot be read, and so not which side of it is up."""


warnings.filterwarnings("ignore", category=DamagedNotes)  # `integrity` tells of it


@dataclass(frozen=True)
class Files:
    """`read` of a data set of picture files: position -> decoded PIL image.

    With `upright` a picture is turned as its EXIF orientation says. torchvision's
    `ImageFolder`, on which published ImageNet numbers rest, does not turn it.
    """

    paths: tuple[Path, ...]
    upright: bool

    def __call__(self, position: int) -> Image.Image:
        return open_image(self.paths[position], self.upright)


@dataclass(frozen=True)
class Pixels:
    """`read` of a data set in memory: uint8 [N, H, W] grey or [N, H, W, 3] RGB."""

    array: np.ndarray

    def __call__(self, position: int) -> Image.Image:
        return Image.fromarray(self.array[position])


@dataclass(frozen=True)
class _Picked:
    """`read` of a subset. A class, not a closure, so that loader processes take it."""

    read: Callable[[int], Image.Image]
    positions: np.ndarray

    def __call__(self, position: int) -> Image.Image:
        return self.read(int(self.positions[position]))


def open_image(path: Path, upright: bool, reduced: bool = False) -> Image.Image:
    """Decode a picture file, the first frame of an animated one.

    `reduced` decodes a JPEG at an eighth of its size: enough to know that it can be
    decoded. Raises `UnreadableImage` naming the file.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if reduced:
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
            return _turned(image) if upright else image
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise UnreadableImage(
            f"cannot decode {path}: {error}. `study doctor NAME` lists all damaged "
            "files of a study, and helpers.data.load leaves them out"
        ) from error


def _turned(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # sound pixels all the same: take them as they lie
        warnings.warn(DamagedNotes(str(error)), stacklevel=2)
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as RGB, 8 bits a channel.

    Transparent pictures are laid on white. 16-bit grey is scaled, 65535 to 255, where
    Pillow's own conversion would clip. Floats and 32-bit integers have no known range
    and raise `UnreadableImage`.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UnreadableImage(
                "32-bit pixel values have no known range: save as 8 or 16 bits"
            )
        image = Image.fromarray(np.rint(pixels / 257).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadableImage("float pixel values have no known range: save as 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
