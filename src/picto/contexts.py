"""Contexts: the places behind the object, drawn as layers of polygons.

A context is a decorated function of a random stream and the height of the ground (0 the
top, 1 the bottom of the picture) to its layers, back to front, in [0, 1]^2.
"""

import dataclasses
import random
from collections.abc import Callable

import numpy as np

from picto.geometry import Polygon, arc, box, ellipse, pie, poly, smooth

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A polygon in [0, 1]^2 with its colour and its shading."""

    polygon: Polygon
    colour: Colour
    gradient: float = 0.0  # relative brightness gained from top to bottom
    texture: float = 0.05  # relative amplitude of the fractal noise


Draw = Callable[[random.Random, float], list[Layer]]


@dataclasses.dataclass(frozen=True)
class Context:
    """A place: its drawing, its names in captions, and whether it has a ground."""

    name: str
    draw: Draw
    phrases: tuple[str, ...]
    ground: bool  # objects stand on a ground and cast a shadow


CONTEXTS: dict[str, Context] = {}

ALL = box(-0.01, -0.01, 1.01, 1.01)


def context(*phrases: str, ground: bool) -> Callable[[Draw], Draw]:
    """Register the decorated function as a context with these names in captions."""

    def register(draw: Draw) -> Draw:
        CONTEXTS[draw.__name__] = Context(draw.__name__, draw, phrases, ground)
        return draw

    return register


def _near(rng: random.Random, colour: Colour, spread: float = 16) -> Colour:
    """The colour with random shifts, common and per channel."""
    shift = rng.uniform(-spread, spread) * 0.7
    red, green, blue = colour
    half = spread * 0.5
    return (
        red + shift + rng.uniform(-half, half),
        green + shift + rng.uniform(-half, half),
        blue + shift + rng.uniform(-half, half),
    )


def _below(height: float) -> Polygon:
    return box(-0.01, height, 1.01, 1.01)


def _hill(x: float, base: float, width: float, height: float) -> Polygon:
    return pie(x, base, width, height, 180, 360, 12)


def _cloud(x: float, y: float, size: float, colour: Colour) -> list[Layer]:
    puffs = ((-0.09, 0.0, 0.06), (0.0, -0.025, 0.08), (0.1, 0.0, 0.055))
    return [
        Layer(
            ellipse(x + dx * size, y + dy * size, r * size, 0.7 * r * size, 12), colour
        )
        for dx, dy, r in puffs
    ]


@context("in a meadow", "on the grass", "in a green field", ground=True)
def meadow(rng: random.Random, ground: float) -> list[Layer]:
    """Sky with a cloud, a distant hill, grass with tufts and small flowers."""
    grass = _near(rng, (98, 172, 72))
    layers = [
        Layer(ALL, _near(rng, (150, 202, 242)), 0.35, 0.03),
        *_cloud(rng.random(), rng.uniform(0.06, 0.2), 1.2, (246, 248, 252)),
        Layer(
            _hill(rng.random(), ground + 0.02, 0.5, 0.2), _near(rng, (128, 178, 132))
        ),
        Layer(_hill(rng.random(), ground + 0.02, 0.6, 0.1), _near(rng, (112, 172, 98))),
        Layer(_below(ground), grass, -0.35, 0.16),
    ]
    dark = (grass[0] * 0.72, grass[1] * 0.76, grass[2] * 0.7)
    for _ in range(5):
        x, y = rng.random(), rng.uniform(ground + 0.03, 1)
        tuft = poly(
            x - 0.03, y - 0.04, x, y, x, y - 0.06, x, y, x + 0.03, y - 0.04, x, y
        )
        layers.append(Layer(tuft + 0.01j, dark))
    for _ in range(rng.randint(0, 4)):
        x, y = rng.random(), rng.uniform(ground + 0.03, 1)
        dot = rng.choice(((250, 240, 120), (250, 250, 250), (245, 160, 190)))
        layers.append(Layer(ellipse(x, y, 0.014, n=6), dot))
    return layers


@context("in the sea", "on the water", "in the ocean", ground=False)
def sea(rng: random.Random, ground: float) -> list[Layer]:
    """A strip of sky over deep water with rows of waves."""
    top = rng.uniform(0.18, 0.36)
    water = _near(rng, (44, 116, 182))
    crest = (water[0] + 58, water[1] + 52, water[2] + 34)
    x = np.linspace(-0.02, 1.02, 11)
    layers = [
        Layer(ALL, _near(rng, (172, 214, 244)), 0.2, 0.03),
        Layer(_below(top), water, -0.45, 0.1),
    ]
    for i in range(4):
        y = top + 0.07 + i * (0.95 - top) / 4 + rng.uniform(-0.02, 0.02)
        wave = y + 0.014 * np.sin(x * rng.uniform(20, 30) + rng.uniform(0, 6))
        band = np.concatenate([x + 1j * wave, (x + 1j * (wave + 0.016))[::-1]])
        layers.append(Layer(band, crest, 0, 0.15))
    return layers


@context("at night", "in the night sky", "under the stars", ground=False)
def night(rng: random.Random, ground: float) -> list[Layer]:
    """A dark blue sky, a faint milky way, stars, and sometimes hills below."""
    sky = _near(rng, (22, 28, 72), 10)
    lit = (sky[0] + 6, sky[1] + 6, sky[2] + 10)
    x = rng.uniform(0.1, 0.9)
    layers = [
        Layer(ALL, sky, 0.5, 0.12),
        Layer(
            poly(x - 0.4, -0.01, x, -0.01, x + 0.2, 1.01, x - 0.1, 1.01), lit, 0, 0.3
        ),
    ]
    for _ in range(rng.randint(9, 16)):
        size = rng.uniform(0.006, 0.016)
        star = ellipse(rng.random(), rng.random(), size, n=4)
        layers.append(Layer(star, (250, 246, 218), 0, 0))
    if rng.random() < 0.35:
        layers.append(Layer(_hill(rng.random(), 1.05, 0.7, 0.2), (12, 16, 36)))
    return layers


@context("in the desert", "on the sand dunes", "on hot sand", ground=True)
def desert(rng: random.Random, ground: float) -> list[Layer]:
    """A pale sky over three bands of dunes, each with a shaded flank."""
    sand = _near(rng, (230, 182, 108))
    layers = [Layer(ALL, _near(rng, (240, 214, 168)), 0.25, 0.03)]
    if rng.random() < 0.5:
        disc = ellipse(rng.random(), rng.uniform(0.08, 0.2), 0.07, n=16)
        layers.append(Layer(disc, (255, 244, 214), 0, 0))
    for shade, height in ((0.86, 0.2), (0.93, 0.11)):
        x = rng.random()
        colour = (sand[0] * shade, sand[1] * shade, sand[2] * shade)
        dark = (colour[0] * 0.86, colour[1] * 0.82, colour[2] * 0.8)
        flank = poly(x, ground - height, x + 0.5, ground + 0.05, x - 0.1, ground + 0.05)
        dune = poly(x, ground - height, x + 0.5, ground + 0.05, x - 0.55, ground + 0.05)
        layers += [Layer(dune, colour, 0, 0.06), Layer(flank, dark, 0, 0.06)]
    layers.append(Layer(_below(ground), sand, -0.25, 0.1))
    for _ in range(3):
        y, x = rng.uniform(ground + 0.06, 0.98), rng.uniform(-0.2, 0.7)
        ripple = arc(x + 0.25, y + 0.05, 0.3, 0.06, 200, 340, 0.012, 8)
        layers.append(Layer(ripple, (sand[0] * 0.85, sand[1] * 0.8, sand[2] * 0.75)))
    return layers


@context("in the snow", "in winter", "on snowy ground", ground=True)
def snow(rng: random.Random, ground: float) -> list[Layer]:
    """A grey-blue sky with falling flakes, white mountains and snowy ground."""
    x = rng.random()
    rock = _near(rng, (150, 166, 196))
    peak = ground - rng.uniform(0.25, 0.38)
    flakes = [
        Layer(ellipse(rng.random(), rng.random() * ground, 0.011, n=5), (252, 252, 255))
        for _ in range(rng.randint(4, 12))
    ]
    return [
        Layer(ALL, _near(rng, (178, 198, 226)), 0.2, 0.04),
        Layer(poly(x - 0.4, ground, x, peak, x + 0.45, ground), rock, 0, 0.1),
        Layer(
            poly(x - 0.13, peak + 0.12, x, peak, x + 0.14, peak + 0.12, x, peak + 0.09),
            (244, 248, 252),
        ),
        Layer(_hill(rng.random(), ground + 0.03, 0.5, 0.1), (222, 230, 242)),
        Layer(_below(ground), _near(rng, (236, 241, 249), 7), -0.12, 0.05),
        *flakes,
    ]


@context("in a room", "indoors", "on a wooden table", ground=True)
def room(rng: random.Random, ground: float) -> list[Layer]:
    """A wall with a window or a framed picture, and a table of wooden boards."""
    wall = _near(rng, (214, 194, 164), 34)
    wood = _near(rng, (158, 106, 64))
    x, w = rng.uniform(0.02, 0.68), rng.uniform(0.22, 0.32)
    top, low = 0.07, rng.uniform(0.3, 0.38)
    layers = [Layer(ALL, wall, 0.15, 0.04)]
    layers.append(
        Layer(box(x - 0.02, top - 0.02, x + w + 0.02, low + 0.02), (240, 234, 222))
    )
    if rng.random() < 0.6:
        pane = box(x, top, x + w, low)
        cross = (box(x + w / 2 - 0.012, top, x + w / 2 + 0.012, low),)
        cross += (box(x, (top + low) / 2 - 0.012, x + w, (top + low) / 2 + 0.012),)
        layers.append(Layer(pane, _near(rng, (170, 208, 236)), 0.3))
        layers += [Layer(bar, (240, 234, 222)) for bar in cross]
    else:
        layers.append(Layer(box(x, top, x + w, low), _near(rng, (150, 150, 150), 70)))
    layers += [
        Layer(_below(ground), wood, -0.2, 0.14),
        Layer(box(-0.01, ground, 1.01, ground + 0.02), tuple(1.15 * c for c in wood)),
    ]
    for i in range(2):
        y = ground + (i + 1) * (1 - ground) / 3
        layers.append(
            Layer(box(-0.01, y, 1.01, y + 0.01), tuple(0.72 * c for c in wood))
        )
    return layers


@context("on the street", "in the city", "in front of buildings", ground=True)
def street(rng: random.Random, ground: float) -> list[Layer]:
    """Houses with windows along a pavement and a road with lane marks."""
    layers = [Layer(ALL, _near(rng, (170, 205, 236)), 0.25, 0.03)]
    x = rng.uniform(-0.15, 0)
    while x < 1:
        w, top = rng.uniform(0.2, 0.34), rng.uniform(0.06, 0.34) * ground / 0.6
        wall = _near(rng, (156, 142, 136), 44)
        pane = rng.choice(((236, 222, 160), (96, 112, 136), (186, 212, 230)))
        layers.append(Layer(box(x, top, x + w, ground), wall, -0.1, 0.07))
        for row in range(2):
            y = top + 0.06 + 0.13 * row
            if y + 0.07 < ground:
                for dx in (0.2, 0.6):
                    left = x + dx * w
                    layers.append(Layer(box(left, y, left + 0.22 * w, y + 0.07), pane))
        x += w
    middle = (ground + 1.04) / 2
    mark = rng.uniform(-0.1, 0.2)
    return [
        *layers,
        Layer(_below(ground), _near(rng, (102, 102, 110)), -0.2, 0.08),
        Layer(box(-0.01, ground, 1.01, ground + 0.045), _near(rng, (176, 172, 168), 8)),
        *(
            Layer(
                box(mark + i * 0.42, middle, mark + i * 0.42 + 0.22, middle + 0.03),
                (232, 230, 214),
            )
            for i in range(3)
        ),
    ]


@context("in the forest", "among the trees", "in the woods", ground=True)
def forest(rng: random.Random, ground: float) -> list[Layer]:
    """Dim green light, two ranks of trunks, foliage above and ferns on the soil."""
    layers = [Layer(ALL, _near(rng, (122, 158, 108)), 0.35, 0.14)]
    for rank, colour, width in ((0, (96, 104, 74), 0.05), (1, (84, 62, 44), 0.08)):
        for _ in range(rng.randint(2, 3)):
            x, w = rng.random(), width * rng.uniform(0.7, 1.2)
            foot = ground + 0.05 * rank
            trunk = poly(
                x - w / 2, 0, x + w / 2, 0, x + 0.7 * w, foot, x - 0.7 * w, foot
            )
            layers.append(Layer(trunk, _near(rng, colour, 12), 0, 0.2))
    for _ in range(4):
        crown = ellipse(
            rng.random(), rng.uniform(-0.04, 0.05), rng.uniform(0.12, 0.22), 0.1
        )
        layers.append(Layer(crown, _near(rng, (62, 112, 54)), 0, 0.25))
    layers.append(Layer(_below(ground), _near(rng, (92, 104, 56)), -0.35, 0.25))
    for _ in range(3):
        x, y = rng.random(), rng.uniform(ground + 0.03, 1)
        fern = poly(
            x,
            y,
            x - 0.07,
            y - 0.05,
            x - 0.01,
            y - 0.03,
            x,
            y - 0.09,
            x + 0.02,
            y - 0.03,
            x + 0.07,
            y - 0.05,
        )
        layers.append(Layer(fern, _near(rng, (64, 128, 58)), 0, 0.1))
    return layers


@context("on the beach", "by the sea", "on a sandy shore", ground=True)
def beach(rng: random.Random, ground: float) -> list[Layer]:
    """Sky, a strip of sea with foam, sand with shells."""
    sand = _near(rng, (238, 216, 166), 10)
    x = np.linspace(-0.02, 1.02, 9)
    shore = ground + 0.015 * np.sin(x * 14 + rng.uniform(0, 6))
    low = x[::-1] + 1.02j
    layers = [
        Layer(ALL, _near(rng, (150, 208, 244)), 0.3, 0.03),
        *_cloud(rng.random(), rng.uniform(0.06, 0.2), 1.3, (250, 251, 253)),
        Layer(
            _below(ground - rng.uniform(0.13, 0.22)),
            _near(rng, (52, 152, 192)),
            0,
            0.08,
        ),
        Layer(np.concatenate([x + 1j * (shore - 0.02), low]), (246, 250, 250), 0, 0.02),
        Layer(np.concatenate([x + 1j * (shore + 0.01), low]), sand, -0.2, 0.09),
    ]
    for _ in range(rng.randint(1, 4)):
        shell = pie(
            rng.random(), rng.uniform(ground + 0.08, 1), 0.025, 0.025, 180, 360, 6
        )
        layers.append(Layer(shell, _near(rng, (250, 200, 180), 14)))
    return layers


@context("in the sky", "against a blue sky", "among the clouds", ground=False)
def sky(rng: random.Random, ground: float) -> list[Layer]:
    """Bright blue fading downwards, with two to four clouds."""
    layers = [Layer(ALL, _near(rng, (104, 170, 238)), 0.45, 0.04)]
    for _ in range(rng.randint(2, 4)):
        x, y = rng.random(), rng.random()
        layers += _cloud(x, y, rng.uniform(0.9, 1.8), _near(rng, (243, 247, 252), 6))
    return layers


@context("on a plain background", "in a studio", ground=True)
def studio(rng: random.Random, ground: float) -> list[Layer]:
    """A plain backdrop of any colour, curving into the floor."""
    if rng.random() < 0.5:
        tone = rng.uniform(185, 242)
        backdrop = (tone, tone, tone)
    else:
        backdrop = _near(rng, (160, 160, 160), 75)
    floor = smooth(
        -0.2, ground + 0.04, 0.5, ground - 0.02, 1.2, ground + 0.04, 1.2, 1.2, -0.2, 1.2
    )
    return [
        Layer(ALL, backdrop, rng.uniform(-0.1, 0.35), 0.03),
        Layer(floor, tuple(0.93 * c for c in backdrop), 0.15, 0.03),
    ]
