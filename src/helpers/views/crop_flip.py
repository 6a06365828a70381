"""Random resized crops and flips: the views of TPT on ImageNet and its variants.

Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models, Shu et
al. 2022, arXiv 2209.07511, section 4.1. The crop is that of Going Deeper with
Convolutions, Szegedy et al. 2014, arXiv 1409.4842, section 6, with torchvision's
defaults. From an image of W x H pixels at full resolution:

    area a ~ U(0.08, 1) W H,  log aspect r ~ U(log 3/4, log 4/3)
    w = round(sqrt(a r)),  h = round(sqrt(a / r)),  position uniform within the image

A box with w > W or h > H is drawn again; after ten tries the crop is the largest
central one whose aspect is within bounds. Large crops fit less often: the mean crop
covers 49 % of a square image and 44 % of one of 4:3, not 54 %. The crop is resized to a
square (bilinear, antialiased) and flipped left to right with probability 0.5.

Deviation: resizing a uint8 tensor is several times faster than resizing a PIL image and
differs from it by at most one of 255 levels.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

AREA = (0.08, 1.0)  # share of the image
ASPECT = (3 / 4, 4 / 3)  # width by height
TRIES = 10


def preaugment(
    image: Image, count: int, size: int, generator: np.random.Generator
) -> Tensor:
    """Make random crops of an RGB image, resized, half of them flipped.

    Returns uint8 [count, 3, size, size].
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    views = torch.empty((count, 3, size, size), dtype=torch.uint8)
    for view in views:
        left, top, width, height = random_box(*image.size, generator)
        crop = pixels[:, :, top : top + height, left : left + width]
        crop = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]
        flipped = generator.uniform(0, 1) < 0.5
        view.copy_(crop.flip(-1) if flipped else crop)
    return views


def skip(image: Image, count: int, generator: np.random.Generator) -> None:
    """Leave the generator as `preaugment` of so many views does, without a pixel."""
    for _ in range(count):
        random_box(*image.size, generator)
        generator.uniform(0, 1)


def random_box(
    width: int,
    height: int,
    generator: np.random.Generator,
    area: tuple[float, float] = AREA,
) -> tuple[int, int, int, int]:
    """Draw a crop of an image of this size: (left, top, width, height) in pixels.

    `area` bounds the crop's share of the image.
    """
    log_aspect = math.log(ASPECT[0]), math.log(ASPECT[1])
    for _ in range(TRIES):
        pixels = width * height * generator.uniform(*area)
        aspect = math.exp(generator.uniform(*log_aspect))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(generator.integers(0, height - h + 1))
            left = int(generator.integers(0, width - w + 1))
            return left, top, w, h
    # The image is too long for these aspects: nearest aspect, full short side.
    w = min(width, round(height * ASPECT[1]))
    h = min(height, round(width / ASPECT[0]))
    return (width - w) // 2, (height - h) // 2, w, h
