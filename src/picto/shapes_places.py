"""Buildings, vehicles and other outdoor objects."""

from random import Random

import numpy as np

from picto.geometry import (
    arc,
    box,
    ellipse,
    line,
    mirrored,
    pie,
    poly,
    smooth,
    turned,
)
from picto.shapes import Parts, shape

# Corners read best in rows of x, y pairs.
# fmt: off


@shape(
    colours="red white yellow blue",
    accents="brown red grey",
    places="street meadow",
    kind="building",
    parts=("a pointed roof", "a wooden door", "two windows", "a chimney"),
    uses="living in",
    synonyms=("cottage",),
)
def house(rng: Random) -> Parts:
    """A wall with door and windows under a gable roof with a chimney."""
    w, top, shift = (
        rng.uniform(0.66, 0.8),
        rng.uniform(-0.2, 0),
        rng.uniform(-0.08, 0.08),
    )
    parts = [
        (box(0.32, -0.92, 0.54, top), "brick"),
        (box(-w, top, w, 0.95), "main"),
        (poly(-w - 0.2, top + 0.05, shift, -0.98, w + 0.2, top + 0.05), "accent"),
        (box(-0.16, 0.38, 0.16, 0.95), "wood"),
        (ellipse(0.09, 0.68, 0.035, n=6), "lamp"),
    ]
    for side in (-1, 1):
        x = side * 0.43
        parts += [
            (box(x - 0.18, 0.24, x + 0.18, 0.6), "white"),
            (box(x - 0.14, 0.28, x - 0.02, 0.56), "glass"),
            (box(x + 0.02, 0.28, x + 0.14, 0.56), "glass"),
        ]
    return parts


@shape(
    colours="grey brown white",
    accents="blue red purple",
    places="meadow",
    kind="building",
    parts=("two tall towers", "pointed roofs", "a large gate", "jagged walls"),
    uses="keeping enemies out",
    synonyms=("fortress",),
)
def castle(rng: Random) -> Parts:
    """Two towers with cone roofs and flags beside a battlement wall with a gate."""
    peak = rng.uniform(-0.98, -0.85)
    parts = [(box(-0.5, 0, 0.5, 0.95), "main")]
    parts += [(box(x - 0.1, -0.2, x + 0.1, 0.02), "main") for x in (-0.33, 0, 0.33)]
    for x in (-0.68, 0.68):
        parts += [
            (poly(x, peak - 0.12, x + 0.24, peak - 0.04, x, peak + 0.05), "red"),
            (box(x - 0.22, -0.35, x + 0.22, 0.95), "main"),
            (poly(x - 0.32, -0.32, x, peak, x + 0.32, -0.32), "accent"),
            (box(x - 0.06, -0.16, x + 0.06, 0.1), "black"),
            (box(x - 0.22, 0.35, x + 0.22, 0.41), "shade"),
        ]
    gate = [
        (pie(0, 0.55, 0.22, 0.3, 180, 360), "wood"),
        (box(-0.22, 0.54, 0.22, 0.95), "wood"),
    ]
    bars = [(box(x - 0.02, 0.32, x + 0.02, 0.95), "dark") for x in (-0.1, 0.1)]
    return parts + gate + bars


@shape(
    colours="red blue",
    accents="white",
    places="beach sea",
    kind="building",
    parts=("a tall tower", "wide stripes", "a bright lamp", "a round balcony"),
    uses="guiding ships",
)
def lighthouse(rng: Random) -> Parts:
    """A tall striped tower with balcony, lit lamp room, cap and two light beams."""
    foot, head = rng.uniform(0.34, 0.42), rng.uniform(0.19, 0.24)
    y = np.linspace(-0.42, 1, 6)
    half = np.linspace(head, foot, 6)
    bands = [
        (
            poly(
                -half[i],
                y[i],
                half[i],
                y[i],
                half[i + 1],
                y[i + 1],
                -half[i + 1],
                y[i + 1],
            ),
            "main" if i % 2 else "accent",
        )
        for i in range(5)
    ]
    return [
        (poly(-0.1, -0.6, -0.9, -0.86, -0.9, -0.5), "lamp"),
        (poly(0.1, -0.6, 0.9, -0.86, 0.9, -0.5), "lamp"),
        *bands,
        (box(-head - 0.1, -0.48, head + 0.1, -0.4), "dark"),
        (box(-0.16, -0.74, 0.16, -0.48), "lamp"),
        (box(-0.02, -0.74, 0.02, -0.48), "dark"),
        (poly(-0.23, -0.72, 0, -1, 0.23, -0.72), "main"),
        (box(-0.07, 0.75, 0.07, 1), "dark"),
    ]


