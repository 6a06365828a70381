"""Household things and sweets."""

from random import Random

import numpy as np

from picto.geometry import arc, box, ellipse, line, pie, poly, smooth, turned
from picto.shapes import Parts, shape

# Corners read best in rows of x, y pairs.
# fmt: off


@shape(
    colours="yellow grey",
    places="room studio",
    kind="tool",
    parts=("a round bow with a hole", "a long shaft", "square teeth"),
    uses="opening locks",
)
def key(rng: Random) -> Parts:
    """A ring bow, a shaft and two or three teeth pointing down."""
    parts = [
        (arc(-0.56, 0, 0.3, 0.3, 0, 360, 0.2, 22), "main"),
        (box(-0.26, -0.09, 0.98, 0.09), "main"),
        (box(-0.22, -0.16, -0.12, 0.16), "shade"),
    ]
    for x in (0.44, 0.64, 0.84):
        parts.append((box(x, 0.05, x + 0.13, rng.uniform(0.26, 0.42)), "main"))
    return parts


@shape(
    colours="white red blue",
    accents="blue white yellow",
    places="room",
    kind="cup",
    parts=("a curved handle", "straight sides", "a dark drink", "rising steam"),
    uses="drinking coffee",
    synonyms=("coffee cup",),
)
def mug(rng: Random) -> Parts:
    """Straight sides with a band, a handle at the right, dark drink and steam."""
    w, top = rng.uniform(0.48, 0.56), -0.42
    steam = line(0.06, -0.15, -0.58, -0.05, -0.7, -0.17, -0.82, -0.07, -0.96)
    return [
        (arc(w, 0.18, 0.3, 0.3, -100, 100, 0.15), "main"),
        (box(-w, top, w, 0.82), "main"),
        (ellipse(0, 0.82, w, 0.13), "main"),
        (poly(-w, 0.08, w, 0.08, w, 0.4, -w, 0.4), "accent"),
        (ellipse(0, top, w, 0.16), "light"),
        (ellipse(0, top + 0.02, w - 0.09, 0.11), "wood"),
        (steam - 0.1, "ice"),
        (steam + 0.25, "ice"),
    ]


@shape(
    colours="blue red grey",
    accents="white yellow",
    places="beach",
    kind="container",
    parts=("a thin handle", "sloping sides", "a wide opening", "a coloured band"),
    uses="carrying water",
    synonyms=("pail",),
)
def bucket(rng: Random) -> Parts:
    """Sides tapering downwards, a wide dark opening and a wire handle above."""
    foot = rng.uniform(0.42, 0.5)
    return [
        (arc(0, -0.3, 0.66, rng.uniform(0.55, 0.65), 180, 360, 0.08), "steel"),
        (poly(-0.72, -0.3, 0.72, -0.3, foot, 0.9, -foot, 0.9), "main"),
        (ellipse(0, 0.9, foot, 0.08), "main"),
        (poly(-0.64, 0.05, 0.64, 0.05, 0.59, 0.3, -0.59, 0.3), "accent"),
        (ellipse(0, -0.3, 0.72, 0.17), "light"),
        (ellipse(0, -0.28, 0.62, 0.12), "black"),
        (ellipse(-0.66, -0.24, 0.07, n=8), "steel"),
        (ellipse(0.66, -0.24, 0.07, n=8), "steel"),
    ]


@shape(
    colours="yellow white red",
    accents="brown grey blue",
    places="room",
    kind="furniture",
    parts=("a wide shade", "a thin stand", "a round foot", "a pull cord"),
    uses="lighting a room",
)
def lamp(rng: Random) -> Parts:
    """A trapezoid shade on a thin stand with a round foot and a pull cord."""
    w = rng.uniform(0.26, 0.36)
    return [
        (box(-0.06, -0.1, 0.06, 0.82), "accent"),
        (pie(0, 0.92, 0.45, 0.28, 180, 360), "accent"),
        (line(0.03, 0.4, 0, 0.4, 0.36), "dark"),
        (ellipse(0.4, 0.38, 0.06, n=8), "dark"),
        (poly(-w, -0.95, w, -0.95, 0.74, 0, -0.74, 0), "main"),
        (poly(-w, -0.95, -w * 0.4, -0.95, -0.36, 0, -0.74, 0), "light"),
        (ellipse(0, 0, 0.74, 0.1), "lamp"),
    ]


