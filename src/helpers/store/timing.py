"""What an image costs: seconds of a few images of a data set, timed in one way for all.

Features are made when the store lacks them, beside whatever else the machine does then.
So their seconds are not compared. What is compared is timed here, on a few images that
were read before, one round after another, of which the fastest counts: other work on
the machine can only add to a round.
"""

import time
from collections.abc import Callable

import torch

from helpers.data.dataset import Dataset
from helpers.models.clip import Backbone
from helpers.store.views import draw, encode

IMAGES = 16  # timed together
WITH_VIEWS = 4  # images of which all views are timed, one after another
ROUNDS = 3
ENOUGH = 1.0  # seconds after which no further round begins

_known: dict[tuple, float] = {}


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of at most `ROUNDS` rounds of the work."""
    rounds: list[float] = []
    while len(rounds) < ROUNDS and sum(rounds) < ENOUGH:
        began = time.perf_counter()
        work()
        rounds.append(time.perf_counter() - began)
    return min(rounds)


def read_seconds_per_image(backbone: Backbone, dataset: Dataset) -> float:
    """Seconds to read and preprocess an image."""
    rows = _some(dataset, IMAGES)

    def work() -> None:
        for n in rows:
            backbone.preprocess(dataset.image(n))

    return _each(("read", backbone.key, dataset.key), rows, work)


def seconds_per_image(backbone: Backbone, dataset: Dataset) -> float:
    """Seconds to read, preprocess and encode an image; images share a batch."""
    rows = _some(dataset, IMAGES)

    def work() -> None:
        images = torch.stack([backbone.preprocess(dataset.image(n)) for n in rows])
        backbone.encode_images(images).cpu()

    return _each(("image", backbone.key, dataset.key), rows, work)


def view_seconds_per_image(
    backbone: Backbone,
    dataset: Dataset,
    views: str = "preaugment",
    count: int = 64,
    seed: int = 0,
) -> float:
    """Seconds to read an image, and to draw and encode `count` views of it."""
    rows = _some(dataset, WITH_VIEWS)

    def work() -> None:
        for n in rows:
            drawn = draw(backbone, dataset.image(n), dataset.ids[n], views, count, seed)
            encode(backbone, drawn)

    return _each((views, count, backbone.key, dataset.key), rows, work)


def _some(dataset: Dataset, count: int) -> range:
    """Positions of so many images, spread over the data set."""
    return range(0, len(dataset), -(-len(dataset) // count))


def _each(about: tuple, rows: range, work: Callable[[], object]) -> float:
    """Seconds per image of work on these rows, which one process times once."""
    if about not in _known:
        work()  # reads the images, and warms up
        _known[about] = fastest(work) / len(rows)
    return _known[about]
