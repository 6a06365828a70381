"""The index buffer of a scene, and operations on it that styles share.

Every pixel of a 128 x 128 picture has the index of the polygon in front; tables map
indices to colours and shading. Fills are table look-ups; outlines are where the index
changes.
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

    Indices below `first` are the context's layers and the clutter; the object's parts
    follow, up to `last - 1`, and then the occluder.
    """

    index: np.ndarray  # uint8 [128, 128], of the polygon in front
    colours: np.ndarray  # float32 [256, 3], 0..255
    slope_x: np.ndarray  # float32 [256], relative gain in brightness left to right
    slope_y: np.ndarray  # float32 [256], and top to bottom
    texture: np.ndarray  # float32 [256], relative amplitude of noise
    first: int
    last: int
    shadow: tuple[float, float, float, float] | None  # x, y, rx, ry in [0, 1]
    light: str
    quality: str

    def object_mask(self, index: np.ndarray | None = None) -> np.ndarray:
        """Return where the object is visible, bool, in this or another index buffer."""
        index = self.index if index is None else index
        return (index >= self.first) & (index < self.last)


def flat(index: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Fill each polygon with its colour, antialiased: float32 [64, 64, 3]."""
    picture = Image.fromarray(index)
    picture.putpalette(np.clip(colours, 0, 255).astype(np.uint8).tobytes())
    return np.asarray(picture.convert("RGB").reduce(2), np.float32)


def halve(x: np.ndarray) -> np.ndarray:
    """Average over 2 x 2 pixels: [128, 128, ...] -> [64, 64, ...]."""
    rows = x[::2] + x[1::2]
    return (rows[:, ::2] + rows[:, 1::2]) * 0.25


def edges(drawing: Drawing, index: np.ndarray, width: int = 2) -> np.ndarray:
    """Return outlines of the object's parts: float32 [128, 128], 1 on a line."""
    part = drawing.object_mask(index)
    lines = np.zeros(index.shape, np.float32)
    changes = index[:, width:] != index[:, :-width]
    lines[:, width:] = changes & (part[:, width:] | part[:, :-width])
    changes = index[width:] != index[:-width]
    lines[width:] = np.maximum(lines[width:], changes & (part[width:] | part[:-width]))
    return lines


def shaky(index: np.ndarray, rng: random.Random, amplitude: float) -> np.ndarray:
    """Displace the index buffer by noise, by `amplitude` pixels of its 128."""
    y = grain.ROWS + amplitude * grain.fractal(rng, DOUBLE)
    x = grain.COLUMNS + amplitude * grain.fractal(rng, DOUBLE)
    limit = DOUBLE - 1
    y = np.clip(y, 0, limit).astype(np.intp)
    return index[y, np.clip(x, 0, limit).astype(np.intp)]


def to_image(x: np.ndarray) -> Image.Image:
    """Convert to a Pillow image, clipped to 0..255."""
    return Image.fromarray(np.clip(x, 0, 255).astype(np.uint8))


def blurred(x: np.ndarray, radius: float) -> np.ndarray:
    """Blur a [64, 64, 3] picture with a Gaussian."""
    return np.asarray(to_image(x).filter(ImageFilter.GaussianBlur(radius)), np.float32)


def coarse(x: np.ndarray, side: int, back: Image.Resampling) -> np.ndarray:
    """Reduce a [64, 64, 3] picture to side x side pixels and enlarge it again."""
    small = to_image(x).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize((SIDE, SIDE), back), np.float32)


def vivid(colours: np.ndarray, factor: float) -> np.ndarray:
    """Move colours away from their grey, or towards it for factors below 1."""
    grey = colours.mean(axis=-1, keepdims=True)
    return grey + (colours - grey) * factor
