"""Fields of noise, of which pictures take random windows, and pixel coordinates."""

import dataclasses
import functools
import random

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

FIELD = 256  # side of the stored noise, pixels
TILINGS = 3
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

ROWS, COLUMNS = (a.astype(np.float32) for a in np.mgrid[0:128, 0:128])
X128, Y128 = COLUMNS / 128 - 0.5, ROWS / 128 - 0.5
X64, Y64 = X128[:1, ::2].copy(), Y128[::2, :1].copy()  # [1, 64] and [64, 1]
RIM64 = np.maximum(np.abs(X64), np.abs(Y64)) - 0.42  # > 0 close to the border


@functools.cache
def _fractal_fields() -> np.ndarray:
    """Eight fields of noise over six octaves, float32 [8, 256, 256], unit variance."""
    source = np.random.default_rng(0)
    fields = np.zeros((8, FIELD, FIELD), np.float32)
    octaves = ((4, 1), (8, 0.7), (16, 0.5), (32, 0.35), (64, 0.25), (128, 0.18))
    for field in fields:
        for knots, amplitude in octaves:
            values = source.standard_normal((knots, knots), np.float32)
            wide = Image.fromarray(values).resize(
                (FIELD, FIELD), Image.Resampling.BICUBIC
            )
            field += amplitude * np.asarray(wide)
        field /= field.std()
    return fields


@functools.cache
def _white_field() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((FIELD, FIELD, 3), np.float32)


@functools.cache
def _stroke_field() -> np.ndarray:
    """Noise smeared along a diagonal, float32 [256, 256], unit variance."""
    white = np.random.default_rng(2).standard_normal((FIELD, FIELD), np.float32)
    field = sum(np.roll(white, (k, k), (0, 1)) for k in range(11))
    field = field + np.roll(field, 1, axis=1)
    return (field / field.std()).astype(np.float32)


def fractal(rng: random.Random, side: int) -> np.ndarray:
    """Draw a window of cloudy noise, float32 [side, side], unit variance."""
    field = _fractal_fields()[rng.randrange(8)]
    i, j = rng.randrange(FIELD - side), rng.randrange(FIELD - side)
    return field[i : i + side, j : j + side]


def white(rng: random.Random) -> np.ndarray:
    """Draw a window of white noise, float32 [64, 64, 3], unit variance."""
    i, j = rng.randrange(FIELD - 64), rng.randrange(FIELD - 64)
    return _white_field()[i : i + 64, j : j + 64]


def strokes(rng: random.Random) -> np.ndarray:
    """Draw a window of slanted streaks, float32 [128, 128], unit variance."""
    i, j = rng.randrange(FIELD - 128), rng.randrange(FIELD - 128)
    window = _stroke_field()[i : i + 128, j : j + 128]
    return window[:, ::-1] if rng.random() < 0.5 else window


@dataclasses.dataclass(frozen=True, eq=False)
class Tiles:
    """A tiling of the 128 x 128 picture by T Voronoi cells."""

    cell: np.ndarray  # int [128, 128], which tile
    joint: np.ndarray  # float32 [128, 128], 1 between tiles
    rows: np.ndarray  # int [T], the tiles' centres
    columns: np.ndarray


@functools.cache
def tiles(number: int) -> Tiles:
    """Make one of `TILINGS` tilings from a jittered grid of 28 x 28 centres."""
    source = np.random.default_rng(10 + number)
    grid = np.stack(np.mgrid[0:28, 0:28], axis=-1).reshape(-1, 2) + 0.5
    centres = (grid + source.uniform(-0.3, 0.3, grid.shape)) * (128 / 28)
    pixels = np.stack([ROWS.ravel(), COLUMNS.ravel()], axis=1)
    cell = cKDTree(centres).query(pixels)[1].reshape(128, 128)
    joint = np.zeros((128, 128), np.float32)
    joint[:, 1:] = cell[:, 1:] != cell[:, :-1]
    joint[1:] = np.maximum(joint[1:], cell[1:] != cell[:-1])
    rows, columns = np.clip(centres.round().astype(int), 0, 127).T
    return Tiles(cell, joint, rows, columns)