@shape(
    colours="brown red blue",
    accents="brown red yellow",
    places="room",
    kind="furniture",
    parts=("four legs", "a tall back", "a flat seat"),
    uses="sitting",
)
def chair(rng: Random) -> Parts:
    """A slatted back, a seat in perspective and four legs."""
    top = rng.uniform(-0.98, -0.85)
    return [
        (box(-0.27, 0.1, -0.17, 0.8), "shade"),
        (box(0.5, 0.1, 0.6, 0.8), "shade"),
        (box(-0.46, top, -0.34, 0.98), "main"),
        (box(0.2, top, 0.32, 0.98), "main"),
        (box(-0.46, top, 0.32, top + 0.2), "accent"),
        (box(-0.46, top + 0.34, 0.32, top + 0.5), "accent"),
        (poly(-0.5, 0.2, 0.34, 0.2, 0.66, 0.04, -0.2, 0.04), "accent"),
        (poly(-0.5, 0.2, 0.34, 0.2, 0.34, 0.32, -0.5, 0.32), "main"),
        (poly(0.34, 0.2, 0.66, 0.04, 0.66, 0.14, 0.34, 0.32), "shade"),
    ]


@shape(
    colours="green brown blue",
    accents="white yellow red",
    places="room studio",
    kind="container",
    parts=("a narrow neck", "a paper label", "a cork"),
    uses="storing drinks",
)
def bottle(rng: Random) -> Parts:
    """A slim neck over round shoulders, a label, a cork and a highlight."""
    w = rng.uniform(0.29, 0.36)
    return [
        (
            smooth(
                -0.1, -0.82, 0.1, -0.82, 0.12, -0.5, w, -0.15, w, 0.9, 0, 1, -w, 0.9,
                -w, -0.15, -0.12, -0.5,
            ),
            "main",
        ),
        (box(-0.1, -1, 0.1, -0.8), "tan"),
        (box(-0.14, -0.82, 0.14, -0.72), "shade"),
        (box(-w, 0.12, w, 0.62), "accent"),
        (ellipse(0, 0.37, 0.13, n=10), "dark"),
        (line(0.06, -w + 0.1, -0.1, -w + 0.1, 0.08), "light"),
    ]


@shape(
    colours="white red purple",
    accents="yellow grey",
    places="room night",
    kind="light",
    parts=("a small flame", "melting wax", "a round holder", "a short wick"),
    uses="giving light",
)
def candle(rng: Random) -> Parts:
    """A wax column with drips and a flame, on a plate with a handle."""
    w = rng.uniform(0.2, 0.27)
    return [
        (arc(0.58, 0.82, 0.17, 0.13, 0, 360, 0.09, 14), "accent"),
        (ellipse(0, 0.88, 0.56, 0.13), "accent"),
        (box(-w, -0.25, w, 0.86), "main"),
        (
            poly(
                -w - 0.03, -0.28, w + 0.03, -0.28, w + 0.02, 0.1, w * 0.55, -0.06,
                w * 0.1, 0.28, -w * 0.4, -0.02, -w - 0.02, 0.18,
            ),
            "light",
        ),
        (line(0.05, 0, -0.26, 0.02, -0.45), "black"),
        (smooth(0, -1.02, 0.15, -0.6, 0.1, -0.4, -0.1, -0.4, -0.15, -0.6), "fire"),
        (smooth(0, -0.78, 0.07, -0.52, 0, -0.44, -0.07, -0.52), "flame"),
    ]


@shape(
    colours="brown black blue red",
    places="room",
    kind="device",
    parts=("a round face", "two hands", "hour marks", "a thick rim"),
    uses="telling time",
    synonyms=("wall clock",),
)
def clock(rng: Random) -> Parts:
    """A rimmed white dial with twelve marks and two hands."""
    hour, minute = rng.uniform(0, 360), rng.uniform(0, 360)
    marks = [
        (turned(box(0.54 if i % 3 == 0 else 0.6, -0.045, 0.72, 0.045), 30 * i), "black")
        for i in range(12)
    ]
    return [
        (ellipse(0, 0, 0.96, n=30), "main"),
        (ellipse(0, 0, 0.78, n=28), "white"),
        *marks,
        (turned(box(-0.06, -0.05, 0.58, 0.05), minute), "black"),
        (turned(box(-0.06, -0.075, 0.38, 0.075), hour), "red"),
        (ellipse(0, 0, 0.09, n=8), "black"),
    ]