@shape(
    colours="white brown red",
    accents="brown red blue",
    places="meadow",
    kind="building",
    parts=("four long blades", "a narrow tower", "a round cap", "a small door"),
    uses="grinding grain",
)
def windmill(rng: Random) -> Parts:
    """A tapering tower with a cap and four lattice sails."""
    phase = rng.uniform(15, 75)
    parts = [
        (poly(-0.42, 1, -0.22, -0.25, 0.22, -0.25, 0.42, 1), "main"),
        (pie(0, -0.22, 0.28, 0.32, 180, 360), "accent"),
        (box(-0.1, 0.65, 0.1, 1), "wood"),
        (ellipse(0, 0.2, 0.09, n=10), "glass"),
    ]
    sail = (
        (box(0, -0.035, 0.92, 0.035), "dark"),
        (box(0.25, 0.02, 0.9, 0.24), "cream"),
        (box(0.44, 0.02, 0.49, 0.24), "dark"),
        (box(0.66, 0.02, 0.71, 0.24), "dark"),
    )
    for i in range(4):
        parts += [(turned(z, phase + 90 * i) - 0.25j, role) for z, role in sail]
    return [*parts, (ellipse(0, -0.25, 0.08, n=8), "dark")]


@shape(
    colours="orange green blue",
    accents="yellow white",
    places="forest desert",
    kind="shelter",
    parts=("sloping sides", "an open entrance", "a striped cloth", "tight ropes"),
    uses="camping",
)
def tent(rng: Random) -> Parts:
    """A striped triangle with a dark opening, ropes and a pole tip."""
    top = rng.uniform(-0.85, -0.65)
    x = rng.uniform(-0.1, 0.1)
    return [
        (line(0.04, x, top, -1.1, 0.8), "dark"),
        (line(0.04, x, top, 1.1, 0.8), "dark"),
        (line(0.06, x, top - 0.15, x, 0), "wood"),
        (poly(-0.88, 0.8, x, top, 0.88, 0.8), "main"),
        (poly(-0.62, 0.8, x, top, -0.42, 0.8), "accent"),
        (poly(0.62, 0.8, x, top, 0.42, 0.8), "accent"),
        (poly(-0.26, 0.8, x, top + 0.4, 0.26, 0.8), "black"),
        (poly(x, top + 0.4, 0.26, 0.8, 0.4, 0.8), "light"),
    ]


@shape(
    colours="red blue white yellow",
    places="street",
    kind="vehicle",
    parts=("two round wheels", "side windows", "a low body", "bright headlights"),
    uses="driving",
    synonyms=("automobile",),
)
def car(rng: Random) -> Parts:
    """A low body with a rounded cabin, two windows, two wheels and lights."""
    top = rng.uniform(-0.58, -0.46)
    cabin = smooth(
        -0.68, 0.02, -0.42, top + 0.04, -0.1, top - 0.02, 0.3, top + 0.02, 0.62, 0.02
    )
    parts = [
        (cabin, "main"),
        (poly(-0.5, 0, -0.34, top + 0.12, -0.06, top + 0.1, -0.06, 0), "glass"),
        (poly(0.03, 0, 0.03, top + 0.1, 0.24, top + 0.14, 0.44, 0), "glass"),
        (
            smooth(
                -0.98, 0.1, -0.85, -0.06, 0.7, -0.04, 0.97, 0.1, 0.98, 0.4, -0.98, 0.4
            ),
            "main",
        ),
        (box(-0.97, 0.28, 0.97, 0.38), "shade"),
        (ellipse(0.9, 0.14, 0.08, n=8), "lamp"),
        (box(-0.99, 0.08, -0.88, 0.2), "red"),
        (box(0.06, 0.08, 0.2, 0.12), "dark"),
    ]
    for x in (-0.53, 0.53):
        parts += [
            (ellipse(x, 0.4, 0.26), "black"),
            (ellipse(x, 0.4, 0.13, n=10), "metal"),
        ]
    return parts


