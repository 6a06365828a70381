"""AutoAugment as the views of papers, and torchvision's own AugMix and AutoAugment.

AutoAugment: Learning Augmentation Strategies from Data, Cubuk et al. 2019, arXiv
1805.09501, with the policy found on ImageNet, as torchvision implements it: one of 25
pairs of operations, each with its own probability and magnitude, nearest-neighbour
interpolation, black outside. Papers on test-time adaptation blend it with the crop x,
as AugMix (arXiv 1912.02781) does with the policy as its only chain:

    m ~ Beta(1, 1) for each view    view = m x + (1 - m) AutoAugment(x)

Deviation: views are rounded to uint8 once, after blending, by at most half a level.

torchvision's AutoAugment replaces the crop instead. Its AugMix has severity 3, 13
operations and its own table of magnitudes (compare `helpers.views.augmix`).
"""

import threading
from collections.abc import Callable

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from helpers.views.crop_flip import preaugment

GLOBAL_GENERATOR = threading.Lock()


def autoaugment(
    image: Image, count: int, size: int, generator: np.random.Generator
) -> Tensor:
    """Blend AutoAugment into random crops: uint8 [count, 3, size, size]."""
    own = generator.spawn(1)[0]
    crops = preaugment(image, count, size, generator)
    augmented = transformed(crops, v2.AutoAugment(), own)
    weights = own.beta(1.0, 1.0, size=count)
    for crop, other, m in zip(crops, augmented, weights, strict=True):
        crop.copy_(torch.lerp(other.float(), crop.float(), m).round_())
    return crops


def torchvision_augmix(
    image: Image, count: int, size: int, generator: np.random.Generator
) -> Tensor:
    """Apply torchvision's AugMix to random crops: uint8 [count, 3, size, size]."""
    own = generator.spawn(1)[0]
    return transformed(preaugment(image, count, size, generator), v2.AugMix(), own)


def torchvision_autoaugment(
    image: Image, count: int, size: int, generator: np.random.Generator
) -> Tensor:
    """Apply torchvision's AutoAugment to random crops: uint8 [count, 3, size, size]."""
    own = generator.spawn(1)[0]
    return transformed(preaugment(image, count, size, generator), v2.AutoAugment(), own)


def transformed(
    views: Tensor, transform: Callable[[Image], Image], generator: np.random.Generator
) -> Tensor:
    """Transform each view as a PIL image, with randomness from `generator`.

    torchvision draws from torch's global generator, which is seeded here and restored.
    The lock keeps threads from using it at the same time.
    """
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(generator.integers(2**63)))
        return torch.stack([pil_to_tensor(transform(to_pil_image(v))) for v in views])
