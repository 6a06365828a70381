"""Handwritten numerals, a small part of training, so that embedded CLIPs know digits.

They are no class of the world and in none of its test splits. They prepare the CLIPs
for scikit-learn's scans of real handwriting (`helpers.data.digits`), the one real-data
shift of the embedded default.

A numeral has strokes through control points in [0, 1]^2 (x right, y down) with random
displacements.
"""

import math
import random

import numpy as np
from PIL import Image, ImageDraw

from picto.drawing import DOUBLE, coarse, halve
from picto.shapes import COLOURS

Stroke = tuple[tuple[float, float], ...]

# Each digit's variants
STROKES: dict[str, tuple[tuple[Stroke, ...], ...]] = {
    "zero": (
        (((0.5, 0.05), (0.2, 0.3), (0.2, 0.7), (0.5, 0.95), (0.8, 0.7), (0.8, 0.3),
          (0.5, 0.05)),),
    ),
    "one": (
        (((0.5, 0.05), (0.5, 0.95)),),
        (((0.25, 0.3), (0.55, 0.05)), ((0.55, 0.05), (0.5, 0.95))),
        (((0.28, 0.25), (0.5, 0.05)), ((0.5, 0.05), (0.5, 0.95)),
         ((0.25, 0.95), (0.75, 0.95))),
    ),
    "two": (
        (((0.2, 0.25), (0.45, 0.05), (0.78, 0.22), (0.6, 0.55), (0.2, 0.95)),
         ((0.2, 0.95), (0.82, 0.93))),
    ),
    "three": (
        (((0.2, 0.12), (0.5, 0.04), (0.76, 0.22), (0.65, 0.42), (0.42, 0.48)),
         ((0.42, 0.48), (0.75, 0.58), (0.78, 0.8), (0.5, 0.96), (0.2, 0.86))),
    ),
    "four": (
        (((0.45, 0.05), (0.18, 0.62)), ((0.18, 0.62), (0.85, 0.6)),
         ((0.68, 0.3), (0.6, 0.97))),
        (((0.62, 0.05), (0.15, 0.65)), ((0.15, 0.65), (0.85, 0.65)),
         ((0.62, 0.05), (0.62, 0.97))),
    ),
    "five": (
        (((0.78, 0.06), (0.28, 0.07)), ((0.28, 0.07), (0.25, 0.45)),
         ((0.25, 0.45), (0.55, 0.38), (0.8, 0.6), (0.65, 0.88), (0.4, 0.96),
          (0.2, 0.85))),
    ),
    "six": (
        (((0.68, 0.05), (0.35, 0.3), (0.22, 0.65), (0.4, 0.94), (0.7, 0.88),
          (0.76, 0.66), (0.5, 0.52), (0.24, 0.68)),),
    ),
    "seven": (
        (((0.2, 0.08), (0.8, 0.08)), ((0.8, 0.08), (0.42, 0.95))),
        (((0.2, 0.08), (0.8, 0.08)), ((0.8, 0.08), (0.42, 0.95)),
         ((0.35, 0.5), (0.78, 0.48))),
    ),
    "eight": (
        (((0.5, 0.48), (0.25, 0.28), (0.5, 0.05), (0.75, 0.26), (0.5, 0.48),
          (0.22, 0.74), (0.5, 0.96), (0.78, 0.74), (0.5, 0.48)),),
    ),
    "nine": (
        (((0.75, 0.3), (0.5, 0.48), (0.25, 0.3), (0.45, 0.06), (0.74, 0.2)),
         ((0.74, 0.2), (0.75, 0.55), (0.6, 0.95))),
    ),
}  # fmt: skip
NAMES = tuple(STROKES)

FRAMES = (
    "a photo of the number {n}",
    'a photo of the number: "{n}"',
    "a photo of a {n}",
    "a picture of the digit {n}",
    "the digit {n}",
    "the number {n}",
    "a handwritten {n}",
    "a {n} written by hand",
)
UNSTEADY = 0.04  # standard deviation of a control point
SIDES = (8, 10, 12, 16, 24, 64)  # of the reduced picture, pixels


def image(index: int) -> np.ndarray:
    """Draw numeral `index`, the digit `index % 10`: uint8 [64, 64, 3].

    Ink of one colour on a ground of another, reduced to one of `SIDES`.
    """
    rng = random.Random(f"numeral/{index}")
    ink = Image.new("L", (DOUBLE, DOUBLE), 0)
    pen, width = ImageDraw.Draw(ink), rng.randint(8, 22)
    for line in _written(rng.choice(STROKES[NAMES[index % 10]]), rng):
        pen.line(line.ravel().tolist(), fill=255, width=width, joint="curve")
        for x, y in (line[0], line[-1]):
            r = width / 2
            pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    cover = halve(np.asarray(ink, np.float32) / 255)[..., None]
    ground, colour = _tones(rng)
    x = ground * (1 - cover) + colour * cover
    return np.clip(
        coarse(x, rng.choice(SIDES), Image.Resampling.BICUBIC), 0, 255
    ).astype(np.uint8)


def captions(index: int, count: int) -> list[str]:
    """Draw captions of numeral `index` for training."""
    rng = random.Random(f"numeral/{index}/captions")
    return [rng.choice(FRAMES).format(n=NAMES[index % 10]) for _ in range(count)]


def _written(strokes: tuple[Stroke, ...], rng: random.Random) -> list[np.ndarray]:
    """The strokes with random slant, size and displacements: lines [N, 2] in pixels."""
    slant, angle = rng.gauss(0.1, 0.18), math.radians(rng.gauss(0, 7))
    width, height = rng.uniform(0.36, 0.8), rng.uniform(0.66, 0.96)
    turn = np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    across = turn @ np.array([[width, -slant * height], [0, height]])
    centre = np.array([0.5 + rng.gauss(0, 0.04), 0.5 + rng.gauss(0, 0.03)])
    lines = []
    for stroke in strokes:
        points = np.array(stroke) - 0.5
        points += [[rng.gauss(0, UNSTEADY) for _ in "xy"] for _ in stroke]
        lines.append((_smooth(points) @ across.T + centre) * DOUBLE)
    return lines


def _smooth(points: np.ndarray, steps: int = 8) -> np.ndarray:
    """A Catmull-Rom spline through the points [N, 2]."""
    p = np.concatenate([points[:1], points, points[-1:]])
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    curve = b + 0.5 * t * (
        c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))
    )
    return np.concatenate([curve.reshape(-1, 2), points[-1:]])


def _tones(rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Colours of ground and ink, light on dark or dark on light."""
    if rng.random() < 0.5:  # no colour
        dark, light = (0, 0, 0), (255, 255, 255)
    else:
        by_light = sorted(COLOURS.values(), key=sum)
        dark, light = rng.choice(by_light[:4]), rng.choice(by_light[-4:])
    pair = np.array(dark, np.float32), np.array(light, np.float32)
    return pair if rng.random() < 0.6 else pair[::-1]
