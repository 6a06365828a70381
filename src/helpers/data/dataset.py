"""A data set: stable image ids, pictures, labels and class names.

`image(i)` reads or draws picture i when it is needed. `to_rgb` converts every picture
to RGB in the same way.

A damaged file must neither end a run after an hour nor change which pictures a later
method sees. So `readable` decodes all picture files in threads before work starts, and
leaves out the damaged ones. CACHE/verified/ keeps path, size and modification time of
sound files, which are decoded again only when they change.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from helpers.data.naming import Classes, flat
from helpers.files import read_object, replacing
from helpers.keys import key, state
from helpers.paths import CACHE
from helpers.progress import track

UNKNOWN = -1  # the label of an image that has none
# Formats that are read, whatever a file's suffix. Pillow would open more, and run other
# programs for some: Ghostscript for EPS.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
SHOWN_FROM = 1000  # files; fewer are checked before a bar would help
# Aspect ratio. CLIP resizes the short side to 224 pixels, which makes 3 billion pixels
# of a picture of 1 x 60,000.
LONGEST = 200


@dataclass(frozen=True)
class Info:
    """What is known about a data set before it is on disk.

    `page` is its official web page, `megabytes` the size of its download (0: no
    download), `layout` where the reader expects it under `data_root`. `images` and
    `classes` are the official counts; 0 if they are not fixed.
    """

    page: str
    megabytes: int
    layout: str
    images: int
    classes: int


def official(names: Iterable[str]) -> dict[str, Info]:
    """What `official.csv` says of these data sets, by name."""
    path = Path(__file__).with_name("official.csv")
    known = pd.read_csv(path, index_col="name").to_dict("index")
    return {name: Info(**known[name]) for name in names}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures in a fixed order, with labels where they are known.

    Args:
        name: the name in results, see `helpers.data.called`.
        ids: unique image ids, in the order of the data set.
        labels: int64 [N], indices of `class_names`, -1 where unknown.
        class_names: at least two.
        read: gives picture i as a PIL image of any mode and size.
        facts: a row per image if more than its label is known.
        skipped: (file, reason) of every file that the reader left out.
        files: picture files, one per image; empty if the pictures are no files.
        names: all names of each class, that of `class_names` first; empty if each
            class has one name.
        shows_none: ids of images without a label of which a person has said that they
            show none of the classes.

    Raises ValueError if lengths, ids or labels contradict each other.
    """

    name: str
    ids: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    read: Callable[[int], Image.Image]
    facts: pd.DataFrame | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    files: tuple[Path, ...] = ()
    names: Classes = ()
    shows_none: tuple[str, ...] = ()

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
        parts = {"labels": labels, "facts": self.facts, "files": self.files or None}
        for field, values in parts.items():
            if values is not None and len(values) != len(self):
                raise ValueError(
                    f"data set {self.name!r}: {len(values)} {field} for "
                    f"{len(self)} image ids"
                )
        if labels.min() < UNKNOWN or labels.max() >= len(self.class_names):
            raise ValueError(
                f"data set {self.name!r}: labels run from {labels.min()} to "
                f"{labels.max()}, but there are {len(self.class_names)} class names"
            )
        if self.names and tuple(own[0] for own in self.names) != self.class_names:
            raise ValueError(f"data set {self.name!r}: names must begin as class_names")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> np.ndarray:
        """Whether the label of each image is known: bool [N]."""
        return self.labels != UNKNOWN

    @property
    def looked_at(self) -> np.ndarray:
        """Whether somebody has said what an image shows, a class or none: bool [N]."""
        return self.labelled | np.isin(self.ids, self.shows_none)

    @property
    def every_name(self) -> tuple[tuple[str, ...], np.ndarray]:
        """All K names of classes, and the class of each: int64 [K]."""
        return flat(self.names or [(name,) for name in self.class_names])

    def image(self, position: int) -> Image.Image:
        """Return the picture at this position as RGB."""
        return to_rgb(self.read(position))

    def subset(self, positions: Sequence[int]) -> "Dataset":
        """Return the pictures at these positions, in this order, with all classes."""
        chosen = np.asarray(positions, dtype=np.int64)
        facts, none = self.facts, {*self.shows_none}
        return replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            labels=self.labels[chosen],
            read=_Subset(self.read, chosen),
            facts=None if facts is None else facts.iloc[chosen].reset_index(drop=True),
            files=tuple(self.files[i] for i in chosen) if self.files else (),
            shows_none=tuple(self.ids[i] for i in chosen if self.ids[i] in none),
        )

    def sample(self, n: int, seed: int = 0) -> "Dataset":
        """Draw `n` pictures, spread over the classes as evenly as their sizes allow.

        Where labels are unknown, they are drawn from all pictures alike.
        0, or `len(self)` and more, gives the whole set. The same (n, seed) gives the
        same pictures, a smaller n a subset of them. The order of ids is kept.
        """
        if n < 0:
            raise ValueError(f"images must be 0 (all) or more, not {n}")
        if n == 0 or n >= len(self):
            return self
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(self))
        if not self.labelled.all():
            return self.subset(np.sort(shuffled[:n]).tolist())
        # Round r takes the r-th picture of every class; ties keep the shuffled order.
        rounds = pd.Series(self.labels[shuffled]).groupby(self.labels[shuffled])
        order = np.argsort(rounds.cumcount().to_numpy(), kind="stable")
        return self.subset(np.sort(shuffled[order[:n]]).tolist())

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the data set on any machine, cheap to compute; it names results.

        It covers name, ids, labels, class names, and the sizes of all files. Without
        files it covers the pixels of some pictures. It misses a file replaced by
        another of the same size, which `key` does not.
        """
        sizes = [os.stat(path).st_size for path in self.files]
        names = self.names or self.class_names
        said = [self.shows_none] if self.shows_none else []
        return key(self.name, names, self.ids, self.labels, sizes or self._some, *said)

    @property
    def key(self) -> str:
        """Names what is computed from these pictures, for the store.

        Labels and class names do not count, since a user may add some later. Name, size
        and time of change of every picture file do: one that was edited in place is
        another picture.
        """
        return key(self.name, self.ids, self.files or self._some)

    @cached_property
    def _some(self) -> list[Image.Image]:
        """16 pictures or so of a set without files: renderers may draw differently."""
        return [self.image(i) for i in range(0, len(self), max(1, len(self) // 16))]


class UnreadableImage(ValueError):
    """A picture that cannot be decoded."""


@dataclass(frozen=True)
class Files:
    """`read` of a data set of picture files: position -> decoded PIL image.

    `upright` applies the EXIF orientation. torchvision's `ImageFolder`, which published
    ImageNet numbers rest on, does not apply it.
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
class _Subset:
    """`read` of a subset. A class, since loader processes cannot unpickle a closure."""

    read: Callable[[int], Image.Image]
    positions: np.ndarray

    def __call__(self, position: int) -> Image.Image:
        return self.read(int(self.positions[position]))


