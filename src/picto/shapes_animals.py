"""Animals."""

from random import Random

import numpy as np

from picto.geometry import (
    SIDES,
    arc,
    box,
    ellipse,
    line,
    pie,
    poly,
    smooth,
    turned,
)
from picto.shapes import Parts, shape

# Corners read best in rows of x, y pairs.
# fmt: off


@shape(
    colours="orange blue red yellow",
    accents="yellow red white",
    places="sea",
    kind="animal",
    parts=("a forked tail", "a round eye", "a pointed fin", "a striped body"),
    uses="swimming",
    synonyms=("goldfish",),
)
def fish(rng: Random) -> Parts:
    """An oval body facing left, a forked tail, a back fin and two stripes."""
    h = rng.uniform(0.42, 0.55)
    body = smooth(
        -0.98, 0.02, -0.55, -h * 0.8, 0, -h, 0.6, -0.14, 0.62, 0.14, 0, h,
        -0.55, h * 0.8,
    )
    return [
        (poly(0.5, 0, 1, -0.55, 0.86, 0, 1, 0.55), "accent"),
        (poly(-0.3, -h * 0.8, 0.05, -h - 0.34, 0.35, -h * 0.5), "accent"),
        (poly(-0.1, h * 0.8, 0.15, h + 0.25, 0.3, h * 0.5), "accent"),
        (body, "main"),
        (arc(-0.85, 0, 0.62, h * 1.3, -34, 34, 0.1, 8), "accent"),
        (arc(-0.55, 0, 0.66, h * 1.15, -34, 34, 0.1, 8), "accent"),
        (ellipse(-0.6, -0.12, 0.13, n=12), "white"),
        (ellipse(-0.62, -0.12, 0.06, n=8), "black"),
    ]


@shape(
    colours="blue grey black",
    accents="white",
    places="sea",
    kind="animal",
    parts=("a huge head", "a broad belly", "a raised tail", "a jet of water"),
    uses="swimming",
)
def whale(rng: Random) -> Parts:
    """A heavy body with a pale belly, a raised fluke and a spout."""
    y = rng.uniform(-0.02, 0.08)
    body = smooth(
        -0.98, 0.15, -0.85, -0.2, -0.35, -0.4, 0.2, -0.25, 0.62, 0.05, 0.86, -0.28,
        0.98, -0.2, 0.88, 0.3, 0.45, 0.62, -0.3, 0.7, -0.8, 0.55,
    )
    return [
        (
            poly(
                0.9, -0.15, 0.5, -0.5, 0.62, -0.66, 0.92, -0.42, 1.16, -0.72,
                1.3, -0.55, 1.0, -0.12,
            ),
            "main",
        ),
        (body, "main"),
        (
            smooth(
                -0.92, 0.3, -0.4, 0.34, 0.2, 0.42, 0.45, 0.58, -0.3, 0.69, -0.78, 0.54
            ),
            "accent",
        ),
        (smooth(-0.2, 0.32, 0.14, 0.45, 0.3, 0.84, -0.02, 0.7), "shade"),
        (ellipse(-0.62, 0.08 + y, 0.07, n=10), "white"),
        (ellipse(-0.63, 0.08 + y, 0.045, n=8), "black"),
        (line(0.09, -0.35, -0.42, -0.37, -0.72, -0.58, -0.9, -0.72, -0.76), "ice"),
        (line(0.09, -0.35, -0.42, -0.33, -0.72, -0.12, -0.9, 0.02, -0.76), "ice"),
    ]


