"""Plants, fruit, and phenomena of sky and snow."""

import math
from random import Random

import numpy as np

from picto.geometry import (
    arc,
    box,
    ellipse,
    line,
    pie,
    poly,
    smooth,
    star_polygon,
    turned,
)
from picto.shapes import Parts, shape

# Corners read best in rows of x, y pairs.
# fmt: off


@shape(
    colours="green orange",
    places="meadow forest",
    kind="plant",
    parts=("a round crown of leaves", "a thick trunk"),
    uses="giving shade",
)
def tree(rng: Random) -> Parts:
    """A trunk with a forked branch under a crown of round leaf clouds."""
    count, phase = rng.randint(5, 7), rng.random()
    parts = [
        (poly(-0.2, 1, -0.1, 0.1, 0.1, 0.1, 0.2, 1), "wood"),
        (line(0.1, 0, 0.55, 0.3, 0.15), "wood"),
    ]
    for i in range(count):
        angle = 2 * math.pi * i / count + phase
        x, y = 0.44 * math.cos(angle), -0.32 + 0.34 * math.sin(angle)
        role = "shade" if y > -0.25 else "main"
        parts.append((ellipse(x, y, rng.uniform(0.34, 0.44)), role))
    return [
        *parts,
        (ellipse(0, -0.36, 0.44), "main"),
        (ellipse(-0.16, -0.55, 0.2, 0.14, 12), "light"),
    ]


@shape(
    colours="green",
    places="snow forest",
    kind="plant",
    parts=("a pointed top", "layered branches", "a short trunk"),
    uses="growing cones",
    synonyms=("fir tree",),
)
def pine_tree(rng: Random) -> Parts:
    """Three or four stacked triangles, each with a darker rim, on a short trunk."""
    count, width = rng.randint(3, 4), rng.uniform(0.55, 0.7)
    parts = [(box(-0.11, 0.6, 0.11, 1), "wood")]
    for i in range(count):
        y, half = 0.72 - i * 1.3 / count, width * (1 - i * 0.72 / count)
        parts += [
            (
                poly(
                    -half, y, 0, y - 0.85, half, y, half * 0.5, y + 0.06, 0, y,
                    -half * 0.5, y + 0.06,
                ),
                "main",
            ),
            (
                poly(
                    -half, y, 0, y - 0.16, half, y, half * 0.5, y + 0.06, 0, y,
                    -half * 0.5, y + 0.06,
                ),
                "shade",
            ),
        ]
    return parts


@shape(
    colours="green",
    accents="pink red yellow",
    places="desert",
    kind="plant",
    parts=("raised arms", "sharp spines", "a flower on top", "a thick stem"),
    uses="storing water",
)
def cactus(rng: Random) -> Parts:
    """A ribbed column with two raised arms and a flower on top."""
    parts = [
        (pie(0, -0.55, 0.23, 0.28, 180, 360), "main"),
        (box(-0.23, -0.56, 0.23, 1), "main"),
    ]
    for side in (-1, 1):
        y, top = rng.uniform(0.05, 0.4), rng.uniform(0.35, 0.65)
        parts += [
            (line(0.24, side * 0.15, y, side * 0.6, y, side * 0.62, y - top), "main"),
            (ellipse(side * 0.62, y - top, 0.12, n=10), "main"),
            (line(0.04, side * 0.62, y - top, side * 0.61, y - 0.08), "shade"),
        ]
    parts += [(box(x - 0.02, -0.6, x + 0.02, 1), "shade") for x in (-0.1, 0.1)]
    spines = (
        (-0.26, -0.3),
        (0.26, -0.2),
        (0, -0.1),
        (-0.26, 0.6),
        (0.26, 0.7),
        (0, 0.3),
    )
    parts += [
        (poly(x - 0.07, y, x, y - 0.04, x + 0.07, y, x, y + 0.03), "cream")
        for x, y in spines
    ]
    petals = [(ellipse(x, -0.86, 0.1, 0.13, 10), "accent") for x in (-0.1, 0.1, 0)]
    return [*parts, *petals]


