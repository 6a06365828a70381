"""Features of all views of all images, encoded once and memory-mapped when read.

An image's views come from the image's own generator and are batched only with each
other. So its features do not depend, to the bit, on other images, their order or the
number of threads. Two processes take the missing images in different orders and skip
those that the other has made. Workers (`helpers.parallel`) make spans of images, and
the calling process writes the rows; a killed run loses the spans at work.

`Rows` keeps them in two files of fixed size:

    features   float16 [N, V, D], row n the views of image n
    marks      a record per row: the seconds it took, and a checksum of both

A row counts as made if its checksum is right. This rule covers rows not reached yet
(the files start as holes, which read as zeros), a run killed in the middle of a row,
damaged files, and two processes that fill one folder: both write the same bytes.

Why no library: npy files have no checksums, HDF5 files take one writer at a time, and
zarr, which has a file per chunk, cannot map all rows as one array.

float16 moves logits at scale 100 by 0.01 at most (0.0095 is the most among 163,840 of
the embedded model's, D = 128; wider embeddings move less: 0.005 at 512, 0.003 at 1024).
"""

import math
import random
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from helpers import parallel
from helpers import views as recipes
from helpers.data.dataset import Dataset
from helpers.files import enough_room
from helpers.keys import folder
from helpers.models.clip import Backbone
from helpers.progress import track

BATCH = 64  # views that the encoder takes at once
PREFETCHED = 8  # images whose views may wait for it: 77 MB at 64 views of 224 x 224
SPAN = 32  # images that a worker does in one go
MARK = np.dtype([("seconds", "<f4"), ("checksum", "<u4")])


@dataclass(frozen=True)
class Rows:
    """Features [N, V, D] in a folder, a row per image, each with its mark."""

    folder: Path
    shape: tuple[int, int, int]

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * self.shape[2] * np.dtype(np.float16).itemsize

    @property
    def _files(self) -> dict[Path, int]:
        """Each file, and how many bytes of it belong to a row."""
        sizes = {"features": self.row_bytes, "marks": MARK.itemsize}
        return {self.folder / name: size for name, size in sizes.items()}

    def missing(self, among: Iterable[int] | None = None) -> list[int]:
        """The rows, of all or of these, not made yet; creates the files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, size in self._files.items():
            with path.open("ab") as file:
                file.truncate(self.shape[0] * size)
        asked = range(self.shape[0]) if among is None else among
        return [n for n in asked if not self.made(n)]

    def made(self, n: int) -> bool:
        """Whether row n is whole."""
        row, mark = (_read(path, n * size, size) for path, size in self._files.items())
        seconds, checksum = np.frombuffer(mark, MARK)[0]
        return checksum == _checksum(row, seconds)

    def check_room(self, rows: int) -> None:
        """Raise OSError if the disk has no room for so many more rows."""
        needed, free = rows * self.row_bytes, shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"{self.folder} needs {needed / 1e6:,.0f} MB for the features of all "
                f"views and has {free / 1e6:,.0f} MB free: make room, name another "
                "folder in STUDY_CACHE, or take fewer views or images"
            )

    def write(self, n: int, features: Tensor, seconds: float) -> None:
        """Write row n, [V, D], then its mark.

        On a full disk a file write raises; a write into a mapped file would kill the
        process.
        """
        row = features.half().numpy().tobytes()
        mark = np.array((seconds, _checksum(row, seconds)), MARK).tobytes()
        for (path, size), content in zip(self._files.items(), (row, mark), strict=True):
            with enough_room(path), path.open("r+b") as file:
                file.seek(n * size)
                file.write(content)

    def features(self) -> Tensor:
        """All rows as one tensor, mapped copy-on-write."""
        path, numbers = str(self.folder / "features"), math.prod(self.shape)
        flat = torch.from_file(path, shared=False, size=numbers, dtype=torch.float16)
        return flat.view(self.shape)

    def seconds(self) -> np.ndarray:
        """Seconds of each row, float32 [N], 0 if not made; [0] without a file."""
        path = self.folder / "marks"
        marks = np.fromfile(path, MARK) if path.is_file() else np.zeros(0, MARK)
        return marks["seconds"]


def view_features(
    backbone: Backbone,
    dataset: Dataset,
    views: str = "preaugment",
    count: int = 64,
    seed: int = 0,
) -> Tensor:
    """Unit features of `count` views of every image, float16 [N, V, D] on the CPU.

    Rows are in the order of `dataset.ids`; view 0 is the original image. The tensor is
    a memory map: only accessed parts are read, and changes are not written to disk.

    Args:
        views: a recipe of `helpers.views.VIEWS`.

    Raises:
        ValueError: unknown views, or a count below 1.
        OSError: the disk has no room for the missing rows; raised before encoding.
    """
    return _filled(backbone, dataset, views, range(count), seed).features()


def chunk_features(
    backbone: Backbone,
    dataset: Dataset,
    views: str,
    span: range,
    images: Sequence[int],
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Unit features of the views of a span, of some images, and what they took.

    Pixels are those that `view_features` encodes as views of these numbers. Its
    features differ by rounding, since a chunk is encoded on its own; a chunk's are the
    same whichever images are asked for. A folder holds a chunk of the whole data set,
    with holes where it was never asked for.

    Args:
        span: numbers of views, say range(8, 16); 0 is the original image.
        images: positions in the data set.

    Returns:
        float16 [n, len(span), D] on the CPU, in the order of `images`, and seconds
        float32 [n], wall clock, to read, draw and encode them when they were made.
    """
    rows = _filled(backbone, dataset, views, span, seed, images)
    at = torch.as_tensor(images, dtype=torch.int64)
    return rows.features()[at], torch.from_numpy(rows.seconds())[at]


