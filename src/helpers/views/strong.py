"""The strong view of self-training: the student's input, while the teacher's is plain.

LaFTer: Label-Free Tuning of Zero-shot Classifier using Language and Unlabeled Image
Collections, Mirza et al. 2023, arXiv 2305.18287, with the recipe of its code:

    a random crop of 20 to 100 % of the area, resized (bilinear); a flip with
    probability 0.5; with probability 0.8 brightness, contrast and saturation times
    U(0.6, 1.4) each and a hue shift by U(-0.1, 0.1), in random order; grey with
    probability 0.2; a Gaussian blur of radius U(0.1, 2)

Deviation: the radius is that of 224 pixels and is scaled with the image.
"""

import numpy as np
import torch
from PIL import ImageFilter, ImageOps
from PIL.Image import Image, Resampling
from torch import Tensor
from torchvision.transforms import functional as F
from torchvision.transforms.functional import pil_to_tensor

from helpers.views.crop_flip import random_box

AREA = (0.2, 1.0)
JITTER, JITTERED = 0.4, 0.8
HUE = 0.1
GREY = 0.2
BLUR, BLUR_SIZE = (0.1, 2.0), 224


def strong(
    image: Image,
    size: int,
    generator: np.random.Generator,
    area: tuple[float, float] = AREA,
) -> Tensor:
    """Make a strong view of an RGB image: uint8 [3, size, size].

    `area` bounds the crop's share of the image; small images may need larger crops than
    the paper's.
    """
    left, top, width, height = random_box(*image.size, generator, area)
    box = (left, top, left + width, top + height)
    view = image.resize((size, size), Resampling.BILINEAR, box)
    if generator.random() < 0.5:
        view = ImageOps.mirror(view)
    if generator.random() < JITTERED:
        view = jittered(view, generator)
    if generator.random() < GREY:
        view = ImageOps.grayscale(view).convert("RGB")
    radius = generator.uniform(*BLUR) * size / BLUR_SIZE
    return pil_to_tensor(view.filter(ImageFilter.GaussianBlur(radius)))


def weak(images: Tensor, flipped: Tensor) -> Tensor:
    """FixMatch's weak views of images [B, 3, S, S]: mirrored where `flipped`, [B]."""
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def jittered(view: Image, generator: np.random.Generator) -> Image:
    """Change brightness, contrast, saturation and hue, in random order."""
    by = generator.uniform(1 - JITTER, 1 + JITTER, size=3)
    turn = generator.uniform(-HUE, HUE)
    changes = (
        lambda v: F.adjust_brightness(v, by[0]),
        lambda v: F.adjust_contrast(v, by[1]),
        lambda v: F.adjust_saturation(v, by[2]),
        lambda v: F.adjust_hue(v, turn),
    )
    for i in generator.permutation(len(changes)):
        view = changes[i](view)
    return view