@shape(
    colours="red brown orange",
    accents="white",
    places="forest meadow",
    kind="fungus",
    parts=("a round cap", "a pale stem", "spots on its cap"),
    uses="growing in the shade",
    synonyms=("toadstool",),
)
def mushroom(rng: Random) -> Parts:
    """A spotted domed cap, gills below it, on a pale swelling stem."""
    width, height = rng.uniform(0.82, 0.97), rng.uniform(0.82, 1)
    spots = [
        (-0.45, -0.25, 0.12),
        (0.02, -0.55, 0.15),
        (0.45, -0.22, 0.12),
        (0, -0.14, 0.1),
    ]
    return [
        (
            smooth(-0.18, 0, 0.18, 0, 0.2, 0.5, 0.34, 0.95, -0.34, 0.95, -0.2, 0.5),
            "cream",
        ),
        (poly(-0.2, 0.28, 0.2, 0.28, 0.3, 0.42, -0.3, 0.42), "white"),
        (ellipse(0, 0.06, width, 0.15), "tan"),
        (pie(0, 0.08, width, height, 180, 360), "main"),
        *(
            (ellipse(x * width, y * height, r, r * 0.85, 12), "accent")
            for x, y, r in spots
        ),
    ]


@shape(
    colours="pink red purple white",
    accents="yellow",
    places="meadow",
    kind="plant",
    parts=("soft petals", "a green stem", "a round centre", "two green leaves"),
    uses="attracting bees",
    synonyms=("blossom",),
)
def flower(rng: Random) -> Parts:
    """Five to eight petals around a disc on a stem with two leaves."""
    count, length, phase = rng.randint(5, 8), rng.uniform(0.3, 0.36), rng.random()
    petal = ellipse(0.38, 0, length, 0.2, 14)
    parts = [
        (line(0.1, 0, -0.2, rng.uniform(-0.1, 0.1), 1), "leaf"),
        (turned(ellipse(0.26, 0, 0.26, 0.11, 12), -28) + 0.72j, "leaf"),
        (turned(ellipse(-0.26, 0, 0.26, 0.11, 12), 28) + 0.85j, "leaf"),
    ]
    for i in range(count):
        angle = 360 * i / count + 57 * phase
        role = "main" if i % 2 else "light"
        parts.append((turned(petal, angle) - 0.3j, role))
    return [*parts, (ellipse(0, -0.3, 0.2), "accent")]


@shape(
    colours="yellow orange",
    accents="orange yellow",
    places="sky beach",
    kind="light in the sky",
    parts=("pointed rays", "a round face", "a glowing disc"),
    uses="shining",
)
def sun(rng: Random) -> Parts:
    """A disc with a smiling face and a wreath of pointed rays."""
    count, phase, tip = rng.randint(9, 12), rng.uniform(0, 40), rng.uniform(0.92, 1)
    ray = poly(0.5, -0.15, tip, 0, 0.5, 0.15)
    return [
        *((turned(ray, phase + 360 * i / count), "accent") for i in range(count)),
        (ellipse(0, 0, 0.58, n=28), "main"),
        (ellipse(0, 0, 0.45, n=24), "light"),
        (ellipse(-0.18, -0.12, 0.07, 0.09, 8), "dark"),
        (ellipse(0.18, -0.12, 0.07, 0.09, 8), "dark"),
        (arc(0, 0.05, 0.24, 0.2, 20, 160, 0.07, 10), "dark"),
    ]