def draw(
    backbone: Backbone,
    image: Image,
    image_id: str,
    views: str,
    count: int,
    seed: int = 0,
    start: int = 0,
) -> Tensor:
    """Views uint8 [V - start, 3, S, S] of an image, from the generator of its id."""
    generator = np.random.default_rng(recipes.image_seed(seed, image_id))
    size, crop = backbone.image_size, backbone.crop
    return recipes.make(views, image, count, size, generator, crop, start=start)


def encode(backbone: Backbone, drawn: Tensor) -> Tensor:
    """Features float16 [V, D] on the CPU of views uint8 [V, 3, S, S]."""
    features = [
        backbone.encode_images(backbone.normalise(part.to(backbone.device)))
        for part in drawn.split(BATCH)
    ]
    return torch.cat(features).cpu().half()


def _filled(
    backbone: Backbone,
    dataset: Dataset,
    views: str,
    span: range,
    seed: int,
    images: Sequence[int] | None = None,
) -> Rows:
    """The rows of these arguments with those of the images made; by default of all."""
    rows = _rows(backbone, dataset, views, span, seed)
    if missing := rows.missing(images):
        rows.check_room(len(missing))
        random.Random().shuffle(missing)  # two processes share the work
        numbered = f"views {span.start} to {span.stop - 1}"
        which = numbered if span.start else f"{span.stop} views"
        label = f"encoding {which} of {dataset.name} with {backbone.name}"
        print(
            f"{label}: {len(missing):,} of {len(dataset):,} images to go, "
            f"{len(missing) * rows.row_bytes / 1e6:,.1f} MB on disk"
        )
        maker = _Maker(backbone, dataset, views, recipes.VIEWS[views], span, seed)
        for n, features, seconds in _made(maker, missing, rows, label):
            if features is not None:
                rows.write(n, features, seconds)
    return rows


def _rows(
    backbone: Backbone, dataset: Dataset, views: str, span: range, seed: int
) -> Rows:
    """The rows of these arguments; reads no image and writes nothing."""
    if views not in recipes.VIEWS:
        choices = ", ".join(recipes.VIEWS)
        raise ValueError(f"unknown views {views!r}: choose one of {choices}")
    if not span:
        raise ValueError(f"{len(span)} views: the original counts as one, so 1 or more")
    numbers = [span.start, span.stop] if span.start else span.stop
    recipe = views, recipes.VERSION[views], numbers, seed, backbone.image_size
    where = folder("views", backbone.key, dataset.key, recipe)
    return Rows(where, (len(dataset), len(span), backbone.embed_dim))


Made = tuple[int, Tensor | None, float]
"""An image's position, its features float16 [V, D] unless skipped, its seconds."""


@dataclass(frozen=True)
class _Maker:
    """Makes features of images, in this process or a worker; writes nothing."""

    backbone: Backbone
    dataset: Dataset
    views: str
    recipe: Callable
    span: range
    seed: int

    def draw(self, n: int) -> Tensor:
        """The span's views of image n, uint8 [V, 3, S, S]."""
        recipes.VIEWS[self.views] = self.recipe  # a notebook's own, on a worker
        image, image_id = self.dataset.image(n), self.dataset.ids[n]
        how = self.views, self.span.stop, self.seed, self.span.start
        return draw(self.backbone, image, image_id, *how)

    def made(
        self, positions: Sequence[int], skip: Callable[[int], bool]
    ) -> Iterator[Made]:
        """Images in their order, without features where `skip(n)` is true."""

        def unless_skipped(n: int) -> Tensor | None:
            return None if skip(n) else self.draw(n)

        began = time.perf_counter()
        for n, drawn in parallel.prefetch(unless_skipped, positions, PREFETCHED):
            features = None if drawn is None else encode(self.backbone, drawn)
            yield n, features, time.perf_counter() - began
            began = time.perf_counter()


def _made(
    maker: _Maker, missing: Sequence[int], rows: Rows, label: str
) -> Iterator[Made]:
    """The missing images, made in this process or by workers."""
    if not parallel.active():
        # Skip what another process has made in the meantime.
        yield from track(maker.made(missing, rows.made), len(missing), label)
        return

    def work(span: range) -> list[Made]:
        positions = missing[span.start : span.stop]
        return list(maker.made(positions, skip=lambda n: False))

    starts = range(0, len(missing), SPAN)
    spans = [range(start, min(start + SPAN, len(missing))) for start in starts]
    for _, made in parallel.spread(work, spans, label):
        yield from made


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _checksum(row: bytes, seconds: float) -> int:
    return zlib.crc32(np.float32(seconds).tobytes(), zlib.crc32(row))
