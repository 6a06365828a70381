"""Features of all views of all images: drawn and encoded once, mapped when read.

An image's views come from a generator of its own and are batched with each other only.
So its features depend, to the bit, on no other image, no order and no number of
drawing threads. Two processes take the missing images in orders of their own and pass
over those that the other has made. Workers (`helpers.parallel`) make spans of images,
and the process that asked writes the rows; a killed run loses the spans at work.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from helpers import parallel
from helpers import views as recipes
from helpers.data.dataset import Dataset
from helpers.models.clip import Backbone
from helpers.progress import track
from helpers.store.ahead import ahead
from helpers.store.folders import folder
from helpers.store.rows import Rows

BATCH = 64  # views that the encoder takes at once
AHEAD = 8  # images whose views may wait for it: 77 MB at 64 views of 224 x 224
SPAN = 32  # images that a worker does in one go


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
    if missing := rows.missing():
        rows.check_room(len(missing))
        random.Random().shuffle(missing)  # two processes share the work
        label = f"encoding {count} views of {dataset.name} with {backbone.name}"
        print(
            f"{label}: {len(missing):,} of {len(dataset):,} images to go, "
            f"{len(missing) * rows.row_bytes / 1e6:,.1f} MB on disk"
        )
        maker = _Maker(backbone, dataset, views, recipes.VIEWS[views], count, seed)
        for n, features, seconds in _made(maker, missing, rows, label):
            if features is not None:
                rows.write(n, features, seconds)
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
    seconds = rows.seconds()
    if not seconds.any():
        raise FileNotFoundError(
            f"no views {views!r} of {dataset.name} in {rows.folder}: "
            "make them with store.view_features"
        )
    return float(seconds[seconds > 0].mean())


def encode(backbone: Backbone, drawn: Tensor) -> Tensor:
    """Features float16 [V, D] on the CPU of views uint8 [V, 3, S, S]."""
    features = [
        backbone.encode_images(backbone.normalise(part.to(backbone.device)))
        for part in drawn.split(BATCH)
    ]
    return torch.cat(features).cpu().half()


def _rows(
    backbone: Backbone, dataset: Dataset, views: str, count: int, seed: int
) -> Rows:
    """The rows that these arguments name; looks at no picture, writes nothing."""
    if views not in recipes.VIEWS:
        choices = ", ".join(recipes.VIEWS)
        raise ValueError(f"unknown views {views!r}: choose one of {choices}")
    if count < 1:
        raise ValueError(f"{count} views: the original counts as one, so 1 or more")
    recipe = views, recipes.VERSION[views], count, seed, backbone.image_size
    where = folder("views", backbone.key, dataset.key, recipe)
    return Rows(where, (len(dataset), count, backbone.embed_dim))


Made = tuple[int, Tensor | None, float]
"""An image's position, its features float16 [V, D] unless needless, its seconds."""


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
    ) -> Iterator[Made]:
        """Images in their order; without features where `needless(n)` says so."""

        def draw(n: int) -> Tensor | None:
            return None if needless(n) else self.draw(n)

        began = time.perf_counter()
        for n, drawn in ahead(draw, positions, AHEAD):
            features = None if drawn is None else encode(self.backbone, drawn)
            yield n, features, time.perf_counter() - began
            began = time.perf_counter()


def _made(
    maker: _Maker, missing: Sequence[int], rows: Rows, label: str
) -> Iterator[Made]:
    """The missing images, made here or by workers."""
    if not parallel.active():
        # What another process has made meanwhile is needless.
        yield from track(maker.made(missing, rows.made), len(missing), label)
        return

    def work(span: range) -> list[Made]:
        positions = missing[span.start : span.stop]
        return list(maker.made(positions, needless=lambda n: False))

    starts = range(0, len(missing), SPAN)
    spans = [range(start, min(start + SPAN, len(missing))) for start in starts]
    for _, made in parallel.spread(work, spans, label):
        yield from made
