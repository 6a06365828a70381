"""How training pictures vary: crops, colours, blur and noise, as on the web.

Views at test time (crops, LaFTer's strong view) then show a CLIP nothing that it has
never met. Each picture draws its own variations from one generator.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from picto import pool

WHOLE = 0.35  # share of pictures that are not cropped
AREA = (0.2, 1.1)  # of a crop, log-uniform; above 1 it shows its border repeated
ASPECT = 0.25  # log of a crop's largest ratio of width to height, halved
RECOLOURED, GREY, BLURRED, NOISY = 0.5, 0.1, 0.25, 0.15  # chances
COLOUR = 0.4  # largest relative change of brightness, contrast and saturation
BLUR = (0.2, 1.2)  # standard deviation in pixels
NOISE = 0.08  # largest standard deviation, of values in [0, 1]
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601


def vary(
    pictures: np.ndarray, mirrored: np.ndarray, rng: np.random.Generator
) -> Tensor:
    """Pictures uint8 [B, H, W, 3] -> varied and normalised, float32 [B, 3, H, W].

    Half of the pictures that may be, bool [B], are mirrored.
    """
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    x = zoom(x, mirrored, rng)
    x = recolour(x, rng)
    x = blur(x, rng)
    chosen = torch.from_numpy(rng.random(len(x)) < NOISY)
    strength = rng.uniform(0, NOISE, (int(chosen.sum()), 1, 1, 1)).astype(np.float32)
    noise = rng.standard_normal((len(strength), *x.shape[1:]), np.float32)
    x[chosen] += torch.from_numpy(strength * noise)
    x = pool.standardise(x.clamp(0, 1))
    return x.contiguous(memory_format=torch.channels_last)


def zoom(images: Tensor, mirrored: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Crop images [B, 3, H, W], and mirror half of those that may be, bool [B], with
    one bilinear warp."""
    n = len(images)
    whole = rng.random(n) < WHOLE
    side = np.exp(rng.uniform(*np.log(AREA), n) / 2)
    aspect = np.exp(rng.uniform(-ASPECT, ASPECT, n))
    width = np.where(whole, 1.0, side * np.sqrt(aspect))
    height = np.where(whole, 1.0, side / np.sqrt(aspect))
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0] = width * np.where(mirrored & (rng.random(n) < 0.5), -1, 1)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = rng.uniform(-1, 1, n) * (np.abs(1 - width) * 0.9 + 0.05)
    theta[:, 1, 2] = rng.uniform(-1, 1, n) * (np.abs(1 - height) * 0.9 + 0.05)
    grid = F.affine_grid(torch.from_numpy(theta), images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def recolour(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Change brightness, contrast and saturation of some; make a few grey."""
    n = len(images)
    change = rng.uniform(-COLOUR, COLOUR, (3, n, 1, 1, 1))
    change *= (rng.random(n) < RECOLOURED)[:, None, None, None]
    brightness, contrast, saturation = torch.from_numpy(1 + change).float()
    grey_only = torch.from_numpy(rng.random(n) < GREY).view(n, 1, 1, 1)
    saturation = torch.where(grey_only, 0.0, saturation)
    weights = torch.tensor(GREY_WEIGHTS).view(1, 3, 1, 1)
    x = images * brightness
    mean = (x * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = mean + contrast * (x - mean)
    grey = (x * weights).sum(1, keepdim=True)
    return (grey + saturation * (x - grey)).clamp(0, 1)


def blur(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur some, each with a Gaussian of its own width."""
    chosen = torch.from_numpy(rng.random(len(images)) < BLURRED)
    sigma = rng.uniform(*BLUR, (int(chosen.sum()), 1)).astype(np.float32)
    if not len(sigma):
        return images
    reach = math.ceil(3 * BLUR[1])
    at = np.arange(-reach, reach + 1, dtype=np.float32)
    kernel = torch.from_numpy(np.exp(-0.5 * (at / sigma) ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    some = images[chosen]
    x = some.reshape(1, -1, *some.shape[2:])
    x = F.pad(x, (reach,) * 4, mode="replicate")
    x = F.conv2d(x, kernel[:, None, None, :], groups=len(kernel))
    x = F.conv2d(x, kernel[:, None, :, None], groups=len(kernel))
    images = images.clone()
    images[chosen] = x.view_as(some)
    return images
