"""Tools, clothes, instruments and other things that people carry."""

from random import Random

import numpy as np

from picto.geometry import (
    SIDES,
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
    colours="red pink",
    places="studio",
    kind="symbol",
    parts=("two round lobes", "a pointed bottom", "a shiny spot"),
    uses="showing love",
)
def heart(rng: Random) -> Parts:
    """Two lobes meeting in a point, with a highlight and a darker lower edge."""
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    outline = rng.uniform(0.88, 0.98) * np.sin(t) ** 3 - 1j * y / 17
    return [
        (outline, "shade"),
        (outline * 0.84 - 0.03j, "main"),
        (turned(ellipse(-0.42, -0.36, 0.12, 0.2, 12), 30, -0.42 - 0.36j), "light"),
    ]


@shape(
    colours="brown orange red",
    places="room",
    kind="instrument",
    parts=("a long neck", "a round sound hole", "thin strings", "a curvy body"),
    uses="playing music",
)
def guitar(rng: Random) -> Parts:
    """A waisted body with a sound hole, a bridge, a fretted neck and a head."""
    w = rng.uniform(0.46, 0.52)
    return [
        (
            smooth(
                -0.12, -0.12, 0.12, -0.12, 0.36, 0.0, 0.3, 0.28, w, 0.62, 0.3, 0.98,
                -0.3, 0.98, -w, 0.62, -0.3, 0.28, -0.36, 0,
            ),
            "main",
        ),
        (ellipse(0, 0.3, 0.17, n=14), "black"),
        (box(-0.2, 0.68, 0.2, 0.77), "dark"),
        (box(-0.075, -0.78, 0.075, 0.18), "wood"),
        *((box(-0.075, y, 0.075, y + 0.03), "metal") for y in (-0.6, -0.4, -0.2)),
        (poly(-0.16, -1, 0.16, -1, 0.1, -0.74, -0.1, -0.74), "dark"),
        (line(0.025, -0.03, -0.8, -0.03, 0.7), "cream"),
        (line(0.025, 0.03, -0.8, 0.03, 0.7), "cream"),
    ]


@shape(
    colours="brown red blue",
    accents="grey black",
    places="studio room",
    kind="tool",
    parts=("a heavy metal head", "a split claw", "a long handle"),
    uses="driving nails",
)
def hammer(rng: Random) -> Parts:
    """A grip, and across its top a head with a flat face and a curved claw."""
    grip = rng.uniform(0.3, 0.5)
    return [
        (box(-0.09, -0.6, 0.09, 0.98), "main"),
        (box(-0.13, grip, 0.13, 1), "shade"),
        (box(-0.18, -0.92, 0.18, -0.48), "accent"),
        (box(-0.5, -0.84, -0.18, -0.56), "accent"),
        (box(-0.66, -0.94, -0.48, -0.46), "accent"),
        (smooth(0.16, -0.9, 0.5, -0.84, 0.8, -0.45, 0.5, -0.58, 0.16, -0.56), "accent"),
        (line(0.05, 0.35, -0.74, 0.66, -0.58), "dark"),
    ]


@shape(
    colours="brown red orange",
    accents="grey",
    places="forest",
    kind="tool",
    parts=("a wide metal blade", "a sharp curved edge", "a long handle"),
    uses="chopping wood",
    synonyms=("hatchet",),
)
def axe(rng: Random) -> Parts:
    """A long handle with one flaring blade, its edge bright."""
    flare = rng.uniform(0.0, 0.1)
    return [
        (
            smooth(-0.07, -0.98, 0.07, -0.98, 0.08, 0, 0.16, 0.95, -0.1, 1, -0.08, 0),
            "main",
        ),
        (
            poly(
                -0.14, -0.78, 0.14, -0.78, 0.6, -1 - flare, 0.78, -0.55,
                0.6, -0.05 + flare, 0.14, -0.34, -0.14, -0.34,
            ),
            "accent",
        ),
        (poly(0.6, -1 - flare, 0.78, -0.55, 0.6, -0.05 + flare, 0.62, -0.55), "ice"),
        (poly(-0.14, -0.78, 0.14, -0.78, 0.14, -0.34, -0.14, -0.34), "steel"),
    ]