@shape(
    colours="yellow white",
    places="night",
    kind="light in the sky",
    parts=("a curved crescent", "two sharp tips", "shallow craters"),
    uses="shining at night",
)
def moon(rng: Random) -> Parts:
    """A crescent with two sharp tips and craters along its outer side."""
    inset = rng.uniform(0.28, 0.42)
    outer = pie(0, 0, 0.95, 0.95, 62, 298, 22)
    inner = pie(outer[0].real, 0, inset + outer[0].real, outer[0].imag, 90, 270, 18)
    x = -0.75 + 0.2 * inset
    return [
        (np.concatenate([outer, inner[::-1]]) + 0.25, "main"),
        (ellipse(x + 0.3, -0.1, 0.12, n=12), "shade"),
        (ellipse(x + 0.42, 0.36, 0.09, n=10), "shade"),
        (ellipse(x + 0.48, -0.48, 0.08, n=10), "shade"),
    ]


@shape(
    colours="yellow white",
    places="night",
    kind="light in the sky",
    parts=("five points", "straight edges", "bright facets"),
    uses="twinkling",
)
def star(rng: Random) -> Parts:
    """Five points, each folded into a light and a dark facet."""
    points = star_polygon(5, 0.98, rng.uniform(0.38, 0.46))
    facets = [
        (np.array([0, points[2 * i], points[2 * i + 1]]), "shade") for i in range(5)
    ]
    return [(points, "main"), *facets]


@shape(
    colours="white",
    accents="red green blue",
    places="snow",
    kind="figure",
    parts=("three balls of snow", "a carrot nose", "a black hat", "a warm scarf"),
    uses="standing in the cold",
)
def snowman(rng: Random) -> Parts:
    """Three snowballs with hat, carrot nose, scarf, buttons and stick arms."""
    lift = rng.uniform(-0.35, -0.05)
    return [
        (line(0.07, -0.25, 0, -0.85, lift), "wood"),
        (line(0.07, 0.25, 0, 0.85, lift), "wood"),
        (ellipse(0, 0.58, 0.44), "main"),
        (ellipse(0, 0.0, 0.34), "main"),
        (ellipse(0, -0.45, 0.27), "main"),
        (box(-0.28, -0.29, 0.28, -0.17), "accent"),
        (box(0.06, -0.2, 0.19, 0.1), "accent"),
        (box(-0.34, -0.68, 0.34, -0.6), "black"),
        (box(-0.21, -0.98, 0.21, -0.66), "black"),
        (ellipse(-0.1, -0.52, 0.045, n=8), "black"),
        (ellipse(0.1, -0.52, 0.045, n=8), "black"),
        (poly(0, -0.48, 0.34, -0.4, 0, -0.38), "orange"),
        *((ellipse(-0.04, y, 0.05, n=8), "black") for y in (0.05, 0.42, 0.62)),
    ]


@shape(
    colours="red green yellow",
    places="room meadow",
    kind="fruit",
    parts=("a round body", "a thin stem", "a green leaf"),
    uses="eating",
)
def apple(rng: Random) -> Parts:
    """A round fruit, notched at the top, with a stem and a leaf."""
    r = rng.uniform(0.8, 0.9)
    return [
        (
            smooth(
                0, -0.32, 0.4, -0.52, r, -0.15, 0.68, 0.62, 0.28, 0.95, 0, 0.85,
                -0.28, 0.95, -0.68, 0.62, -r, -0.15, -0.4, -0.52,
            ),
            "main",
        ),
        (pie(0, -0.42, 0.25, 0.14, 0, 180, 8), "shade"),
        (line(0.09, 0, -0.36, 0.1, -0.95), "wood"),
        (turned(ellipse(0.34, 0, 0.32, 0.14, 12), -25) + 0.04 - 0.6j, "leaf"),
        (turned(ellipse(-0.48, 0.02, 0.11, 0.25, 12), 12), "light"),
    ]