@shape(
    colours="grey orange black white",
    accents="white",
    places="room street",
    kind="pet",
    parts=("two pointed ears", "long whiskers", "a long curved tail"),
    uses="purring",
    synonyms=("kitten",),
)
def cat(rng: Random) -> Parts:
    """A sitting cat from the front: pointed ears, whiskers, a tail to the right."""
    lift = rng.uniform(0.2, 0.5)
    parts = [
        (line(0.17, 0.35, 0.85, 0.75, 0.8, 0.86, lift, 0.7, lift - 0.3), "main"),
        (
            smooth(-0.45, 0.98, -0.5, 0.4, -0.25, 0, 0.25, 0, 0.5, 0.4, 0.45, 0.98),
            "main",
        ),
        (smooth(-0.2, 0.85, -0.2, 0.3, 0.2, 0.3, 0.2, 0.85), "accent"),
        (line(0.04, 0, 0.55, 0, 0.95), "shade"),
    ]
    for side in SIDES:
        parts += [
            (side(poly(-0.52, -0.3, -0.5, -1, -0.08, -0.66)), "main"),
            (side(poly(-0.43, -0.5, -0.42, -0.84, -0.2, -0.64)), "pink"),
        ]
    parts.append((ellipse(0, -0.32, 0.55, 0.42), "main"))
    for side in SIDES:
        parts += [
            (side(ellipse(-0.23, -0.4, 0.12, 0.13, 12)), "lamp"),
            (side(ellipse(-0.23, -0.4, 0.045, 0.12, 8)), "black"),
            (side(line(0.035, -0.2, -0.16, -0.8, -0.24)), "dark"),
            (side(line(0.035, -0.2, -0.1, -0.78, -0.04)), "dark"),
        ]
    return [*parts, (poly(-0.09, -0.24, 0.09, -0.24, 0, -0.12), "pink")]


@shape(
    colours="white grey brown",
    accents="white",
    places="meadow snow",
    kind="pet",
    parts=("two long ears", "a pink nose", "two big teeth"),
    uses="hopping",
    synonyms=("bunny",),
)
def rabbit(rng: Random) -> Parts:
    """A sitting rabbit from the front: long upright ears, teeth, round paws."""
    lean = rng.uniform(2, 16)
    ear, inner = ellipse(0, -0.72, 0.14, 0.4), ellipse(0, -0.7, 0.07, 0.28, 12)
    parts = [(ellipse(0.42, 0.72, 0.16, n=12), "accent")]
    for x, angle in ((-0.2, -lean), (0.2, lean)):
        parts += [(turned(ear, angle) + x, "main"), (turned(inner, angle) + x, "pink")]
    return [
        *parts,
        (
            smooth(-0.4, 0.95, -0.46, 0.5, -0.2, 0.15, 0.2, 0.15, 0.46, 0.5, 0.4, 0.95),
            "main",
        ),
        (ellipse(0, 0.62, 0.24, 0.28), "accent"),
        (ellipse(-0.24, 0.92, 0.2, 0.1, 12), "light"),
        (ellipse(0.24, 0.92, 0.2, 0.1, 12), "light"),
        (ellipse(0, -0.08, 0.44, 0.38), "main"),
        (ellipse(-0.18, -0.16, 0.07, 0.09, 10), "black"),
        (ellipse(0.18, -0.16, 0.07, 0.09, 10), "black"),
        (ellipse(0, 0.0, 0.08, 0.055, 8), "pink"),
        (box(-0.09, 0.08, 0.09, 0.25), "white"),
        (box(-0.012, 0.08, 0.012, 0.25), "dark"),
    ]


