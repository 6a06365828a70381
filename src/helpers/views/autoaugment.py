"""AutoAugment views: random crops, each blended with an AutoAugment of itself.

AutoAugment: Learning Augmentation Strategies from Data, Cubuk et al. 2019, arXiv
1805.09501, with the policy found on ImageNet, as torchvision implements it: one of 25
pairs of operations, each with its own probability and magnitude, nearest-neighbour
interpolation, black outside. The blending is AugMix's (arXiv 1912.02781) with the
policy as its only chain. With a random crop x:

    m ~ Beta(1, 1) for each view    view = m x + (1 - m) AutoAugment(x)

Deviation: views are rounded to uint8 once, after blending, by at most half a level.
"""

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import v2

from helpers.views.crop_flip import preaugment
from helpers.views.library import transformed


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