@shape(
    colours="red blue purple green",
    accents="yellow white",
    places="beach street",
    kind="cover",
    parts=("a wide canopy", "a curved handle", "coloured panels", "a thin pole"),
    uses="staying dry in the rain",
    synonyms=("parasol",),
)
def umbrella(rng: Random) -> Parts:
    """A scalloped, panelled canopy on a pole with a hooked handle."""
    height = rng.uniform(0.78, 0.95)
    scallops = [
        pie(0.95 - (2 * i + 1) * 0.2375, 0, 0.2375, 0.13, 0, -180, 6) for i in range(4)
    ]
    canopy = np.concatenate([pie(0, 0, 0.95, height, 180, 360), *scallops])
    inner = np.concatenate([pie(0, 0, 0.475, height, 180, 360), *scallops[1:3]])
    return [
        (box(-0.04, -0.1, 0.04, 0.8), "metal"),
        (arc(0.13, 0.78, 0.13, 0.16, 0, 190, 0.09, 10), "wood"),
        (canopy, "main"),
        (inner, "accent"),
        (poly(-0.04, 0, 0, -height, 0.04, 0), "shade"),
        (line(0.07, 0, -height, 0, -height - 0.12), "dark"),
    ]


@shape(
    colours="pink white brown green",
    accents="brown pink yellow",
    places="beach street",
    kind="dessert",
    parts=("a crisp cone", "two round scoops", "a cherry on top"),
    uses="eating in summer",
    synonyms=("gelato",),
)
def ice_cream(rng: Random) -> Parts:
    """Two dripping scoops and a cherry on a chequered cone."""
    r = rng.uniform(0.4, 0.46)
    return [
        (poly(-0.4, 0.05, 0.4, 0.05, 0, 1), "tan"),
        (line(0.045, -0.25, 0.08, 0.12, 0.72), "wood"),
        (line(0.045, 0.25, 0.08, -0.12, 0.72), "wood"),
        (line(0.045, 0, 0.08, 0.22, 0.42), "wood"),
        (line(0.045, 0, 0.08, -0.22, 0.42), "wood"),
        (ellipse(0, -0.5, r * 0.85), "accent"),
        (
            smooth(
                -r, -0.1, 0, -0.48, r, -0.1, 0.38, 0.16, 0.2, 0.06, 0.05, 0.26,
                -0.15, 0.06, -0.35, 0.18,
            ),
            "main",
        ),
        (ellipse(0, -0.9, 0.12, n=10), "red"),
        (ellipse(-0.2, -0.15, 0.08, 0.05, 8), "light"),
    ]


@shape(
    colours="pink white brown",
    accents="white pink yellow",
    places="room",
    kind="dessert",
    parts=("three burning candles", "two layers", "thick icing", "a flat plate"),
    uses="celebrating a birthday",
)
def cake(rng: Random) -> Parts:
    """Two layers with dripping icing and three candles, on a plate."""
    w = rng.uniform(0.72, 0.8)
    drip = (
        -0.6, 0.46, -0.45, 0.3, -0.25, 0.42, -0.05, 0.3, 0.2, 0.48, 0.4, 0.32,
        0.6, 0.44,
    )
    parts = [
        (ellipse(0, 0.92, 0.98, 0.1), "metal"),
        (box(-w, 0.15, w, 0.9), "main"),
        (poly(w, 0.12, -w, 0.12, -w, 0.36, *drip, w, 0.34), "accent"),
        (box(-0.5, -0.3, 0.5, 0.15), "main"),
        (
            poly(
                0.5, -0.32, -0.5, -0.32, -0.5, -0.14, -0.35, -0.04, -0.2, -0.16,
                0, -0.02, 0.2, -0.16, 0.38, -0.04, 0.5, -0.16,
            ),
            "accent",
        ),
    ]
    for x in (-0.3, 0, 0.3):
        parts += [
            (box(x - 0.05, -0.68, x + 0.05, -0.3), "ice"),
            (smooth(x, -0.98, x + 0.09, -0.78, x, -0.68, x - 0.09, -0.78), "fire"),
        ]
    return parts
