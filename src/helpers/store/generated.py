"""Features of generated views: a diffusion model's variations of every image.

A variation costs as much as many crops. So the cost is printed after the first images,
a limit in minutes restricts the work to a fixed subset of the images, and each image's
features are stored as a row of `helpers.store.views.Rows`.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from helpers import views as recipes
from helpers.data.dataset import Dataset
from helpers.keys import folder
from helpers.models.clip import Backbone
from helpers.models.diffusion import Variator
from helpers.progress import track
from helpers.store.views import Rows, encode


@dataclass(frozen=True)
class Generated:
    """Unit features of generated views of some images."""

    features: Tensor  # float16 [M, V, D] on the CPU
    positions: list[int]  # of these images in the data set, ascending
    seconds_per_view: float  # to draw and to encode one, when it was made


def generated_features(
    backbone: Backbone,
    dataset: Dataset,
    variator: Variator,
    count: int,
    seed: int = 0,
    max_minutes: float = 0.0,
) -> Generated:
    """Features of `count` variations of each image, without the original.

    Args:
        count: variations of each image, drawn from seeds that depend on `seed`, the
            image's id and the variation's number, and cropped by the backbone's crop.
        max_minutes: bounds the total time, in this and earlier runs, of what is
            returned: the first images that fit, at least one, in an order that depends
            on `seed` and their ids alone. 0 is no bound.

    Raises:
        ValueError: a count below 1 or a negative bound.
        OSError: the disk has no room.
    """
    if count < 1 or max_minutes < 0:
        raise ValueError(
            f"{count} views in {max_minutes} minutes: need at least 1, and at least 0"
        )
    recipe = variator.key, count, seed, backbone.image_size
    where = folder("generated", backbone.key, dataset.key, recipe)
    rows = Rows(where, (len(dataset), count, backbone.embed_dim))
    ranks = [recipes.image_seed(seed, name) for name in dataset.ids]
    order = sorted(range(len(dataset)), key=ranks.__getitem__)
    budget = 60 * max_minutes or math.inf
    missing = rows.missing()
    spent = rows.seconds().astype(float)
    spent[missing] = 0  # by row; damaged rows count 0
    if missing and spent.sum() < budget:
        rows.check_room(len(missing))
        made = _make(backbone, dataset, variator, rows, order, spent, budget, seed)
        for _ in track(made, len(order), f"variations of {dataset.name}"):
            pass
    costs = np.cumsum(spent[order])
    fitting = max(1, int((costs <= budget).sum()))
    if fitting < len(order):
        print(
            f"{fitting:,} of {len(order):,} images fit into {max_minutes:g} minutes: "
            "a part fixed by their ids; results are theirs alone"
        )
    taken = sorted(order[:fitting])
    pace = spent[taken].mean() / count
    return Generated(rows.features()[taken], taken, float(pace))


def _make(
    backbone: Backbone,
    dataset: Dataset,
    variator: Variator,
    rows: Rows,
    order: Sequence[int],
    spent: np.ndarray,
    budget: float,
    seed: int,
) -> Iterator[int]:
    """Make rows in `order` until the budget of seconds is spent; updates `spent`."""
    _, count, _ = rows.shape
    together = max(1, variator.batch // count)  # images
    todo, redrawn, given_up = [n for n in order if not spent[n]], 0, 0
    yield from (n for n in order if spent[n])
    for start in range(0, len(todo), together):
        if spent.sum() >= budget:
            break
        some, began = todo[start : start + together], time.perf_counter()
        images = [dataset.image(n) for n in some for _ in range(count)]
        seeds = [
            recipes.image_seed(seed, f"{dataset.ids[n]}#{v}")
            for n in some
            for v in range(count)
        ]
        drawn = variator(images, seeds)
        redrawn, given_up = redrawn + drawn.redrawn, given_up + drawn.given_up
        crops = torch.stack([backbone.crop(to_pil_image(p)) for p in drawn.pictures])
        features = encode(backbone, crops).unflatten(0, (len(some), count))
        seconds = (time.perf_counter() - began) / len(some)
        for n, row in zip(some, features, strict=True):
            rows.write(n, row, seconds)
            spent[n] = np.float32(seconds)
        if start == 0:
            _print_cost(variator, len(todo), count, seconds, budget)
        yield from some
    if redrawn:
        print(
            f"{variator.name}: {redrawn} black or broken pictures drawn again, "
            f"{given_up} given up (the image itself stands in)"
        )


def _print_cost(
    variator: Variator, images: int, count: int, seconds: float, budget: float
) -> None:
    """Print images x views x seconds, estimated from the first images."""
    whole = images * seconds
    bound = "" if whole <= budget else f"; the cap is {budget / 60:g} minutes"
    print(
        f"{variator.name}: {images:,} images x {count} views x "
        f"{1000 * seconds / count:,.0f} ms = {whole / 60:,.1f} minutes{bound}"
    )