@shape(
    colours="yellow",
    accents="red purple blue",
    places="studio room",
    kind="ornament",
    parts=("pointed tips", "round jewels", "a wide band"),
    uses="ruling a kingdom",
)
def crown(rng: Random) -> Parts:
    """Five points tipped with balls over a jewelled band."""
    dip, peak = rng.uniform(-0.1, 0.1), rng.uniform(-0.75, -0.6)
    tips = (
        (-0.9, -0.4),
        (-0.45, peak + 0.12),
        (0, peak),
        (0.45, peak + 0.12),
        (0.9, -0.4),
    )
    edge = []
    for i, (x, y) in enumerate(tips):
        edge += [x, y]
        if i < 4:
            edge += [(x + tips[i + 1][0]) / 2, dip]
    return [
        (poly(*edge, 0.74, 0.66, -0.74, 0.66), "main"),
        (box(-0.76, 0.42, 0.76, 0.7), "shade"),
        *((ellipse(x, y, 0.1, n=10), "accent") for x, y in tips),
        *(
            (poly(x - 0.1, 0.56, x, 0.46, x + 0.1, 0.56, x, 0.66), "accent")
            for x in (-0.45, 0, 0.45)
        ),
    ]


@shape(
    colours="yellow orange",
    accents="red blue",
    places="room snow",
    kind="instrument",
    parts=("a flared rim", "a round clapper", "a ribbon bow", "a curved top"),
    uses="ringing",
)
def bell(rng: Random) -> Parts:
    """A flaring bell with a clapper, a rim band and a bow on top."""
    w = rng.uniform(0.74, 0.84)
    return [
        (ellipse(0, 0.8, 0.19, n=12), "wood"),
        (
            smooth(
                -0.36, -0.5, 0, -0.7, 0.36, -0.5, 0.48, 0.1, w, 0.68, 0, 0.74,
                -w, 0.68, -0.48, 0.1,
            ),
            "main",
        ),
        (poly(-0.66, 0.45, 0.66, 0.45, w, 0.68, -w, 0.68), "shade"),
        (line(0.09, -0.22, -0.3, -0.32, 0.3), "light"),
        (smooth(0, -0.72, -0.5, -1, -0.55, -0.5), "accent"),
        (smooth(0, -0.72, 0.5, -1, 0.55, -0.5), "accent"),
        (ellipse(0, -0.72, 0.12, n=10), "accent"),
    ]


@shape(
    colours="brown black yellow",
    accents="red white",
    places="snow street",
    kind="shoe",
    parts=("a thick sole", "crossed laces", "a high shaft"),
    uses="walking in the cold",
    synonyms=("winter boot",),
)
def boot(rng: Random) -> Parts:
    """A high shaft with a cuff and laces, a round toe and a thick sole."""
    toe = rng.uniform(0.85, 0.95)
    return [
        (box(-0.45, -0.85, 0.24, 0.75), "main"),
        (
            smooth(-0.45, 0.1, 0.2, 0.1, 0.6, 0.22, toe, 0.45, toe, 0.74, -0.45, 0.74),
            "main",
        ),
        (box(-0.5, -0.96, 0.29, -0.66), "accent"),
        (box(-0.5, 0.72, toe + 0.06, 0.92), "dark"),
        (box(-0.5, 0.85, -0.1, 1), "dark"),
        *(
            (line(0.055, 0.02, y, 0.26, y + 0.08), "cream")
            for y in (-0.5, -0.3, -0.1, 0.1)
        ),
    ]


