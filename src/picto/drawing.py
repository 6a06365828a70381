"""The index buffer of a scene, and what all styles make of it.

Every pixel of a 128 x 128 picture holds the number of the polygon in front, and tables
give each number its colour and shading. Fills are table look-ups, outlines are where
the number changes.
"""

import dataclasses
import random

import numpy as np
from PIL import Image, ImageFilter

from picto import grain

SIDE = 64  # of the finished picture, pixels
DOUBLE = 2 * SIDE  # of the index buffer


@dataclasses.dataclass(eq=False)
class Drawing:
    """A scene as polygons in front of each other.

    Numbers below `first` are the context's layers and the clutter, then come the
    object's parts up to `last - 1`, and whatever hides them.
    """

    index: np.ndarray  # uint8 [128, 128], number of the polygon in front
    colours: np.ndarray  # float32 [256, 3], 0..255
    slope_x: np.ndarray  # float32 [256], relative brightness gained left to right
    slope_y: np.ndarray  # float32 [256], and top to bottom
    texture: np.ndarray  # float32 [256], relative amplitude of noise
    first: int
    last: int
    shadow: tuple[float, float, float, float] | None  # x, y, rx, ry in [0, 1]
    light: str
    quality: str

    def object_mask(self) -> np.ndarray:
        """bool [128, 128]: where the object is seen."""
        return (self.index >= self.first) & (self.index < self.last)


def flat(index: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Plain fills, antialiased: float32 [64, 64, 3]."""
    picture = Image.fromarray(index)
    picture.putpalette(np.clip(colours, 0, 255).astype(np.uint8).tobytes())
    return np.asarray(picture.convert("RGB").reduce(2), np.float32)


def halve(x: np.ndarray) -> np.ndarray:
    """Mean over 2 x 2 pixels: [128, 128, ...] -> [64, 64, ...]."""
    rows = x[::2] + x[1::2]
    return (rows[:, ::2] + rows[:, 1::2]) * 0.25


def edges(drawing: Drawing, index: np.ndarray, width: int = 2) -> np.ndarray:
    """Outlines of the object's parts: float32 [128, 128], 1 on a line."""
    part = (index >= drawing.first) & (index < drawing.last)
    lines = np.zeros(index.shape, np.float32)
    changes = index[:, width:] != index[:, :-width]
    lines[:, width:] = changes & (part[:, width:] | part[:, :-width])
    changes = index[width:] != index[:-width]
    lines[width:] = np.maximum(lines[width:], changes & (part[width:] | part[:-width]))
    return lines


def shaky(index: np.ndarray, rng: random.Random, amplitude: float) -> np.ndarray:
    """The index buffer displaced by noise, as by an unsteady hand; pixels at 128."""
    y = grain.ROWS + amplitude * grain.fractal(rng, DOUBLE)
    x = grain.COLUMNS + amplitude * grain.fractal(rng, DOUBLE)
    limit = DOUBLE - 1
    y = np.clip(y, 0, limit).astype(np.intp)
    return index[y, np.clip(x, 0, limit).astype(np.intp)]


def to_image(x: np.ndarray) -> Image.Image:
    """Clipped to 0..255, as a Pillow image."""
    return Image.fromarray(np.clip(x, 0, 255).astype(np.uint8))


def blurred(x: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of a [64, 64, 3] picture."""
    return np.asarray(to_image(x).filter(ImageFilter.GaussianBlur(radius)), np.float32)


def coarse(x: np.ndarray, side: int, back: Image.Resampling) -> np.ndarray:
    """A [64, 64, 3] picture reduced to side x side pixels and enlarged again."""
    small = to_image(x).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize((SIDE, SIDE), back), np.float32)


def vivid(colours: np.ndarray, factor: float) -> np.ndarray:
    """Colours moved away from (or, below 1, towards) their own grey."""
    grey = colours.mean(axis=-1, keepdims=True)
    return grey + (colours - grey) * factor