@shape(
    colours="blue red green",
    accents="white grey orange",
    places="street",
    kind="vehicle",
    parts=("a large cargo box", "six wheels", "a high cab", "a front window"),
    uses="carrying goods",
    synonyms=("lorry",),
)
def truck(rng: Random) -> Parts:
    """A tall box behind a separate cab on three wheels a side."""
    gap, top = rng.uniform(0.3, 0.4), rng.uniform(-0.78, -0.62)
    parts = [
        (box(-0.98, top, gap - 0.06, 0.34), "accent"),
        *((box(x - 0.015, top, x + 0.015, 0.34), "dark") for x in (-0.65, -0.32, 0)),
        (
            poly(gap, -0.36, 0.74, -0.36, 0.9, 0.02, 0.98, 0.08, 0.98, 0.45, gap, 0.45),
            "main",
        ),
        (poly(gap + 0.12, -0.25, 0.68, -0.25, 0.8, 0.03, gap + 0.12, 0.03), "glass"),
        (box(-0.98, 0.32, 0.98, 0.45), "dark"),
        (ellipse(0.93, 0.22, 0.06, n=8), "lamp"),
    ]
    for x in (-0.7, -0.26, 0.65):
        parts += [
            (ellipse(x, 0.48, 0.2, n=16), "black"),
            (ellipse(x, 0.48, 0.09, n=8), "metal"),
        ]
    return parts


@shape(
    colours="red blue green",
    accents="black brown",
    places="street meadow",
    kind="vehicle",
    parts=("two thin wheels", "a narrow frame", "handlebars", "a small saddle"),
    uses="cycling",
    synonyms=("bike",),
)
def bicycle(rng: Random) -> Parts:
    """Two spoked wheels joined by a diamond frame, with saddle and handlebar."""
    w, spoke = 0.11, rng.uniform(0, 60)
    parts = []
    for x in (-0.56, 0.56):
        centre = complex(x, 0.36)
        parts += [
            (turned(box(-0.36, -0.012, 0.36, 0.012), spoke + a) + centre, "metal")
            for a in (0, 60, 120)
        ]
        parts += [(arc(x, 0.36, 0.39, 0.39, 0, 360, 0.1, 24), "dark")]
    return [
        *parts,
        (line(w, -0.56, 0.36, -0.22, -0.28, 0.36, -0.28, 0.56, 0.36), "main"),
        (line(w, -0.22, -0.28, 0.02, 0.4, 0.36, -0.28), "main"),
        (line(w, -0.56, 0.36, 0.02, 0.4), "main"),
        (line(w, -0.22, -0.28, -0.27, -0.52), "main"),
        (smooth(-0.5, -0.62, -0.08, -0.58, -0.12, -0.5, -0.44, -0.5), "accent"),
        (line(0.1, 0.38, -0.26, 0.33, -0.6, 0.62, -0.66), "accent"),
        (ellipse(0.02, 0.4, 0.1, n=10), "metal"),
    ]


@shape(
    colours="white grey blue",
    accents="red blue grey",
    places="sky",
    kind="vehicle",
    parts=("two wide wings", "a tail fin", "a row of windows", "a pointed nose"),
    uses="flying",
    synonyms=("plane",),
)
def airplane(rng: Random) -> Parts:
    """A fuselage seen from above at a slant: swept wings, tail and windows."""
    sweep = rng.uniform(0.32, 0.5)
    return [
        (poly(-0.3, 0, sweep - 0.05, -0.98, sweep + 0.15, -0.98, 0.25, 0), "accent"),
        (poly(-0.3, 0, sweep - 0.05, 0.98, sweep + 0.15, 0.98, 0.25, 0), "accent"),
        (ellipse(0.08, -0.5, 0.15, 0.06, 10), "dark"),
        (ellipse(0.08, 0.5, 0.15, 0.06, 10), "dark"),
        (
            poly(0.62, 0, 0.85, -0.42, 0.99, -0.42, 0.92, 0, 0.99, 0.42, 0.85, 0.42),
            "accent",
        ),
        (smooth(-1, 0, -0.75, -0.15, 0.5, -0.14, 1, 0, 0.5, 0.14, -0.75, 0.15), "main"),
        (poly(-0.88, -0.09, -0.76, -0.11, -0.76, 0.11, -0.88, 0.09), "glass"),
        *(
            (ellipse(x, -0.03, 0.05, n=6), "steel")
            for x in (-0.55, -0.38, -0.21, -0.04, 0.13, 0.3)
        ),
    ]


