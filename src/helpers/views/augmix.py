"""AugMix views: chains of mild operations, mixed and laid over the crop.

AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty, Hendrycks
et al. 2020, arXiv 1912.02781, algorithm 1, without its consistency loss, as TPT (arXiv
2209.07511, section 4.2) uses it. With a crop x, three chains of one to three operations
each, and alpha = 1:

    w ~ Dirichlet(1, 1, 1)    m ~ Beta(1, 1)    depth_i ~ U{1, 2, 3}
    view = m x + (1 - m) sum_i w_i chain_i(x)

Every step of a chain draws one of nine operations with equal probability. Its strength
is U(0.1, severity) / 10 of the maximum, truncated to an integer for pixels, degrees and
grey levels. At severity 1, TPT's, only autocontrast, equalize and posterize (to 4 bits)
change much: rotations stay below 3 degrees, shears below 0.03.

Deviation: views are rounded to uint8 once, after mixing, which changes a value by at
most half a level of 255.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import ImageOps
from PIL.Image import Image, Resampling, Transform
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from helpers.views.crop_flip import preaugment

CHAINS = 3
DEPTH = 3  # operations in a chain, at most
OPERATIONS = (
    "autocontrast",
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)


def augmix(
    image: Image,
    count: int,
    size: int,
    generator: np.random.Generator,
    severity: float = 1.0,
) -> Tensor:
    """Apply AugMix to random crops of an RGB image: uint8 [count, 3, size, size]."""
    own = generator.spawn(1)[0]  # so that all recipes draw the same crops
    views = preaugment(image, count, size, generator)
    for view in views:
        crop = to_pil_image(view)
        weights = own.dirichlet([1.0] * CHAINS)
        m = own.beta(1.0, 1.0)
        chains = [chain(crop, severity, own) for _ in range(CHAINS)]
        view.copy_(mix([crop, *chains], [m, *(1 - m) * weights]))
    return views


def chain(crop: Image, severity: float, generator: np.random.Generator) -> Image:
    """Apply one to three random operations, one after another."""
    for _ in range(generator.integers(1, DEPTH + 1)):
        name = OPERATIONS[generator.integers(len(OPERATIONS))]
        crop = operate(name, crop, strength(name, crop.width, severity, generator))
    return crop


def strength(
    name: str, size: int, severity: float, generator: np.random.Generator
) -> float:
    """Draw the strength of an operation on an image `size` pixels wide.

    Degrees for rotate, pixels for translate, slope for shear, levels below 256 for
    solarize, bits below 4 for posterize, 0 for the others.
    """
    if name in ("autocontrast", "equalize"):
        return 0
    level = generator.uniform(0.1, severity) / 10
    if name == "posterize":
        return int(level * 4)
    if name == "solarize":
        return int(level * 256)
    sign = 1 if generator.random() < 0.5 else -1
    if name == "rotate":
        return sign * int(level * 30)
    if name in ("shear_x", "shear_y"):
        return sign * level * 0.3
    return sign * int(level * size / 3)


def operate(name: str, picture: Image, amount: float) -> Image:
    """Apply one of `OPERATIONS` with its `strength`; outside the image all is black."""
    match name:
        case "autocontrast":
            return ImageOps.autocontrast(picture)
        case "equalize":
            return ImageOps.equalize(picture)
        case "posterize":
            return ImageOps.posterize(picture, 4 - int(amount))
        case "solarize":
            return ImageOps.solarize(picture, 256 - int(amount))
        case "rotate":
            return picture.rotate(amount, Resampling.BILINEAR)
        case "shear_x":
            return _affine(picture, (1, amount, 0, 0, 1, 0))
        case "shear_y":
            return _affine(picture, (1, 0, 0, amount, 1, 0))
        case "translate_x":  # by whole pixels: cropping is exact, and faster
            return picture.crop((amount, 0, amount + picture.width, picture.height))
        case "translate_y":
            return picture.crop((0, amount, picture.width, amount + picture.height))
    raise ValueError(f"unknown operation {name!r}: choose one of {OPERATIONS}")


def _affine(picture: Image, matrix: tuple[float, ...]) -> Image:
    """Pixel (x, y) of the result is the input's at `matrix` times (x, y, 1)."""
    return picture.transform(
        picture.size, Transform.AFFINE, matrix, Resampling.BILINEAR
    )


def mix(pictures: Sequence[Image], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean of RGB images of one size: uint8 [3, size, size].

    `weights` are not negative and sum to 1.
    """
    pairs = zip(pictures, weights, strict=True)
    mean = sum(np.float32(weight) * np.asarray(picture) for picture, weight in pairs)
    return torch.from_numpy(np.rint(mean).astype(np.uint8)).permute(2, 0, 1)
