"""Fourteen styles: the photo, and thirteen renditions.

A style is a decorated function of a `Drawing` and a random stream to float32
[64, 64, 3] in 0..255; the renderer clips values outside.
"""

import dataclasses
import functools
import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from picto import grain
from picto.drawing import (
    DOUBLE,
    SIDE,
    Drawing,
    blurred,
    coarse,
    edges,
    flat,
    halve,
    shaky,
    to_image,
    vivid,
)

Depict = Callable[[Drawing, random.Random], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Style:
    """A style: its drawing, its share of training, and its names in captions."""

    name: str
    depict: Depict
    share: float  # of the training split; 0: not in training
    setting: bool  # context, clutter and occluders are drawn
    coloured: bool  # the scene's colours are visible
    media: tuple[str, ...]  # nouns: "sketch", "pencil drawing"


STYLES: dict[str, Style] = {}


def style(
    name: str,
    *media: str,
    share: float = 0.0,
    setting: bool = True,
    coloured: bool = True,
) -> Callable[[Depict], Depict]:
    """Register the decorated function as a style; see `Style` for the arguments."""

    def register(depict: Depict) -> Depict:
        STYLES[name] = Style(name, depict, share, setting, coloured, media)
        return depict

    return register


# The photo


# The share of training is what the renditions leave.
@style("photo", "photo", "picture", "image", "snapshot", "photograph", share=1.0)
def photo(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Shaded parts, a soft shadow on the ground, relief, light, the camera's flaws."""
    index = drawing.index[::2, ::2]
    mask = drawing.object_mask(index)
    shade = 1 + drawing.slope_x[index] * grain.X64
    shade += drawing.slope_y[index] * grain.Y64
    shade += drawing.texture[index] * grain.fractal(rng, SIDE)
    soft = Image.fromarray(mask.view(np.uint8) * 255).filter(ImageFilter.BoxBlur(2))
    height = np.asarray(soft, np.float32)
    relief = np.zeros_like(shade)
    relief[1:-1, 1:-1] = height[2:, 1:-1] - height[:-2, 1:-1]
    side = rng.choice((-1, 1))
    relief[1:-1, 1:-1] += side * (height[1:-1, 2:] - height[1:-1, :-2])
    shade -= relief * mask * (rng.uniform(0.6, 1.5) / 255)
    if drawing.shadow:
        x, y, rx, ry = drawing.shadow
        across = np.exp(-(((grain.X64 + 0.5 - x) / rx) ** 2))
        down = np.exp(-(((grain.Y64 + 0.5 - y) / ry) ** 2))
        shade *= 1 - (rng.uniform(0.45, 0.7) * ~mask) * (down * across)
    angle, fall = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.3)
    gain = rng.uniform(0.88, 1.12)
    shade *= gain + gain * fall * (
        math.cos(angle) * grain.X64 + math.sin(angle) * grain.Y64
    )
    x = flat(drawing.index, drawing.colours) * shade[..., None]
    x *= np.array([rng.uniform(0.92, 1.08) for _ in range(3)], np.float32)
    return _camera(x, drawing, rng)


def _camera(x: np.ndarray, drawing: Drawing, rng: random.Random) -> np.ndarray:
    if drawing.light == "dark":
        x = x * rng.uniform(0.3, 0.48)
    elif drawing.light == "bright":
        x = x * 0.72 + rng.uniform(75, 100)
    grainy = rng.uniform(1, 4)
    match drawing.quality:
        case "black and white":
            x = np.repeat(x @ grain.LUMA[:, None], 3, axis=2)
        case "blurry":
            x = blurred(x, rng.uniform(1.3, 2.2))
        case "low resolution":
            x = coarse(x, rng.choice((20, 24, 28)), Image.Resampling.BILINEAR)
        case "pixelated":
            x = coarse(x, rng.choice((20, 24, 28)), Image.Resampling.NEAREST)
        case "noisy":
            grainy = rng.uniform(16, 28)
    noise = grain.white(rng)
    if drawing.quality == "black and white":
        noise = noise[..., :1]
    return x + grainy * noise


# Renditions that training sees rarely


@style("painting", "painting", "oil painting", "painted picture", share=0.04)
def painting(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Ragged shapes, thick slanted strokes, few warm tones."""
    index = shaky(drawing.index, rng, 2.0)
    shade = 1 + drawing.slope_y[index] * grain.Y128
    shade += 0.13 * grain.strokes(rng) + 0.05 * grain.fractal(rng, DOUBLE)
    x = halve(vivid(drawing.colours, 1.15)[index] * shade[..., None])
    x = np.round(x / 26) * 26
    return x * rng.uniform(0.92, 1.06) + np.array([14, 6, -10], np.float32)


@style("watercolor", "watercolor", "watercolor painting", share=0.03)
def watercolor(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Thin bleeding washes with dark rims, fading into white paper at the border."""
    index = shaky(drawing.index, rng, 1.4)
    x = blurred(flat(index, drawing.colours), 0.8)
    blot = grain.fractal(rng, SIDE)
    water = 0.34 + 0.09 * blot + np.clip(6 * grain.RIM64 + 0.5 * blot, 0, 0.6)
    water = np.clip(water, 0, 0.97)[..., None]
    x = x * (1 - water) + 250 * water
    return x * (1 - 0.3 * halve(edges(drawing, index))[..., None])


@style("cartoon", "cartoon", "comic", "cartoon picture", share=0.04)
def cartoon(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Flat vivid fills and thick black outlines."""
    colours = vivid(drawing.colours, 1.4) * rng.uniform(0.98, 1.1)
    colours[255] = 14
    ink = edges(drawing, drawing.index, 3) > 0
    return flat(np.where(ink, np.uint8(255), drawing.index), colours)


@style(
    "pixel art", "pixel art picture", "video game sprite", "pixel drawing", share=0.025
)
def pixel_art(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Large square pixels of a small palette, the object ringed in dark."""
    colours = vivid(drawing.colours, 1.3)
    x = flat(drawing.index, colours)
    side = rng.choice((21, 24, 32))
    mask = Image.fromarray(drawing.object_mask().view(np.uint8) * 255)
    small = mask.resize((side, side), Image.Resampling.BOX)
    inside = np.asarray(small, np.float32) > 110
    grown = np.asarray(small.filter(ImageFilter.MaxFilter(3)), np.float32) > 110
    tiles = to_image(x).resize((side, side), Image.Resampling.BOX)
    tiles = np.round(np.asarray(tiles, np.float32) / 42) * 42
    tiles[grown & ~inside] *= 0.45
    back = to_image(tiles).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return np.asarray(back, np.float32)


@style(
    "silhouette",
    "silhouette",
    "shadow",
    "dark outline",
    share=0.025,
    setting=False,
    coloured=False,
)
def silhouette(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """The object in one dark tone before an evening sky."""
    skies = (
        ((250, 190, 110), (225, 90, 90)),
        ((250, 225, 175), (240, 150, 90)),
        ((200, 220, 245), (110, 140, 200)),
        ((248, 248, 248), (215, 218, 224)),
        ((240, 190, 210), (130, 90, 160)),
    )
    low, high = (np.array(c, np.float32) for c in rng.choice(skies))
    fade = (grain.Y64 + 0.5)[..., None]
    backdrop = np.broadcast_to(high * (1 - fade) + low * fade, (SIDE, SIDE, 3))
    dark = np.array(rng.choice(((14, 14, 20), (34, 20, 40), (18, 24, 44))), np.float32)
    cover = halve(drawing.object_mask().astype(np.float32))[..., None]
    return backdrop * (1 - cover) + dark * cover


@style(
    "sketch",
    "sketch",
    "pencil sketch",
    "pencil drawing",
    "black and white sketch",
    "line drawing",
    share=0.01,
    setting=False,
    coloured=False,
)
def sketch(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Doubled pencil lines and hatching of the dark parts, on paper."""
    index = shaky(drawing.index, rng, 1.1)
    part = drawing.object_mask(index)
    dark = part & (drawing.colours.mean(axis=1) < 125)[index]
    hatching = (grain.COLUMNS + grain.ROWS * rng.choice((-1, 1))) % 7 < 2
    pressure = 1 + 0.25 * grain.fractal(rng, DOUBLE)
    line = edges(drawing, index, 2) * pressure
    second = edges(drawing, shaky(drawing.index, rng, 1.6), 1)
    x = rng.uniform(234, 252) + 3 * grain.fractal(rng, DOUBLE)
    x = x - 62 * (hatching & dark) - 50 * second
    x = x - rng.uniform(150, 205) * np.clip(line, 0, 1)
    return np.repeat(halve(x)[..., None], 3, axis=2)


@style(
    "crayon drawing",
    "crayon drawing",
    "drawing",
    "doodle",
    "colourful drawing",
    share=0.025,
)
def crayon_drawing(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Waxy slanted fills that let the paper through, thick outlines in darker wax."""
    index = shaky(drawing.index, rng, 1.5)
    part = drawing.object_mask(index)
    wax = np.clip(0.78 + 0.3 * grain.strokes(rng), 0.1, 1)
    wax *= np.where(part, np.float32(1), np.float32(0.45))
    line = 0.85 * np.clip(
        edges(drawing, index, 3) * (1 + 0.2 * grain.strokes(rng)), 0, 1
    )
    colours = vivid(drawing.colours, 1.25)
    fill = colours[index] * wax[..., None] + 246 * (1 - wax)[..., None]
    x = fill * (1 - line)[..., None] + (0.5 * colours)[index] * line[..., None]
    return halve(x) + 4 * grain.white(rng)[..., :1]


# Renditions that training never sees


@style("neon", "neon sign", "glowing sign", setting=False, coloured=False)
def neon(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Glowing tubes along the outlines in a dark room."""
    tubes = ((255, 60, 200), (60, 240, 255), (120, 255, 90), (255, 170, 40))
    pure = drawing.colours / (drawing.colours.max(axis=1, keepdims=True) + 1) * 255
    plain = np.ptp(drawing.colours, axis=1) < 55
    pure[plain] = np.array(rng.choice(tubes), np.float32)
    index = shaky(drawing.index, rng, 0.5)
    line = halve(edges(drawing, index, 3)[..., None] * pure[index])
    glow = blurred(line, 2.4) * 1.3 + blurred(line, 6) * 0.7
    return glow + line + 0.25 * line.max(axis=2, keepdims=True) + np.array([8, 6, 18])


@style("origami", "paper origami", "folded paper model", setting=False)
def origami(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Folded sheets: faceted flat colours, white creases and a cast shadow."""
    papers = ((236, 231, 221), (222, 229, 236), (240, 222, 216), (226, 234, 220))
    paper = np.array(rng.choice(papers), np.float32)
    folds = np.zeros((DOUBLE, DOUBLE), np.float32)
    for _ in range(4):
        angle, offset = rng.uniform(0, 2 * math.pi), rng.uniform(-0.2, 0.2)
        folds += np.sign(
            math.cos(angle) * grain.X128 + math.sin(angle) * grain.Y128 - offset
        )
    mask = drawing.object_mask()
    colours = drawing.colours * 0.82 + 42
    x = np.where(mask[..., None], colours[drawing.index], paper)
    x *= (1 + 0.085 * folds * mask)[..., None]
    shadow = np.pad(mask, ((5, 0), (4, 0)))[:-5, :-4] & ~mask
    x *= (1 - 0.3 * shadow)[..., None]
    return halve(x + 30 * edges(drawing, drawing.index, 1)[..., None])


@style("mosaic", "mosaic", "tile mosaic")
def mosaic(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Small uneven tiles, each of one colour, with grey joints."""
    tiles = grain.tiles(rng.randrange(grain.TILINGS))
    tones = vivid(drawing.colours, 1.25)[drawing.index[tiles.rows, tiles.columns]]
    tones = tones * (1 + 0.1 * grain.white(rng)[..., 0].ravel()[: len(tones), None])
    x = tones[tiles.cell]
    return halve(x + (128 - x) * (0.5 * tiles.joint)[..., None])


@style("embroidery", "embroidery", "stitched patch", setting=False)
def embroidery(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Satin stitches, turned from part to part, on woven linen."""
    cloths = ((224, 212, 190), (62, 74, 112), (236, 232, 226), (150, 62, 66))
    cloth = np.array(rng.choice(cloths), np.float32)
    mask, index = drawing.object_mask(), drawing.index
    slant = np.where(index % 2 == 0, grain.COLUMNS, -grain.COLUMNS)
    thread = 1 + 0.2 * np.sin((slant + grain.ROWS) * (2 * np.pi / 5))
    weave = 1 + 0.07 * (((grain.COLUMNS // 2 + grain.ROWS // 2) % 2) * 2 - 1)
    line = edges(drawing, index, 2) * (
        0.7 + 0.3 * ((grain.COLUMNS + grain.ROWS) % 6 < 4)
    )
    stitched = drawing.colours[index] * (thread * (1 - 0.45 * line))[..., None]
    return halve(np.where(mask[..., None], stitched, cloth * weave[..., None]))


@style("chalk", "chalk drawing", "chalkboard drawing", setting=False, coloured=False)
def chalk(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Dusty lines in one tint on a wiped board."""
    board = np.array(rng.choice(((40, 56, 48), (38, 38, 43), (34, 46, 62))), np.float32)
    tints = ((236, 236, 230), (238, 228, 150), (238, 182, 192), (172, 212, 236))
    tint = np.array(rng.choice(tints), np.float32)
    index = shaky(drawing.index, rng, 1.3)
    part = drawing.object_mask(index)
    dust = np.clip(0.12 + 0.1 * grain.strokes(rng), 0, 0.5) * part
    line = edges(drawing, index, 3) * (0.78 + 0.3 * grain.fractal(rng, DOUBLE))
    cover = halve(np.clip(line + dust, 0, 1))[..., None]
    wiped = 1 + 0.12 * grain.fractal(rng, SIDE)[..., None]
    return board * wiped * (1 - cover) + tint * cover


@style("blueprint", "blueprint", "technical drawing", setting=False, coloured=False)
def blueprint(drawing: Drawing, rng: random.Random) -> np.ndarray:
    """Fine white lines on blue squared paper."""
    x = np.array([34, 78, 164], np.float32) * rng.uniform(0.8, 1.1)
    x = x * (1 + 0.04 * grain.fractal(rng, DOUBLE))[..., None]
    grid = (grain.COLUMNS % 16 < 1) | (grain.ROWS % 16 < 1)
    x = x + 26 * grid[..., None]
    line = edges(drawing, shaky(drawing.index, rng, 0.4), 2)[..., None]
    return halve(x + (235 - x) * line)


@functools.cache
def training_shares() -> dict[str, float]:
    """Return {style: share of the training pictures}; photos have the rest."""
    rare = {name: s.share for name, s in STYLES.items() if name != "photo" and s.share}
    return {"photo": 1 - sum(rare.values()), **rare}
