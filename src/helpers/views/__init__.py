"""Views: one picture, and so many random variations of it.

Test-time augmentation asks an encoder about a picture many times over. View 0 is the
picture as the backbone would see it anyway; the others come from a recipe:

    preaugment               random crop and flip: TPT's views on ImageNet's variants
    augmix                   AugMix on each of these crops: TPT's on fine-grained sets
    autoaugment              each crop blended with an AutoAugment of itself
    torchvision_augmix       torchvision's AugMix, which is another one, on each crop
    torchvision_autoaugment  torchvision's AutoAugment on each crop, not blended

Randomness belongs to the picture: `numpy.random.default_rng(image_seed(seed, id))`
makes the same views in any order, batch, thread or process. All recipes draw the same
crops from the same generator, so that they are compared view by view, and a smaller
`count` gives a part of the views of a larger one.

A recipe is any function (image, count, size, generator) -> uint8 [count, 3, size, size]
in `VIEWS`, with its number in `VERSION`; one that needs a model brings it along, as
`functools.partial` does.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from helpers.data.dataset import to_rgb
from helpers.views import augmix, autoaugment, crop_flip, library

VIEWS: dict[str, Callable[[Image, int, int, np.random.Generator], Tensor]] = {
    "preaugment": crop_flip.preaugment,
    "augmix": augmix.augmix,
    "autoaugment": autoaugment.autoaugment,
    "torchvision_augmix": library.torchvision_augmix,
    "torchvision_autoaugment": library.torchvision_autoaugment,
}
# What is kept on disk is filed under this number: raise it when views change.
VERSION: dict[str, int] = dict.fromkeys(VIEWS, 1)


def make(
    name: str,
    image: Image,
    count: int,
    size: int,
    generator: np.random.Generator,
    original: Callable[[Image], Tensor],
) -> Tensor:
    """Views of a picture, uint8 [count, 3, size, size]; view 0 is `original(image)`.

    `image` is a PIL image of any mode, at full resolution; `original` is the backbone's
    own resizing and cropping, PIL image -> uint8 [3, size, size]. Raises ValueError
    where `name` is no recipe, `count` is below 1 or `original` gives something else.
    """
    if name not in VIEWS:
        raise ValueError(f"unknown views {name!r}: choose one of {', '.join(VIEWS)}")
    if count < 1:
        raise ValueError(f"{count} views: the original counts as one, so 1 or more")
    image = to_rgb(image)
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
    """Seed of a picture's generator, 63 bits: depends on these two and nothing else."""
    digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
