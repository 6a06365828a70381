"""Picto: a procedural world of 64 x 64 pictures, their captions and their test sets.

    >>> import picto
    >>> scene = picto.scene("picto", 17)
    >>> pixels = picto.render(scene)  # uint8 [64, 64, 3]

`shapes*` have the classes, `contexts` the backgrounds, `styles` the renditions,
`scenes` the sampling of scenes, `render` and `corruptions` the drawing, `captions` the
texts, `splits` the data sets.
"""

from picto import (  # noqa: F401  the classes register themselves
    shapes_animals,
    shapes_belongings,
    shapes_household,
    shapes_nature,
    shapes_places,
)
from picto.captions import caption
from picto.render import render
from picto.scenes import Scene
from picto.splits import CLASS_NAMES, SPLITS, scene

__all__ = ["CLASS_NAMES", "SPLITS", "Scene", "caption", "render", "scene"]