@shape(
    colours="red pink",
    places="meadow studio",
    kind="fruit",
    parts=("two round balls", "two long stems", "a green leaf"),
    uses="eating",
    synonyms=("berry",),
)
def cherry(rng: Random) -> Parts:
    """Two small balls hanging from two long stems joined under a leaf."""
    drop, r = rng.uniform(0.42, 0.6), rng.uniform(0.36, 0.42)
    return [
        (line(0.07, -0.48, 0.35, -0.3, -0.4, 0.1, -0.92), "leaf"),
        (line(0.07, 0.48, drop, 0.4, -0.3, 0.1, -0.92), "leaf"),
        (smooth(0.1, -0.92, 0.45, -1, 0.9, -0.7, 0.5, -0.62), "leaf"),
        (ellipse(-0.5, 0.5, r), "main"),
        (ellipse(0.5, drop + 0.12, r), "main"),
        (ellipse(-0.63, 0.38, 0.1, n=8), "light"),
        (ellipse(0.37, drop, 0.1, n=8), "light"),
    ]


@shape(
    colours="green yellow",
    places="room meadow",
    kind="fruit",
    parts=("a narrow neck", "a round bottom", "a thin stem"),
    uses="eating",
)
def pear(rng: Random) -> Parts:
    """A narrow neck widening to a round bottom, with a stem, a leaf and freckles."""
    w = rng.uniform(0.58, 0.68)
    dots = ((0.2, 0.35), (0.32, 0.6), (0.05, 0.55), (0.1, 0.78))
    return [
        (
            smooth(
                -0.14, -0.72, 0.14, -0.72, 0.3, -0.2, w, 0.4, 0.42, 0.9, -0.42, 0.9,
                -w, 0.4, -0.3, -0.2,
            ),
            "main",
        ),
        (line(0.08, 0, -0.72, 0.12, -1), "wood"),
        (turned(ellipse(0.26, 0, 0.25, 0.1, 12), -12) - 0.82j, "leaf"),
        (smooth(-0.2, -0.3, -0.12, -0.1, -0.34, 0.55, -0.44, 0.3), "light"),
        *((ellipse(x, y, 0.035, n=6), "shade") for x, y in dots),
        (ellipse(0, 0.93, 0.07, 0.04, 8), "dark"),
    ]


@shape(
    colours="yellow green",
    places="room studio",
    kind="fruit",
    parts=("a long curved body", "two dark tips", "a soft peel"),
    uses="eating",
)
def banana(rng: Random) -> Parts:
    """A long upturned curve with dark tips and a ridge along it."""
    bend, width = rng.uniform(0.45, 0.6), rng.uniform(0.36, 0.46)
    t = np.linspace(-1, 1, 13)
    top = t * 0.92 + 1j * (bend * (1 - t**2) - 0.42)
    low = t * 0.92 + 1j * (bend * (1 - t**2) - 0.36 + width * (1 - t**4))
    ridge = (top * 0.45 + low * 0.55)[1:-1]
    return [
        (np.concatenate([low, top[::-1]]), "main"),
        (np.concatenate([ridge, (ridge + 0.06j)[::-1]]), "shade"),
        (line(0.14, -0.86, -0.3, -0.98, -0.58), "dark"),
        (ellipse(0.92, -0.38, 0.08, n=8), "dark"),
    ]


@shape(
    colours="orange",
    places="meadow room",
    kind="vegetable",
    parts=("a pointed root", "green leaves on top", "thin rings"),
    uses="eating",
)
def carrot(rng: Random) -> Parts:
    """A root tapering downwards with short rings and a tuft of leaves."""
    w = rng.uniform(0.28, 0.36)
    frond = ellipse(0.3, 0, 0.32, 0.1, 12)
    return [
        *((turned(frond, a) - 0.42j, "leaf") for a in (-50, -130, -72, -108, -90)),
        (
            smooth(
                -w, -0.45, 0, -0.55, w, -0.45, w * 0.62, 0.25, 0, 1, -w * 0.62, 0.25
            ),
            "main",
        ),
        (line(0.05, -w * 0.95, -0.2, -0.02, -0.14), "shade"),
        (line(0.05, w * 0.8, 0.08, 0.06, 0.14), "shade"),
        (line(0.05, -w * 0.6, 0.36, 0, 0.4), "shade"),
    ]
