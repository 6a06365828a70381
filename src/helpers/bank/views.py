"""Features of all views of all images: drawn and encoded once, mapped when read.

A bank is two files of fixed size, so that N x V x D numbers need no second copy:

    features   float16 [N, V, D], row n the views of image n
    marks      a record per image: the seconds it took, and a checksum of both

An image counts as made where its checksum is right. That one rule covers images that
were never reached (the files start as holes, which read as zeros), a run killed in the
middle of a row, damaged files, and two processes that fill one bank: each takes the
missing images in an order of its own and passes over those that the other has made;
where both make the same one, both write the same bytes.

An image's views come from a generator of its own and are batched with each other only.
So its features depend, to the bit, on no other image, no order and no number of
drawing threads. With workers (`helpers.parallel`) they make spans of images, and the
process that asked for the bank writes the rows; a killed run loses the spans at work.

float16 moves logits at scale 100 by 0.01 at most (0.0095 is the most among 163,840 of
the embedded model's, D = 128; wider embeddings move less: 0.005 at 512, 0.003 at 1024).
"""

import random
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from helpers import parallel
from helpers import views as recipes
from helpers.bank import keys
from helpers.data.dataset import Dataset
from helpers.files import enough_room
from helpers.models.clip import Backbone
from helpers.progress import track

BATCH = 64  # views that the encoder takes at once
DRAWERS = 4  # threads that decode images and draw views while the encoder works
AHEAD = 8  # images whose views may wait for it: 77 MB at 64 views of 224 x 224
SPAN = 32  # images that a worker does in one go
FIRST = 3  # images that tell how long the others will take
MARK = np.dtype([("seconds", "<f4"), ("checksum", "<u4")])


def view_features(
    backbone: Backbone,
    dataset: Dataset,
    views: str = "preaugment",
    count: int = 64,
    seed: int = 0,
) -> Tensor:
    """Unit features of `count` views of every image, float16 [N, V, D] on the CPU.

    Rows are in the order of `dataset.ids`, view 0 is the image as it is, `views` names
    a recipe of `helpers.views.VIEWS`. The tensor is a map of the file: only what is
    touched is read, and what is written into it never reaches the disk. Raises
    ValueError for unknown views or a count below 1, and OSError, before any image is
    encoded, where the disk has no room for what is missing.
    """
    rows = _rows(backbone, dataset, views, count, seed)
    rows.create()
    missing = [n for n in range(len(dataset)) if not rows.made(n)]
    if missing:
        room = len(missing) * rows.row_bytes
        check_room(rows.folder, room)
        random.Random().shuffle(missing)  # two processes share the work
        label = f"encoding {count} views of {dataset.name} with {backbone.name}"
        told = (
            f"{label}: {len(missing):,} of {len(dataset):,} images to go, "
            f"{room / 1e6:,.1f} MB on disk"
        )
        maker = _Maker(backbone, dataset, views, recipes.VIEWS[views], count, seed)
        if parallel.active():
            print(told)
            _spread(rows, maker, missing, label)
        else:
            filled = _fill(rows, maker, missing)
            pace = median(islice(filled, FIRST))  # the very first pays for warming up
            left = max(0, len(missing) - FIRST)
            print(f"{told}, about {left * pace:,.0f} s")
            for _ in track(filled, left, label):
                pass
    return rows.features()


def view_seconds_per_image(
    backbone: Backbone,
    dataset: Dataset,
    views: str = "preaugment",
    count: int = 64,
    seed: int = 0,
) -> float:
    """What all views of an image cost, read, drawn and encoded, when they were made.

    Seconds on the clock, the mean of all images; views are drawn while the encoder is
    at work on others. Raises FileNotFoundError where nothing has been made yet.
    """
    rows = _rows(backbone, dataset, views, count, seed)
    seconds = np.zeros(0)
    if rows.marks_file.is_file():
        seconds = np.fromfile(rows.marks_file, MARK)["seconds"]
    if not seconds.any():
        raise FileNotFoundError(
            f"no views {views!r} of {dataset.name} in {rows.folder}: "
            "make them with bank.view_features"
        )
    return float(seconds[seconds > 0].mean())