@shape(
    colours="white grey red",
    accents="red blue orange",
    places="night sky",
    kind="vehicle",
    parts=("a pointed nose", "two side fins", "a round window", "a burning flame"),
    uses="flying to space",
    synonyms=("spaceship",),
)
def rocket(rng: Random) -> Parts:
    """An upright hull with a coloured nose, fins, a porthole and a flame."""
    w = rng.uniform(0.28, 0.34)
    fin = poly(-w, 0.2, -0.68, 0.72, -w + 0.05, 0.6)
    hull = smooth(
        0, -0.98, w * 0.85, -0.45, w, 0.1, w * 0.7, 0.62, -w * 0.7, 0.62, -w, 0.1,
        -w * 0.85, -0.45,
    )
    return [
        (poly(-0.18, 0.6, -0.1, 0.85, 0, 1.1, 0.1, 0.85, 0.18, 0.6), "fire"),
        (poly(-0.09, 0.6, 0, 0.9, 0.09, 0.6), "flame"),
        (fin, "accent"),
        (mirrored(fin), "accent"),
        (hull, "main"),
        (smooth(0, -0.98, w * 0.72, -0.52, 0, -0.48, -w * 0.72, -0.52), "accent"),
        (ellipse(0, -0.15, 0.17, n=14), "steel"),
        (ellipse(0, -0.15, 0.11, n=12), "glass"),
        (box(-0.04, 0.2, 0.04, 0.7), "accent"),
    ]


@shape(
    colours="brown red blue",
    accents="white orange",
    places="sea",
    kind="vehicle",
    parts=("two triangular sails", "a tall mast", "a curved hull", "a small flag"),
    uses="sailing",
    synonyms=("yacht",),
)
def sailboat(rng: Random) -> Parts:
    """A hull with a mast, a large and a small triangular sail and a pennant."""
    m = rng.uniform(-0.12, 0.08)
    return [
        (
            smooth(
                -0.95, 0.45, -0.5, 0.5, 0.5, 0.5, 0.95, 0.45, 0.62, 0.88, -0.6, 0.88
            ),
            "main",
        ),
        (box(-0.85, 0.5, 0.85, 0.58), "light"),
        (poly(m, -1, m - 0.26, -0.9, m, -0.82), "red"),
        (box(m - 0.035, -1, m + 0.035, 0.46), "wood"),
        (poly(m + 0.08, -0.88, m + 0.1, 0.34, 0.84, 0.34), "accent"),
        (poly(m - 0.08, -0.66, m - 0.08, 0.34, -0.7, 0.34), "cream"),
        (line(0.04, m + 0.1, -0.1, m + 0.45, -0.06), "dark"),
    ]


@shape(
    colours="red blue yellow purple",
    places="sky",
    kind="toy",
    parts=("a round body", "a thin string", "a small knot", "a shiny spot"),
    uses="floating at a party",
)
def balloon(rng: Random) -> Parts:
    """A drop-shaped balloon with a knot, a highlight and a wavy string."""
    w, sway = rng.uniform(0.55, 0.64), rng.uniform(0.08, 0.18)
    return [
        (line(0.05, 0, 0.42, sway, 0.6, -sway, 0.78, sway * 0.6, 1), "dark"),
        (
            smooth(
                0, -0.98, w * 0.75, -0.8, w, -0.35, w * 0.6, 0.15, 0, 0.4,
                -w * 0.6, 0.15, -w, -0.35, -w * 0.75, -0.8,
            ),
            "main",
        ),
        (poly(0, 0.34, 0.12, 0.52, -0.12, 0.52), "shade"),
        (turned(ellipse(-0.26, -0.55, 0.1, 0.22, 12), 20, -0.26 - 0.55j), "light"),
    ]