@shape(
    colours="black brown grey",
    accents="red white blue",
    places="room street",
    kind="garment",
    parts=("a wide brim", "a tall crown", "a ribbon band"),
    uses="covering the head",
    synonyms=("top hat",),
)
def hat(rng: Random) -> Parts:
    """A top hat: a tall crown flaring upwards, a band and a wide brim."""
    w = rng.uniform(0.5, 0.58)
    return [
        (ellipse(0, 0.55, 0.98, 0.24, 26), "main"),
        (
            poly(-w - 0.08, -0.72, w + 0.08, -0.72, w - 0.06, 0.5, -w + 0.06, 0.5),
            "main",
        ),
        (ellipse(0, 0.5, w - 0.06, 0.1), "main"),
        (ellipse(0, -0.72, w + 0.08, 0.14), "light"),
        (
            poly(-w + 0.03, 0.15, w - 0.03, 0.15, w - 0.06, 0.48, -w + 0.06, 0.48),
            "accent",
        ),
    ]


@shape(
    colours="blue white red green",
    accents="white yellow red",
    places="studio room",
    kind="garment",
    parts=("two short sleeves", "a round collar", "a broad stripe"),
    uses="wearing",
)
def shirt(rng: Random) -> Parts:
    """A short-sleeved shirt with a round collar and a chest stripe."""
    w = rng.uniform(0.48, 0.56)
    y = rng.uniform(0.05, 0.3)
    return [
        (
            poly(
                -0.28, -0.78, 0.28, -0.78, 0.98, -0.4, 0.78, 0.08, w, -0.1, w, 0.9,
                -w, 0.9, -w, -0.1, -0.78, 0.08, -0.98, -0.4,
            ),
            "main",
        ),
        (pie(0, -0.78, 0.28, 0.26, 0, 180), "shade"),
        (pie(0, -0.78, 0.2, 0.17, 0, 180), "cream"),
        (box(-w, y, w, y + 0.28), "accent"),
        (poly(0.98, -0.4, 0.78, 0.08, 0.68, 0.02, 0.86, -0.46), "accent"),
        (poly(-0.98, -0.4, -0.78, 0.08, -0.68, 0.02, -0.86, -0.46), "accent"),
    ]


@shape(
    colours="red blue orange",
    places="studio room",
    kind="tool",
    parts=("two sharp blades", "two round handles", "a small screw"),
    uses="cutting paper",
)
def scissors(rng: Random) -> Parts:
    """Two crossed blades, a screw and two loop handles."""
    spread = rng.uniform(12, 20)
    blade = poly(-0.05, -1, 0.1, -0.85, 0.12, 0.12, -0.1, 0.12)
    shank = line(0.15, 0, 0, -0.2, 0.34)
    return [
        (turned(blade, spread), "metal"),
        (turned(mirrored(blade), -spread), "steel"),
        (shank, "main"),
        (mirrored(shank), "main"),
        (arc(-0.36, 0.6, 0.23, 0.29, 0, 360, 0.15, 20), "main"),
        (arc(0.36, 0.6, 0.23, 0.29, 0, 360, 0.15, 20), "main"),
        (ellipse(0, 0.0, 0.08, n=8), "black"),
    ]


@shape(
    colours="black red blue",
    places="studio room",
    kind="reading aid",
    parts=("two round lenses", "a thin bridge", "two side arms"),
    uses="reading",
    synonyms=("spectacles",),
)
def glasses(rng: Random) -> Parts:
    """Two framed lenses joined by a bridge, with short arms."""
    r = rng.uniform(0.35, 0.4)
    parts = []
    for side in SIDES:
        parts += [
            (side(line(0.1, -0.84, -0.1, -0.98, -0.4)), "main"),
            (side(ellipse(-0.48, 0, r)), "glass"),
            (side(line(0.06, -0.6, 0.08, -0.42, -0.16)), "white"),
            (side(arc(-0.48, 0, r, r, 0, 360, 0.13, 22)), "main"),
        ]
    return [*parts, (arc(0, -0.04, 0.13, 0.14, 180, 360, 0.1, 8), "main")]
