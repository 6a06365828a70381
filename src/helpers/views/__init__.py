"""Views: an image and random augmentations of it, for test-time augmentation.

View 0 is the image after the backbone's own preprocessing; a recipe makes the others:

    preaugment               random crop and flip: TPT's views on ImageNet's variants
    augmix                   AugMix on each of these crops: TPT's on fine-grained sets
    autoaugment              each crop blended with an AutoAugment of itself
    torchvision_augmix       torchvision's AugMix, which differs, on each crop
    torchvision_autoaugment  torchvision's AutoAugment on each crop, not blended

Randomness belongs to the image: `numpy.random.default_rng(image_seed(seed, id))` makes
the same views in any order, batch, thread or process. All recipes draw the same crops
from the same generator, so that they can be compared view by view, and a smaller
`count` gives a subset of the views of a larger one.

A recipe is a function (image, count, size, generator) -> uint8 [count, 3, size, size]
in `VIEWS`, with its number in `VERSION`. `functools.partial` can bind a model to it.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from helpers.data.dataset import to_rgb
from helpers.views import augmix, crop_flip, library

VIEWS: dict[str, Callable[[Image, int, int, np.random.Generator], Tensor]] = {
    "preaugment": crop_flip.preaugment,
    "augmix": augmix.augmix,
    "autoaugment": library.autoaugment,
    "torchvision_augmix": library.torchvision_augmix,
    "torchvision_autoaugment": library.torchvision_autoaugment,
}
# What passes over the first views of a recipe; those of others are drawn for nothing.
SKIPS: dict[Callable, Callable[[Image, int, np.random.Generator], None]] = {
    crop_flip.preaugment: crop_flip.skip
}
# Part of the key of stored views: raise the number when a recipe changes.
VERSION: dict[str, int] = dict.fromkeys(VIEWS, 1)


def make(
    name: str,
    image: Image,
    count: int,
    size: int,
    generator: np.random.Generator,
    original: Callable[[Image], Tensor],
    start: int = 0,
) -> Tensor:
    """Make views of an image; view 0 is `original(image)`.

    Args:
        name: a recipe in `VIEWS`.
        image: of any mode, at full resolution.
        count: number of views, view 0 included.
        size: side of a view in pixels.
        generator: the image's own, see `image_seed`.
        original: the backbone's resizing and cropping, image -> uint8 [3, size, size].
        start: the first view to return; the same as without those before it.

    Returns:
        uint8 [count - start, 3, size, size].

    Raises:
        ValueError: unknown name, no views, or another result of `original`.
    """
    if name not in VIEWS:
        raise ValueError(f"unknown views {name!r}: choose one of {', '.join(VIEWS)}")
    if count < 1:
        raise ValueError(f"{count} views: the original counts as one, so 1 or more")
    if not 0 <= start < count:
        raise ValueError(f"views from {start} on: there are 0 to {count - 1}")
    image = to_rgb(image)
    if start:
        skip, seen = SKIPS.get(VIEWS[name]), start - 1
        if skip:
            skip(image, seen, generator)
            return VIEWS[name](image, count - start, size, generator)
        return VIEWS[name](image, count - 1, size, generator)[seen:]
    first = original(image)
    if first.dtype != torch.uint8 or first.shape != (3, size, size):
        raise ValueError(
            f"original(image) is {first.dtype} {list(first.shape)}, "
            f"not torch.uint8 {[3, size, size]}"
        )
    if count == 1:
        return first[None]
    return torch.cat([first[None], VIEWS[name](image, count - 1, size, generator)])


def image_seed(seed: int, image_id: str) -> int:
    """Return the seed of an image's generator: 63 bits of a hash of seed and id."""
    digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