@shape(
    colours="blue red yellow brown",
    accents="white blue",
    places="sky forest",
    kind="animal",
    parts=("an orange beak", "a folded wing", "two thin legs", "a long tail"),
    uses="singing",
    synonyms=("songbird",),
)
def bird(rng: Random) -> Parts:
    """A songbird standing in profile: beak left, folded wing, tail right."""
    tip = rng.uniform(-0.3, 0.05)
    return [
        (line(0.07, -0.12, 0.55, -0.14, 0.95, -0.32, 0.97), "orange"),
        (line(0.07, 0.12, 0.55, 0.14, 0.95, -0.04, 0.97), "orange"),
        (poly(0.3, 0.05, 1, tip, 1, tip + 0.26, 0.45, 0.45), "shade"),
        (
            smooth(
                -0.62, -0.05, -0.4, 0.5, 0.1, 0.64, 0.5, 0.4, 0.55, 0.12, 0, -0.15,
                -0.2, -0.5,
            ),
            "main",
        ),
        (smooth(-0.5, 0.15, -0.32, 0.5, 0.1, 0.6, 0.0, 0.35, -0.25, 0.2), "accent"),
        (ellipse(-0.45, -0.42, 0.35, 0.33), "main"),
        (poly(-0.72, -0.55, -1.08, -0.38, -0.74, -0.28), "orange"),
        (ellipse(-0.54, -0.5, 0.1, n=10), "white"),
        (ellipse(-0.56, -0.5, 0.055, n=8), "black"),
        (smooth(-0.22, 0.02, 0.2, -0.02, 0.8, 0.22, 0.2, 0.42, -0.15, 0.3), "shade"),
        (line(0.04, 0.1, 0.3, 0.62, 0.22), "light"),
    ]


@shape(
    colours="brown grey white",
    accents="orange white",
    places="forest night",
    kind="animal",
    parts=("two huge round eyes", "two feather tufts", "folded wings", "a small beak"),
    uses="hunting at night",
)
def owl(rng: Random) -> Parts:
    """An upright owl: ear tufts, two huge ringed eyes, speckled chest, a branch."""
    tuft = rng.uniform(0.85, 1)
    parts = [
        (
            smooth(
                -0.55, -0.4, -0.3, -0.7, 0.3, -0.7, 0.55, -0.4, 0.58, 0.4, 0.25, 0.85,
                -0.25, 0.85, -0.58, 0.4,
            ),
            "main",
        ),
        (ellipse(0, 0.38, 0.34, 0.42), "light"),
    ]
    for x, y in ((-0.14, 0.25), (0.14, 0.25), (0, 0.42), (-0.14, 0.58), (0.14, 0.58)):
        parts.append(
            (poly(x - 0.08, y - 0.03, x, y + 0.07, x + 0.08, y - 0.03), "shade")
        )
    for side in SIDES:
        parts += [
            (side(poly(-0.56, -0.35, -0.58, -tuft, -0.12, -0.62)), "main"),
            (side(smooth(-0.52, -0.1, -0.72, 0.35, -0.45, 0.75, -0.32, 0.3)), "shade"),
            (side(ellipse(-0.25, -0.34, 0.27, n=18)), "white"),
            (side(ellipse(-0.25, -0.34, 0.19, n=14)), "accent"),
            (side(ellipse(-0.23, -0.34, 0.11, n=12)), "black"),
            (side(ellipse(-0.17, 0.86, 0.13, 0.08, 8)), "orange"),
        ]
    return [*parts, (poly(-0.09, -0.26, 0.09, -0.26, 0, -0.02), "orange")]


@shape(
    colours="black blue grey",
    accents="red orange yellow",
    places="snow",
    kind="animal",
    parts=("a white belly", "two flippers", "orange feet", "a scarf"),
    uses="sliding on ice",
)
def penguin(rng: Random) -> Parts:
    """An upright bird with a white belly, flippers, orange feet and a scarf."""
    out = rng.uniform(0.72, 0.9)
    parts = []
    for side in SIDES:
        parts += [
            (
                side(smooth(-0.36, -0.2, -out, 0.4, -out + 0.1, 0.5, -0.36, 0.35)),
                "main",
            ),
            (side(ellipse(-0.22, 0.93, 0.24, 0.09, 10)), "orange"),
        ]
    return [
        *parts,
        (
            smooth(
                -0.3, -0.35, 0, -0.5, 0.3, -0.35, 0.5, 0.3, 0.3, 0.9, -0.3, 0.9,
                -0.5, 0.3,
            ),
            "main",
        ),
        (ellipse(0, 0.32, 0.33, 0.53), "white"),
        (ellipse(0, -0.6, 0.35, 0.35), "main"),
        (ellipse(-0.13, -0.58, 0.15, 0.18, 12), "white"),
        (ellipse(0.13, -0.58, 0.15, 0.18, 12), "white"),
        (ellipse(-0.11, -0.63, 0.06, n=8), "black"),
        (ellipse(0.11, -0.63, 0.06, n=8), "black"),
        (poly(-0.13, -0.54, 0.13, -0.54, 0, -0.32), "orange"),
        (box(-0.38, -0.32, 0.38, -0.17), "accent"),
        (box(0.1, -0.2, 0.28, 0.22), "accent"),
    ]


