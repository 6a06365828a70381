"""torchvision's own AugMix and AutoAugment as views, with its defaults.

They carry the names of papers, but are not what papers on test-time adaptation ran:
torchvision's AugMix has severity 3, 13 operations and its own table of magnitudes
(compare `helpers.views.augmix`), and a plain AutoAugment replaces the crop where
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
    """torchvision's AugMix of random crops: uint8 [count, 3, size, size]."""
    own = generator.spawn(1)[0]
    return transformed(preaugment(image, count, size, generator), v2.AugMix(), own)


def torchvision_autoaugment(
    image: Image, count: int, size: int, generator: np.random.Generator
) -> Tensor:
    """torchvision's AutoAugment of random crops: uint8 [count, 3, size, size]."""
    own = generator.spawn(1)[0]
    return transformed(preaugment(image, count, size, generator), v2.AutoAugment(), own)


def transformed(
    views: Tensor, transform: Callable[[Image], Image], generator: np.random.Generator
) -> Tensor:
    """A transform of PIL images on each view, its randomness taken from `generator`.

    torchvision draws from torch's global generator. It is seeded here and put back as
    it was; the lock keeps threads that make views from drawing in each other's turn.
    """
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(generator.integers(2**63)))
        return torch.stack([pil_to_tensor(transform(to_pil_image(v))) for v in views])