def open_image(
    path: Path | BinaryIO, upright: bool, reduced: bool = False
) -> Image.Image:
    """Decode a picture file, also an open one, the first frame of an animated one.

    `reduced` decodes a JPEG at an eighth of its size, which suffices to check it.
    Raises `UnreadableImage`, which names the file.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if reduced:
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
            return _upright(image) if upright else image
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise UnreadableImage(
            f"cannot decode {path}: {error}. `study doctor NAME` lists all damaged "
            "files of a study, and helpers.data.load leaves them out"
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF; the pixels are sound
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL image to RGB with 8 bits per channel.

    Transparent pixels are composited on white. 16-bit grey is scaled from 65535 to 255;
    Pillow would clip it. Raises `UnreadableImage` for floats and 32-bit integers, whose
    range is unknown.
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


def readable(dataset: Dataset) -> Dataset:
    """Leave out damaged pictures and list them in `skipped`.

    Raises ValueError if no picture can be read.
    """
    damaged = dict(verify(dataset))
    if not damaged:
        return dataset
    if len(damaged) == len(dataset):
        first, reason = next(iter(damaged.items()))
        raise ValueError(
            f"none of the {len(dataset)} pictures of {dataset.name} can be read; "
            f"the first is {first}: {reason}"
        )
    kept = [i for i, name in enumerate(dataset.ids) if name not in damaged]
    skipped = (*dataset.skipped, *damaged.items())
    return replace(dataset.subset(kept), skipped=skipped)


def verify(dataset: Dataset) -> list[tuple[str, str]]:
    """Return (id, reason) of every picture file that cannot be decoded, in order."""
    if not dataset.files:
        return []
    # Folders of one name share a record.
    record = CACHE / "verified" / f"{key(dataset.name)}.json"
    sound = {p: s for p, s in read_object(record).items() if isinstance(s, list)}
    states = {str(p): state(p) if p.is_file() else None for p in dataset.files}
    unknown = [
        path for path, now in states.items() if not now or sound.get(path) != now
    ]
    faults = _faults(unknown, f"decoding {dataset.name} once")
    new = {path: states[path] for path in unknown if not faults[path]}
    if new:
        with replacing(record) as temporary:
            temporary.write_text(json.dumps(sound | new), encoding="utf-8")
    return [
        (name, reason)
        for name, path in zip(dataset.ids, dataset.files, strict=True)
        if (reason := faults.get(str(path)))
    ]


def _faults(paths: Sequence[str], label: str) -> dict[str, str]:
    """path -> why it cannot be decoded, or ""."""
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # decoders free the GIL
    try:
        results = pool.map(fault, paths)
        if len(paths) >= SHOWN_FROM:
            results = track(results, len(paths), label)
        return dict(zip(paths, results, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted run stops at once


def fault(path: str | Path) -> str:
    """Why a file cannot be decoded, or ""."""
    try:
        picture = to_rgb(open_image(Path(path), upright=True, reduced=True))
    except UnreadableImage as error:
        return _reason(error.__cause__ or error)
    except FileNotFoundError:
        return "the file is gone"
    short, long = sorted(picture.size)
    if long > LONGEST * short:
        return f"{long} pixels by {short}: a strip, which no CLIP can look at"
    return ""


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no picture, whatever its suffix says"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        return f"over {limit:,.0f} million pixels, more than are read: scale it down"
    return str(error).partition("\n")[0] or type(error).__name__