@dataclass(frozen=True)
class Rows:
    """The two files of a bank: N rows of features [V, D], each with its mark."""

    folder: Path
    shape: tuple[int, int, int]

    @property
    def features_file(self) -> Path:
        return self.folder / "features"

    @property
    def marks_file(self) -> Path:
        return self.folder / "marks"

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * self.shape[2] * np.dtype(np.float16).itemsize

    def create(self) -> None:
        """Files of the right size; what they hold already stays."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, size in self._sizes():
            with path.open("ab") as file:
                file.truncate(self.shape[0] * size)

    def made(self, n: int) -> bool:
        """Whether row n is whole."""
        row, mark = (_read(path, n * size, size) for path, size in self._sizes())
        seconds, checksum = np.frombuffer(mark, MARK)[0]
        return checksum == _checksum(row, seconds)

    def write(self, n: int, features: Tensor, seconds: float) -> None:
        """Put row n, [V, D], in its place, then its mark.

        By way of file writes: a mapped file on a disk that has become full kills the
        process where a write raises.
        """
        row = features.half().numpy().tobytes()
        mark = np.zeros((), MARK)
        mark["seconds"] = seconds
        mark["checksum"] = _checksum(row, mark["seconds"])
        contents = (row, mark.tobytes())
        for (path, size), content in zip(self._sizes(), contents, strict=True):
            with enough_room(path), path.open("r+b") as file:
                file.seek(n * size)
                file.write(content)

    def features(self) -> Tensor:
        """All rows as one tensor, mapped copy-on-write."""
        numbers = int(np.prod(self.shape))
        path = str(self.features_file)
        flat = torch.from_file(path, shared=False, size=numbers, dtype=torch.float16)
        return flat.view(self.shape)

    def _sizes(self) -> tuple[tuple[Path, int], tuple[Path, int]]:
        """Each file, and how many bytes of it belong to a row."""
        return (
            (self.features_file, self.row_bytes),
            (self.marks_file, MARK.itemsize),
        )


def _rows(
    backbone: Backbone, dataset: Dataset, views: str, count: int, seed: int
) -> Rows:
    """The bank that these arguments name; looks at no picture, writes nothing."""
    if views not in recipes.VIEWS:
        choices = ", ".join(recipes.VIEWS)
        raise ValueError(f"unknown views {views!r}: choose one of {choices}")
    if count < 1:
        raise ValueError(f"{count} views: the original counts as one, so 1 or more")
    recipe = f"{views} {recipes.VERSION[views]}|{count}|{seed}|{backbone.image_size}"
    folder = keys.folder("views", backbone, f"{keys.pictures(dataset)}|{recipe}")
    return Rows(folder, (len(dataset), count, backbone.embed_dim))


def encode(backbone: Backbone, drawn: Tensor) -> Tensor:
    """Features float16 [V, D] on the CPU of views uint8 [V, 3, S, S]."""
    features = [
        backbone.encode_images(backbone.normalise(part.to(backbone.device)))
        for part in drawn.split(BATCH)
    ]
    return torch.cat(features).cpu().half()


@dataclass(frozen=True)
class _Maker:
    """Makes the features of images, here or on a worker; writes nothing."""

    backbone: Backbone
    dataset: Dataset
    views: str
    recipe: Callable
    count: int
    seed: int

    def draw(self, n: int) -> Tensor:
        """All views of image n, uint8 [V, 3, S, S]."""
        recipes.VIEWS[self.views] = self.recipe  # a notebook's own, on a worker
        seed_of_image = recipes.image_seed(self.seed, self.dataset.ids[n])
        generator = np.random.default_rng(seed_of_image)
        size, crop = self.backbone.image_size, self.backbone.crop
        image = self.dataset.image(n)
        return recipes.make(self.views, image, self.count, size, generator, crop)

    def made(
        self, positions: Sequence[int], needless: Callable[[int], bool]
    ) -> Iterator[tuple[int, Tensor | None, float]]:
        """(n, features, seconds) of the images; None where `needless(n)` says so."""

        def draw(n: int) -> Tensor | None:
            return None if needless(n) else self.draw(n)

        with ThreadPoolExecutor(DRAWERS) as drawers:
            began = time.perf_counter()
            for n, drawn in _ahead(drawers, draw, positions):
                features = None if drawn is None else encode(self.backbone, drawn)
                yield n, features, time.perf_counter() - began
                began = time.perf_counter()


def _fill(rows: Rows, maker: _Maker, missing: Sequence[int]) -> Iterator[float]:
    """Make and write what another process has not; yields each image's seconds."""
    for n, features, seconds in maker.made(missing, needless=rows.made):
        if features is not None:
            rows.write(n, features, seconds)
        yield seconds


def _spread(rows: Rows, maker: _Maker, missing: Sequence[int], label: str) -> None:
    """Have workers make what is missing, and write it here as it comes."""

    def work(span: range) -> list[tuple[int, Tensor, float]]:
        positions = missing[span.start : span.stop]
        return list(maker.made(positions, needless=lambda n: False))

    starts = range(0, len(missing), SPAN)
    spans = [range(start, min(start + SPAN, len(missing))) for start in starts]
    for _, made in parallel.spread(work, spans, label):
        for n, features, seconds in made:
            rows.write(n, features, seconds)


def _ahead(
    drawers: ThreadPoolExecutor,
    draw: Callable[[int], Tensor | None],
    positions: Sequence[int],
) -> Iterator[tuple[int, Tensor | None]]:
    """Positions in their order with what is drawn of each, the next being at work."""
    pending: deque = deque()
    for n in positions:
        pending.append((n, drawers.submit(draw, n)))
        if len(pending) > AHEAD:
            first, drawn = pending.popleft()
            yield first, drawn.result()
    for n, drawn in pending:
        yield n, drawn.result()


def check_room(folder: Path, needed: int) -> None:
    """OSError where the disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} needs {needed / 1e6:,.0f} MB for the features of all views and "
            f"has {free / 1e6:,.0f} MB free: make room, name another folder in "
            "STUDY_CACHE, or take fewer views or images"
        )


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _checksum(row: bytes, seconds: np.ndarray) -> int:
    return zlib.crc32(np.float32(seconds).tobytes(), zlib.crc32(row))
