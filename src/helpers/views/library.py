"""torchvision's own AugMix and AutoAugment as views, with its defaults.

Papers on test-time adaptation ran something else under these names: torchvision's
AugMix has severity 3, 13 operations and its own table of magnitudes (compare
`helpers.views.augmix`), and its AutoAugment replaces the crop, while
`helpers.views.autoaugment` blends the two.
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
