"""The `Scene`, which has all that a picture shows, its sampling, and its polygons."""

import dataclasses
import math
import random

import numpy as np

from picto.contexts import CONTEXTS
from picto.geometry import Polygon
from picto.shapes import COLOURS, ShapeClass, shape_class
from picto.styles import STYLES

QUALITIES = {
    "blurry": 0.05,
    "noisy": 0.045,
    "low resolution": 0.025,
    "pixelated": 0.02,
    "black and white": 0.03,
}
TYPICAL_CONTEXT = 0.65
TYPICAL_COLOUR = 0.75


@dataclasses.dataclass(frozen=True)
class Scene:
    """All that determines a picture; `render` is a function of it.

    Lengths are fractions of the picture's side, angles degrees clockwise.
    """

    class_name: str
    label: int  # position among the class names; -1 for a class outside the splits
    style: str
    context: str
    colour: str  # of the "main" parts
    accent: str  # of the "accent" parts; "" where the class has none
    typical: bool  # colour and context are among the class's own
    scale: float  # half the side of the object's box
    rotation: float
    x: float  # centre of the object
    y: float
    flipped: bool
    occluded: bool  # a shape in front hides a part
    clutter: int  # other things behind the object
    light: str  # "", "dark", "bright"
    quality: str  # "" or a key of QUALITIES
    cropped: bool  # the picture's border cuts off a part
    seed: int  # of the drawing: proportions, textures, tints
    split: str = ""
    index: int = 0
    corruption: str = ""  # "" or a key of corruptions.CORRUPTIONS
    severity: int = 0  # 1 to 5, 0 without corruption


@dataclasses.dataclass(frozen=True)
class Nuisance:
    """How strongly scenes vary beyond class, place and colour."""

    scale: tuple[float, float] = (0.24, 0.47)  # half-size, log-uniform
    rotation_sd: float = 9.0
    rotation_max: float = 0.0  # uniform within +-max instead, where positive
    off_centre: float = 0.12  # chance of a shift towards the border
    occluded: float = 0.10
    clutter: float = 0.40
    unlit: float = 0.15  # chance of dark or bright light
    dark: float = 0.5  # share of dark among them
    degraded: float = 1.0  # factor on the QUALITIES' chances


EVERYDAY = Nuisance()
HARD = Nuisance(
    scale=(0.13, 0.5),
    rotation_max=50.0,
    off_centre=0.35,
    occluded=0.35,
    clutter=0.75,
    unlit=0.35,
    dark=0.7,
    degraded=1.3,
)


def sample(
    rng: random.Random,
    class_name: str,
    *,
    style: str = "photo",
    odd: bool = False,
    nuisance: Nuisance = EVERYDAY,
    label: int = -1,
    split: str = "",
    index: int = 0,
) -> Scene:
    """Draw a scene of a class; an odd scene has an untypical context and colours.

    Styles without a setting (sketch, neon, ...) show the object alone, without clutter
    and occluder. Only photos have a light and a quality.
    """
    shape = shape_class(class_name)
    setting, photo = STYLES[style].setting, style == "photo"
    place = _place(rng, shape, odd)
    colour = _colour(rng, shape.colours, odd)
    accent = _colour(rng, shape.accents, odd) if shape.accents else ""
    low, high = nuisance.scale
    scale = math.exp(rng.uniform(math.log(low), math.log(high)))
    if nuisance.rotation_max:
        rotation = rng.uniform(-nuisance.rotation_max, nuisance.rotation_max)
    else:
        rotation = rng.gauss(0, nuisance.rotation_sd)
    room_left = max(0.0, 0.5 - 0.92 * scale)
    x = 0.5 + rng.uniform(-room_left, room_left)
    y = 0.5 + rng.uniform(-room_left, room_left)
    if CONTEXTS[place].ground:
        y = min(y + 0.5 * room_left, 0.52 + room_left)
    if rng.random() < nuisance.off_centre:
        x += rng.uniform(-0.2, 0.2)
        y += rng.uniform(-0.16, 0.16)
    occluded = rng.random() < nuisance.occluded and setting
    clutter = rng.randint(1, 3) if rng.random() < nuisance.clutter and setting else 0
    light = ""
    if rng.random() < nuisance.unlit and photo:
        light = "dark" if rng.random() < nuisance.dark else "bright"
    quality = _quality(rng, nuisance.degraded) if photo else ""
    scene = Scene(
        class_name=class_name,
        label=label,
        style=style,
        context=place,
        colour=colour,
        accent=accent,
        typical=place in shape.places and colour in shape.colours,
        scale=scale,
        rotation=rotation,
        x=x,
        y=y,
        flipped=rng.random() < 0.5,
        occluded=occluded,
        clutter=clutter,
        light=light,
        quality=quality,
        cropped=False,
        seed=rng.getrandbits(48),
        split=split,
        index=index,
    )
    if max(abs(x - 0.5), abs(y - 0.5)) + 1.1 * scale > 0.5 and _cut_off(scene):
        scene = dataclasses.replace(scene, cropped=True)
    return scene


def _place(rng: random.Random, shape: ShapeClass, odd: bool) -> str:
    if odd:
        unusual = [c for c in CONTEXTS if c not in shape.places and c != "studio"]
        return rng.choice(unusual)
    typical = rng.random() < TYPICAL_CONTEXT
    return rng.choice(shape.places if typical else tuple(CONTEXTS))


def _colour(rng: random.Random, typical: tuple[str, ...], odd: bool) -> str:
    if odd:
        return rng.choice([c for c in COLOURS if c not in typical])
    return rng.choice(typical if rng.random() < TYPICAL_COLOUR else tuple(COLOURS))


def _quality(rng: random.Random, factor: float) -> str:
    u = rng.random() / factor
    for quality, chance in QUALITIES.items():
        if u < chance:
            return quality
        u -= chance
    return ""


def stream(scene: Scene, purpose: int) -> random.Random:
    """Return the scene's random stream for a purpose: 0 the figure, 1 the picture."""
    return random.Random(2 * scene.seed + purpose)


def figure(scene: Scene) -> tuple[list[Polygon], list[str]]:
    """Return the object's polygons in picture coordinates [0, 1]^2, and their roles.

    The class's drawing is mirrored, stretched, sheared, rotated, put into mild
    perspective, scaled and moved.
    """
    rng = stream(scene, 0)
    parts = shape_class(scene.class_name).draw(rng)
    z = np.concatenate([polygon for polygon, _ in parts])
    stretch = rng.uniform(0.87, 1.13) * (-1 if scene.flipped else 1)
    shear, slant = rng.gauss(0, 0.08), 0.07 * rng.gauss(0, 1)
    slant = min(max(slant, -0.16), 0.16)
    z = (z.real * stretch + z.imag * shear) + 1j * z.imag
    angle = math.radians(scene.rotation)
    z *= complex(math.cos(angle), math.sin(angle))
    z *= 1 + slant * z.real
    z = z * scene.scale + complex(scene.x, scene.y)
    polygons, start = [], 0
    for polygon, _ in parts:
        polygons.append(z[start : start + len(polygon)])
        start += len(polygon)
    return polygons, [role for _, role in parts]


def _cut_off(scene: Scene) -> bool:
    """Whether a noticeable part of the object lies outside the picture."""
    z = np.concatenate(figure(scene)[0])
    overhang = max(-z.real.min(), z.real.max() - 1, -z.imag.min(), z.imag.max() - 1)
    return bool(overhang > 0.12 * scene.scale)