@shape(
    colours="orange blue yellow purple",
    accents="black yellow white",
    places="meadow",
    kind="insect",
    parts=("four wide wings", "spots on its wings", "two thin antennae"),
    uses="fluttering",
)
def butterfly(rng: Random) -> Parts:
    """Four spread wings with spots, a dark body and antennae."""
    up, down = rng.uniform(0.8, 0.95), rng.uniform(0.7, 0.85)
    parts = []
    for side in SIDES:
        parts += [
            (
                side(
                    smooth(
                        -0.05, 0.02, -0.4, 0.02, -0.75, 0.3, -0.62, down, -0.3, 0.75,
                        -0.1, 0.3,
                    )
                ),
                "shade",
            ),
            (
                side(
                    smooth(
                        -0.05, 0, -0.2, -0.5, -0.6, -up, -0.98, -0.75, -0.9, -0.2,
                        -0.5, 0.1,
                    )
                ),
                "main",
            ),
            (side(ellipse(-0.62, -0.5, 0.17, n=12)), "accent"),
            (side(ellipse(-0.48, 0.42, 0.13, n=10)), "accent"),
            (side(ellipse(-0.82, -0.62, 0.06, n=8)), "accent"),
            (side(line(0.05, -0.02, -0.45, -0.2, -0.9, -0.28, -0.95)), "black"),
        ]
    return [*parts, (ellipse(0, 0.05, 0.1, 0.58, 12), "black")]


@shape(
    colours="brown orange pink",
    accents="white yellow",
    places="forest meadow",
    kind="animal",
    parts=("a spiral shell", "two eye stalks", "a soft flat body"),
    uses="crawling slowly",
)
def snail(rng: Random) -> Parts:
    """A spiral shell on a soft foot; the head with two stalks on the left."""
    r = rng.uniform(0.54, 0.62)
    t = np.linspace(0, 4.4 * np.pi, 40)
    spiral = (0.03 + (r - 0.1) * t / t[-1]) * np.exp(1j * (t + rng.uniform(0, 1)))
    band = np.concatenate([spiral * 1.0, (spiral * 0.84)[::-1]]) + 0.2 + 0.12j
    return [
        (line(0.07, -0.84, 0.1, -0.95, -0.42), "tan"),
        (line(0.07, -0.7, 0.1, -0.62, -0.42), "tan"),
        (ellipse(-0.95, -0.44, 0.08, n=8), "dark"),
        (ellipse(-0.62, -0.44, 0.08, n=8), "dark"),
        (
            smooth(
                -0.98, 0.2, -0.78, -0.05, -0.55, 0.2, -0.45, 0.5, 0.5, 0.5, 1.05, 0.78,
                0.6, 0.82, -0.7, 0.82, -0.9, 0.6,
            ),
            "tan",
        ),
        (ellipse(0.2, 0.12, r, n=24), "main"),
        (band, "accent"),
        (arc(-0.82, 0.28, 0.1, 0.08, 30, 130, 0.04, 6), "dark"),
    ]


