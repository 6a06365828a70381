"""The classes of the world: a registry of short drawing functions.

A class is one decorated function from a random stream to its parts, back to front::

    @shape(colours="red green", places="meadow room", kind="fruit",
           parts=("a round body", "a thin stem"), uses="eating")
    def apple(rng: Random) -> Parts:
        '''A round fruit with a stem and a leaf.'''
        return [(ellipse(0, 0.1, 0.8), "main"), (box(-0.05, -0.9, 0.05, -0.5), "wood")]

Its name is the function's, with spaces for underscores. A part is a polygon
(`picto.geometry`) and a role: "main" and "accent" have the scene's colours, "shade" and
"light" a darker and a paler "main", any other role a colour of `MATERIALS`. The words
are used in captions and class descriptions, so they must name what is always drawn.
"""

import dataclasses
import random
from collections.abc import Callable

from picto.contexts import CONTEXTS
from picto.geometry import Polygon

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 44, 40),
    "orange": (238, 128, 32),
    "yellow": (245, 208, 48),
    "green": (58, 152, 60),
    "blue": (48, 96, 206),
    "purple": (128, 58, 170),
    "pink": (242, 140, 178),
    "brown": (124, 78, 44),
    "black": (36, 34, 40),
    "white": (242, 240, 234),
    "grey": (136, 140, 148),
}
MATERIALS: dict[str, tuple[int, int, int]] = {
    "black": (30, 28, 32),
    "brick": (150, 70, 55),
    "cream": (240, 224, 192),
    "dark": (60, 55, 60),
    "fire": (255, 160, 40),
    "flame": (255, 225, 110),
    "glass": (150, 205, 230),
    "ice": (205, 232, 246),
    "lamp": (255, 236, 150),
    "leaf": (70, 152, 62),
    "metal": (164, 169, 180),
    "orange": (238, 132, 36),
    "pink": (242, 152, 172),
    "red": (208, 46, 42),
    "steel": (112, 118, 130),
    "tan": (216, 176, 116),
    "white": (242, 242, 240),
    "wood": (122, 82, 50),
}

Parts = list[tuple[Polygon, str]]
Draw = Callable[[random.Random], Parts]


@dataclasses.dataclass(frozen=True)
class ShapeClass:
    """A class of the world: its drawing and the words of its captions."""

    name: str
    draw: Draw
    colours: tuple[str, ...]  # typical "main" colours
    accents: tuple[str, ...]  # typical "accent" colours, () when there is none
    places: tuple[str, ...]  # typical contexts
    kind: str  # "fruit", without article
    parts: tuple[str, ...]  # "a thin stem", "two pointed ears"
    uses: str  # "eating": what it is for or does, as a gerund; may be empty
    synonyms: tuple[str, ...]


CLASSES: dict[str, ShapeClass] = {}


def shape(
    *,
    colours: str,
    places: str,
    kind: str,
    parts: tuple[str, ...],
    accents: str = "",
    uses: str = "",
    synonyms: tuple[str, ...] = (),
) -> Callable[[Draw], Draw]:
    """Register the decorated function as a class; lists are space-separated.

    Raises ValueError for an unknown colour or place, fewer than two parts, or a second
    class of the same name.
    """

    def register(draw: Draw) -> Draw:
        name = draw.__name__.replace("_", " ")
        unknown = {*colours.split(), *accents.split()} - COLOURS.keys()
        if unknown or not colours:
            raise ValueError(
                f"class {name!r}: colours {sorted(unknown)} are unknown; "
                f"choose one or more of {list(COLOURS)}"
            )
        nowhere = set(places.split()) - CONTEXTS.keys()
        if nowhere or not places:
            raise ValueError(
                f"class {name!r}: places {sorted(nowhere)} are unknown; "
                f"choose one or more of {list(CONTEXTS)}"
            )
        if len(parts) < 2:
            raise ValueError(
                f"class {name!r} needs two or more parts to describe it, "
                f'such as ("a thin stem", "two pointed ears"), not {parts!r}'
            )
        if name in CLASSES:
            raise ValueError(f"class {name!r} is registered twice; rename one of them")
        CLASSES[name] = ShapeClass(
            name,
            draw,
            tuple(colours.split()),
            tuple(accents.split()),
            tuple(places.split()),
            kind,
            parts,
            uses,
            synonyms,
        )
        return draw

    return register


def shape_class(name: str) -> ShapeClass:
    """Return a class by name; raises ValueError, which lists the names."""
    try:
        return CLASSES[name]
    except KeyError:
        raise ValueError(
            f"unknown class {name!r}; choose one of {', '.join(sorted(CLASSES))}"
        ) from None
