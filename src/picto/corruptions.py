"""Corruptions of finished pictures at five severities, after ImageNet-C.

Hendrycks & Dietterich, "Benchmarking neural network robustness to common corruptions
and perturbations" (arXiv 1903.12261), with strengths suited to 64 x 64 pixels. Each
function takes float32 [64, 64, 3] in 0..255, its strength, and a random stream.
"""

import io
import random
from collections.abc import Callable

import numpy as np
from PIL import Image

from picto import grain
from picto.drawing import to_image

SEVERITIES = (1, 2, 3, 4, 5)


def gaussian_noise(x: np.ndarray, sd: float, rng: random.Random) -> np.ndarray:
    """Add independent noise of standard deviation `sd`, in grey levels."""
    return x + sd * grain.white(rng)


def motion_blur(x: np.ndarray, length: float, rng: random.Random) -> np.ndarray:
    """Average along a straight path of `length` pixels in a random direction."""
    step = complex(*rng.choice(((1, 0), (0, 1), (0.7, 0.7), (0.7, -0.7))))
    wide = np.pad(x, ((12, 12), (12, 12), (0, 0)), mode="edge")
    total = np.zeros_like(x)
    offsets = np.linspace(-length / 2, length / 2, 2 * int(length) + 1)
    for offset in offsets:
        column, row = round(12 + offset * step.real), round(12 + offset * step.imag)
        total += wide[row : row + x.shape[0], column : column + x.shape[1]]
    return total / len(offsets)


def contrast(x: np.ndarray, keep: float, rng: random.Random) -> np.ndarray:
    """Shrink deviations from the mean colour to the share `keep`."""
    mean = x.mean(axis=(0, 1))
    return mean + keep * (x - mean)


def pixelate(x: np.ndarray, side: float, rng: random.Random) -> np.ndarray:
    """Reduce to side x side square pixels."""
    small = to_image(x).resize((int(side), int(side)), Image.Resampling.BOX)
    return np.asarray(
        small.resize(x.shape[1::-1], Image.Resampling.NEAREST), np.float32
    )


def fog(x: np.ndarray, density: float, rng: random.Random) -> np.ndarray:
    """Add a pale cloudy veil of mean opacity `density`."""
    veil = density + 0.16 * density * grain.fractal(rng, x.shape[0])[..., None]
    veil = np.clip(veil, 0, 1)
    return x * (1 - veil) + 222 * veil


def jpeg(x: np.ndarray, quality: float, rng: random.Random) -> np.ndarray:
    """Compress as JPEG at a quality of 1 to 95."""
    buffer = io.BytesIO()
    to_image(x).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer).convert("RGB"), np.float32)


CORRUPTIONS: dict[str, tuple[Callable, tuple[float, ...]]] = {
    "gaussian noise": (gaussian_noise, (14, 24, 38, 56, 80)),
    "motion blur": (motion_blur, (3, 5, 8, 11, 15)),
    "contrast": (contrast, (0.5, 0.35, 0.23, 0.15, 0.09)),
    "pixelate": (pixelate, (34, 26, 20, 15, 11)),
    "fog": (fog, (0.3, 0.43, 0.55, 0.66, 0.76)),
    "jpeg": (jpeg, (24, 14, 9, 6, 3)),
}


def corrupt(picture: np.ndarray, kind: str, severity: int, seed: int) -> np.ndarray:
    """Corrupt a picture uint8 [64, 64, 3]; the same seed gives the same pixels.

    Raises ValueError for an unknown kind or a severity outside 1..5.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(
            f"unknown corruption {kind!r}; choose one of {list(CORRUPTIONS)}"
        )
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity} is not one of {SEVERITIES}")
    function, strengths = CORRUPTIONS[kind]
    x = picture.astype(np.float32)
    x = function(x, strengths[severity - 1], random.Random(seed))
    return np.clip(x.round(), 0, 255).astype(np.uint8)