@shape(
    colours="green brown",
    accents="brown yellow",
    places="beach sea",
    kind="animal",
    parts=("a domed shell", "plates on its shell", "four short legs"),
    uses="walking slowly",
    synonyms=("tortoise",),
)
def turtle(rng: Random) -> Parts:
    """A domed, plated shell on short legs; the head on the left."""
    h = rng.uniform(0.78, 0.95)
    plates = ((-0.38, 0.22), (0, 0.18), (0.38, 0.22), (-0.2, -0.1), (0.2, -0.1))
    return [
        (poly(0.62, 0.4, 1.02, 0.55, 0.62, 0.56), "leaf"),
        (ellipse(-0.42, 0.6, 0.17, 0.24, 12), "leaf"),
        (ellipse(0.42, 0.6, 0.17, 0.24, 12), "leaf"),
        (
            smooth(
                -0.55, 0.45, -0.75, 0.2, -0.98, 0.0, -1.02, 0.2, -0.85, 0.42, -0.6, 0.6
            ),
            "leaf",
        ),
        (pie(0, 0.45, 0.74, h, 180, 360), "main"),
        *((ellipse(x, y, 0.16, 0.13, n=6), "accent") for x, y in plates),
        (
            smooth(-0.8, 0.4, 0, 0.44, 0.8, 0.4, 0.74, 0.55, 0, 0.58, -0.74, 0.55),
            "shade",
        ),
        (ellipse(-0.9, 0.12, 0.05, n=8), "black"),
    ]


@shape(
    colours="red orange",
    accents="white",
    places="beach",
    kind="sea animal",
    parts=("two big claws", "a wide flat shell", "many thin legs", "eyes on stalks"),
    uses="walking sideways",
)
def crab(rng: Random) -> Parts:
    """A wide shell, three legs a side, two open claws and eyes on stalks."""
    claw = pie(0, 0, 0.3, 0.32, -50, 250, 16)
    claw = np.append(claw, 0.02 + 0.02j)
    open_ = rng.uniform(-12, 12)
    parts = []
    for side in SIDES:
        for k in range(3):
            y = 0.25 + 0.13 * k
            parts.append(
                (side(line(0.09, -0.4, y, -0.85, y + 0.02, -0.98, y + 0.3)), "main")
            )
        parts += [
            (side(line(0.13, -0.4, 0.12, -0.78, -0.1, -0.72, -0.3)), "main"),
            (side(turned(claw, open_ + 10) + complex(-0.7, -0.5)), "main"),
            (side(line(0.07, -0.16, 0, -0.2, -0.36)), "main"),
            (side(ellipse(-0.2, -0.4, 0.11, n=10)), "accent"),
            (side(ellipse(-0.2, -0.4, 0.055, n=8)), "black"),
        ]
    return [
        *parts,
        (
            smooth(
                -0.62, 0.15, -0.3, -0.12, 0.3, -0.12, 0.62, 0.15, 0.4, 0.6, -0.4, 0.6
            ),
            "main",
        ),
        (arc(0, 0.18, 0.22, 0.16, 20, 160, 0.06, 8), "shade"),
    ]


@shape(
    colours="black brown purple",
    accents="red yellow white",
    places="forest room",
    kind="small animal",
    parts=("eight thin legs", "a round abdomen", "a small head", "bent legs"),
    uses="spinning webs",
)
def spider(rng: Random) -> Parts:
    """A small head and a round marked abdomen between eight bent legs."""
    reach = rng.uniform(0.9, 1)
    knees = (
        (-0.45, -0.72, -0.95),
        (-0.55, -0.3, -0.4),
        (-0.55, 0.12, 0.32),
        (-0.45, 0.4, 0.92),
    )
    parts = []
    for side in SIDES:
        for k, (x, knee, foot) in enumerate(knees):
            y = -0.15 + 0.1 * k
            end = -reach * (0.72 if k in (0, 3) else 1)
            parts.append((side(line(0.08, -0.1, y, x, knee, end, foot)), "main"))
    return [
        *parts,
        (ellipse(0, 0.32, 0.4, 0.46), "main"),
        (poly(0, 0.1, 0.16, 0.34, 0, 0.58, -0.16, 0.34), "accent"),
        (ellipse(0, -0.22, 0.25, 0.22), "main"),
        (ellipse(-0.09, -0.3, 0.065, n=8), "white"),
        (ellipse(0.09, -0.3, 0.065, n=8), "white"),
    ]
