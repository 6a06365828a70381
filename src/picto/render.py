"""Render a scene.

All polygons are drawn, back to front, into an 8-bit index buffer of twice the picture's
side (`Drawing`); the scene's style turns the buffer into a picture of 64 x 64.
"""

import random

import numpy as np
from PIL import Image, ImageDraw

from picto import grain
from picto.contexts import CONTEXTS
from picto.drawing import DOUBLE, Drawing
from picto.geometry import Polygon, box, ellipse, poly, turned
from picto.scenes import Scene, figure, stream
from picto.shapes import COLOURS, MATERIALS
from picto.styles import STYLES


def render(scene: Scene) -> np.ndarray:
    """Render a scene: uint8 [64, 64, 3]. The same scene gives the same pixels."""
    rng = stream(scene, 1)
    x = STYLES[scene.style].depict(draw(scene, rng), rng)
    return np.clip(x, 0, 255).astype(np.uint8)


def object_mask(scene: Scene) -> np.ndarray:
    """Return the object's visible share of each pixel: float32 [64, 64]."""
    mask = draw(scene, stream(scene, 1)).object_mask().astype(np.float32)
    return (mask[::2, ::2] + mask[1::2, ::2] + mask[::2, 1::2] + mask[1::2, 1::2]) / 4


def contrast(picture: np.ndarray, mask: np.ndarray) -> float:
    """Return the luminance difference, 0..255, of the object and what surrounds it.

    `picture` is uint8 [64, 64, 3], `mask` the `object_mask`, float [64, 64].
    """
    luminance = picture @ grain.LUMA
    inside = mask > 0.5
    rows, columns = np.nonzero(inside)
    window = np.zeros_like(inside)
    top, left = max(rows.min() - 6, 0), max(columns.min() - 6, 0)
    window[top : rows.max() + 7, left : columns.max() + 7] = True
    around = window & (mask < 0.1)
    if not around.any():
        return 0.0
    return float(abs(luminance[inside].mean() - luminance[around].mean()))


class _Canvas:
    """An index buffer under construction, and its tables."""

    def __init__(self) -> None:
        self.picture = Image.new("L", (DOUBLE, DOUBLE), 0)
        self.pen = ImageDraw.Draw(self.picture)
        self.colours: list[tuple[float, float, float]] = []
        self.shading: list[tuple[float, float, float]] = []

    def add(
        self,
        polygon: Polygon,
        colour: tuple[float, float, float],
        slope_x: float,
        slope_y: float,
        texture: float,
    ) -> None:
        """Draw the next polygon, given in [0, 1]^2, in front of the others."""
        corners = (polygon * DOUBLE).view(np.float64).tolist()
        self.pen.polygon(corners, fill=len(self.colours))
        self.colours.append(colour)
        self.shading.append((slope_x, slope_y, texture))

    def __len__(self) -> int:
        return len(self.colours)


def draw(scene: Scene, rng: random.Random) -> Drawing:
    """Draw the scene's context, clutter, object and occluder."""
    canvas = _Canvas()
    polygons, roles = figure(scene)
    place = CONTEXTS[scene.context]
    foot = max(float(p.imag.max()) for p in polygons)
    horizon = min(max(foot - rng.uniform(0.06, 0.3), 0.42), 0.78)
    for layer in place.draw(rng, horizon):
        canvas.add(layer.polygon, layer.colour, 0, layer.gradient, layer.texture)
    for _ in range(scene.clutter):
        at = complex(rng.random(), rng.random())
        size = rng.uniform(0.04, 0.12)
        canvas.add(
            _thing(rng, at, size), _any_colour(rng), 0, rng.uniform(-0.3, 0.3), 0.08
        )
    first = len(canvas)
    _add_object(canvas, scene, polygons, roles, rng)
    last = len(canvas)
    if scene.occluded:
        _add_occluder(canvas, scene, rng)
    colours = np.zeros((256, 3), np.float32)
    colours[: len(canvas)] = canvas.colours
    shading = np.zeros((3, 256), np.float32)
    shading[:, : len(canvas)] = np.array(canvas.shading, np.float32).T
    shadow = None
    if place.ground:
        shadow = (scene.x, foot - 0.02, scene.scale * 0.75, scene.scale * 0.16)
    return Drawing(
        np.asarray(canvas.picture),
        colours,
        *shading,
        first=first,
        last=last,
        shadow=shadow,
        light=scene.light,
        quality=scene.quality,
    )


def _add_object(
    canvas: _Canvas,
    scene: Scene,
    polygons: list[Polygon],
    roles: list[str],
    rng: random.Random,
) -> None:
    main = _tint(rng, COLOURS[scene.colour])
    accent = _tint(rng, COLOURS[scene.accent or scene.colour])
    if sum(abs(a - b) for a, b in zip(main, accent, strict=True)) < 90:
        bright = sum(accent) > 330
        accent = tuple(c * 0.66 if bright else c * 0.6 + 80 for c in accent)
    palette = {
        "main": main,
        "accent": accent,
        "shade": tuple(c * 0.68 if sum(main) > 180 else c + 26 for c in main),
        "light": tuple(c * 0.6 + 102 for c in main),
    }
    slopes: dict[str, tuple[float, float]] = {}
    for polygon, role in zip(polygons, roles, strict=True):
        if role not in palette:
            if role not in MATERIALS:
                raise ValueError(
                    f"class {scene.class_name!r} draws a part in the unknown role "
                    f"{role!r}; choose one of {[*palette, *MATERIALS]}"
                )
            palette[role] = _tint(rng, MATERIALS[role])
        if role not in slopes:
            slopes[role] = rng.uniform(-0.3, 0.3), rng.uniform(-0.45, 0.0)
        canvas.add(polygon, palette[role], *slopes[role], 0.07)


def _add_occluder(canvas: _Canvas, scene: Scene, rng: random.Random) -> None:
    """Add a bar or a shape in front of the object, at most half of its width."""
    width = scene.scale * rng.uniform(0.3, 0.55)
    reach = 0.6 * scene.scale
    at = complex(
        scene.x + rng.uniform(-reach, reach), scene.y + rng.uniform(-reach, reach)
    )
    if rng.random() < 0.5:
        bar = box(-1.3, -width / 2, 1.3, width / 2)
        thing = turned(bar, rng.uniform(0, 180)) + at
    else:
        thing = _thing(rng, at, width)
    canvas.add(thing, _any_colour(rng), 0, rng.uniform(-0.2, 0.2), 0.12)


def _thing(rng: random.Random, at: complex, size: float) -> Polygon:
    """An ellipse, a rectangle or a triangle of that half-size."""
    kind = rng.randrange(3)
    if kind == 0:
        return ellipse(at.real, at.imag, size, size * rng.uniform(0.5, 1), 14)
    if kind == 1:
        return (
            turned(box(-size, -0.6 * size, size, 0.6 * size), rng.uniform(0, 180)) + at
        )
    return turned(poly(-size, size, 0, -size, size, size), rng.uniform(0, 360)) + at


def _tint(
    rng: random.Random, colour: tuple[float, float, float]
) -> tuple[float, float, float]:
    shift = rng.gauss(0, 8)
    red, green, blue = colour
    return (
        red + shift + rng.gauss(0, 7),
        green + shift + rng.gauss(0, 7),
        blue + shift + rng.gauss(0, 7),
    )


def _any_colour(rng: random.Random) -> tuple[float, float, float]:
    return rng.uniform(30, 230), rng.uniform(30, 230), rng.uniform(30, 230)