@shape(
    colours="red blue yellow green",
    accents="yellow orange purple",
    places="sky",
    kind="toy",
    parts=("four coloured panels", "a long tail", "a diamond shape", "small bows"),
    uses="flying in the wind",
)
def kite(rng: Random) -> Parts:
    """A four-panelled diamond trailing a string with bows."""
    a = rng.uniform(0.3, 0.45)
    parts = [
        (line(0.05, 0, 0.4, 0.18, 0.6, -0.1, 0.8, 0.12, 1), "dark"),
        (poly(0, -0.98, 0.62, -a, 0, 0.45, -0.62, -a), "main"),
        (poly(0, -0.98, 0.62, -a, 0, -a), "accent"),
        (poly(0, 0.45, -0.62, -a, 0, -a), "accent"),
        (box(-0.02, -0.96, 0.02, 0.42), "dark"),
        (box(-0.58, -a - 0.02, 0.58, -a + 0.02), "dark"),
    ]
    for x, y in ((0.14, 0.6), (-0.06, 0.8)):
        parts.append(
            (
                poly(
                    x - 0.17, y - 0.09, x + 0.17, y + 0.09, x + 0.17, y - 0.09,
                    x - 0.17, y + 0.09,
                ),
                "accent",
            )
        )
    return parts


@shape(
    colours="yellow",
    accents="black",
    places="street desert",
    kind="signpost",
    parts=("a diamond board", "a metal post", "a thick border", "an exclamation mark"),
    uses="warning drivers",
    synonyms=("road sign",),
)
def sign(rng: Random) -> Parts:
    """A bordered diamond board with an exclamation mark on a post."""
    y, half = -0.35, rng.uniform(0.58, 0.63)
    outer = poly(0, -half, half, 0, 0, half, -half, 0)
    return [
        (box(-0.07, 0.1, 0.07, 1), "metal"),
        (outer + 1j * y, "accent"),
        (outer * 0.82 + 1j * y, "main"),
        (
            poly(-0.08, y - 0.34, 0.08, y - 0.34, 0.05, y + 0.08, -0.05, y + 0.08),
            "black",
        ),
        (ellipse(0, y + 0.23, 0.075, n=8), "black"),
    ]


@shape(
    colours="brown grey red",
    places="room street",
    kind="tool",
    parts=("many rungs", "two long rails", "wide gaps"),
    uses="climbing",
)
def ladder(rng: Random) -> Parts:
    """Two rails, narrower at the top, joined by four to six rungs."""
    count, half = rng.randint(4, 6), rng.uniform(0.36, 0.44)
    y = np.linspace(-0.78, 0.8, count)
    x = half - 0.09 * y[::-1]
    rungs = [
        (box(-x[i] * 0.9, y[i] - 0.055, x[i] * 0.9, y[i] + 0.055), "light")
        for i in range(count)
    ]
    rail = line(0.13, -half - 0.09, 1, -half + 0.09, -1)
    return [*rungs, (rail, "main"), (mirrored(rail), "main")]


@shape(
    colours="grey black blue",
    places="sea beach",
    kind="boat part",
    parts=("two curved hooks", "a ring at the top", "a short crossbar", "sharp tips"),
    uses="holding a ship",
)
def anchor(rng: Random) -> Parts:
    """A ring, a crossbar, a shank and two curved arms with flukes."""
    fluke = poly(0.48, 0.42, 0.98, 0.42, 0.8, -0.02)
    span = rng.uniform(0.64, 0.72)
    return [
        (arc(0, -0.78, 0.17, 0.17, 0, 360, 0.11, 18), "main"),
        (box(-0.08, -0.62, 0.08, 0.85), "main"),
        (box(-0.42, -0.5, 0.42, -0.35), "shade"),
        (arc(0, 0.2, span, 0.66, 15, 165, 0.16, 18), "main"),
        (fluke, "main"),
        (mirrored(fluke), "main"),
    ]
