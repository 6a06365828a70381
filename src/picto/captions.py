"""Captions of scenes, descriptions of classes, and the vocabulary of both.

A caption is a frame filled with phrases. Frames name the object ("a blurry photo of a
small red apple in a meadow") or its rendition ("a pencil sketch of the apple"), or
describe it ("an apple, which has a thin stem"). A caption says only what the picture
shows: no colour in a grey picture, no place without a background.
"""

import random
import re
from collections.abc import Iterator, Sequence

from picto.contexts import CONTEXTS
from picto.scenes import Scene
from picto.shapes import CLASSES, COLOURS, ShapeClass, shape_class
from picto.styles import STYLES

SMALL, LARGE = ("small", "little", "tiny"), ("large", "big", "huge")
SMALL_BELOW, LARGE_ABOVE, CLOSE_ABOVE = 0.28, 0.41, 0.42
WEIRD, PRAISE = ("weird", "strange"), ("nice", "cool", "clean")
QUALITY_WORDS = {
    "blurry": ("blurry", "blurry", "bad"),
    "noisy": ("noisy", "grainy", "bad"),
    "low resolution": ("low resolution", "low resolution", "bad"),
    "pixelated": ("pixelated", "pixelated", "low resolution"),
    "black and white": ("black and white",),
}
CROPPED, CLOSE, GOOD = ("cropped",), ("close-up",), ("good", "clean", "clear")
HIDDEN = ("partly hidden", "partly covered", "hard to see")
OTHERS = ("and other things", "next to other things")

# {a}: "a red apple", {n}: "red apple", {m}: "blurry photo", {am}: "a blurry photo",
# {place}: "in a meadow" or "". The numbers are relative frequencies.
PHOTO_FRAMES = {
    "{am} of {a} {place}": 6,
    "{am} of {a}": 5,
    "{am} of the {n}": 3,
    "{am} of the {n} {place}": 2,
    "{am} of my {n}": 1,
    "{am} of one {n}": 1,
    "{am} showing {a} {place}": 1,
    "the {m} of the {n}": 0.5,
    "{a} {place}": 3,
    "{a}": 1,
    "the {n}": 1,
    "the {n} {place}": 1,
    "{n}": 2,
    "itap of {a}": 1,
    "itap of the {n}": 0.6,
    "itap of my {n}": 0.6,
    "there is {a} {place}": 1,
    "this is {a}": 0.7,
}
RENDITION_FRAMES = {
    "{am} of {a} {place}": 4,
    "{am} of {a}": 4,
    "{am} of the {n}": 3,
    "the {m} of the {n}": 0.5,
    "{n}, {m}": 1,
    "{a} {place}, {am}": 1,
    "art of the {n}": 0.5,
    "a rendition of {a}": 0.5,
    "a rendering of the {n}": 0.5,
}
STYLE_FRAMES = {
    "painting": ("{a} painted in oil",),
    "watercolor": ("{a} painted in watercolor",),
    "cartoon": ("a cartoon {n}", "the cartoon {n}"),
    "pixel art": ("pixel art of {a}", "{a} in a video game", "the {n} in a video game"),
    "silhouette": ("the dark shape of {a}",),
    "sketch": ("a drawing of {a}", "{a} drawn in pencil", "a doodle of {a}"),
    "crayon drawing": ("{a} drawn with crayons", "a drawing of the {n}"),
    "neon": ("a neon {n}",),
    "origami": ("an origami {n}", "the origami {n}"),
    "mosaic": ("{a} made of tiles",),
    "embroidery": ("an embroidered {n}", "the embroidered {n}"),
    "chalk": ("{a} drawn in chalk",),
    "blueprint": ("a plan of {a}",),
}
STYLE_FRAME_CHANCE = 0.3

# {p}, {q}, {r}: parts, {all}: all of them, {kind}: "a fruit", {type}: "fruit",
# {use}: "used for eating", {other}: "a hatchet" or, without synonym, "a tool"
DESCRIPTION_FRAMES = {
    "{a}, which has {p}": 3,
    "{am} of {a}, which has {p}": 3,
    "{a} with {p}": 2,
    "{am} of {a} with {p} and {q}": 2,
    "{kind} with {p}": 1,
    "{am} of {other} with {p} and {q}": 2,
    "{am} of {a}, a type of {type}": 2,
    "{a}, {kind} {use}": 1,
    "{a} is {kind} which has {p}": 1,
}
LONG_FRAMES = {
    "{am} of {a} {place}, which has {p}, {q} and {r}, a type of {type} {use}": 1,
    "{am} of {a} with {p}, {q} and {r} {place}, {kind} {use}": 1,
    "{kind} {use}, with {p}, {q} and {r}. {am} of {a} {place}": 1,
    "{a} {place}. {am} of {a}, a type of {type}, which has {p} and {q}": 1,
    "there is {a} {place}. {am} of {other} with {p}, {q} and {r}": 1,
}
CLASS_DESCRIPTIONS = (
    "{a} with {p} and {q}.",
    "{a} is {kind} with {all}.",
    "a photo of {a}, a type of {type}, {use}.",
    "a photo of {a}, often seen {place}.",
)
PART_DESCRIPTION = "{a}, which has {p}."
LONG_CHANCE, DESCRIPTION_CHANCE, STOP_CHANCE = 0.035, 0.13, 0.12

KNOWN, USED = "known for", "used for"
NATURAL = (  # kinds that are "known for" instead of "used for"
    "animal",
    "figure",
    "fungus",
    "insect",
    "light in the sky",
    "pet",
    "plant",
    "sea animal",
    "small animal",
)


def caption(scene: Scene, rng: random.Random) -> str:
    """Draw one of the many captions of a scene, in lower case."""
    parts = _true(shape_class(scene.class_name).parts, scene)
    if scene.style == "silhouette":
        parts = []
    u = rng.random()
    if u < LONG_CHANCE and len(parts) >= 3:
        text = _fill(_pick(LONG_FRAMES, rng), scene, rng, parts)
    elif u < LONG_CHANCE + DESCRIPTION_CHANCE and len(parts) >= 2:
        text = _fill(_pick(DESCRIPTION_FRAMES, rng), scene, rng, parts)
    elif scene.style == "photo":
        text = _fill(_pick(PHOTO_FRAMES, rng), scene, rng, parts)
        if scene.clutter > 1 and rng.random() < 0.12:
            text = f"{text} {rng.choice(OTHERS)}"
        if scene.occluded and rng.random() < 0.3:
            text = f"{text}, {rng.choice(HIDDEN)}"
    elif scene.style in STYLE_FRAMES and rng.random() < STYLE_FRAME_CHANCE:
        text = _fill(rng.choice(STYLE_FRAMES[scene.style]), scene, rng, parts)
    else:
        text = _fill(_pick(RENDITION_FRAMES, rng), scene, rng, parts)
    text = re.sub(r" +([,.]|$)", r"\1", re.sub(r" +", " ", text))
    return f"{text}." if rng.random() < STOP_CHANCE else text


def descriptions(class_name: str) -> tuple[str, ...]:
    """Return at least five sentences that describe a class and name it."""
    shape = shape_class(class_name)
    words = _class_words(shape, shape.parts)
    words |= {"a": _a(shape.name), "place": CONTEXTS[shape.places[0]].phrases[0]}
    words["all"] = f"{', '.join(shape.parts[:-1])} and {shape.parts[-1]}"
    whole = [frame.format_map(words) for frame in CLASS_DESCRIPTIONS]
    by_part = [PART_DESCRIPTION.format_map(words | {"p": part}) for part in shape.parts]
    return tuple(by_part + whole)


def words() -> set[str]:
    """Return every word of class names, captions and descriptions, in lower case."""
    return {word for text in _vocabulary() for word in re.findall("[a-z]+", text)}


def _vocabulary() -> Iterator[str]:
    frames = [*PHOTO_FRAMES, *RENDITION_FRAMES, *DESCRIPTION_FRAMES, *LONG_FRAMES]
    frames += [f for choices in STYLE_FRAMES.values() for f in choices]
    for frame in [*frames, *CLASS_DESCRIPTIONS, PART_DESCRIPTION]:
        yield re.sub(r"\{\w+\}", " ", frame)
    yield "a an"
    for phrases in (SMALL, LARGE, WEIRD, PRAISE, CROPPED, CLOSE, GOOD, HIDDEN, OTHERS):
        yield from phrases
    for phrases in QUALITY_WORDS.values():
        yield from phrases
    yield from ("dark", "bright", KNOWN, USED, *COLOURS)
    for style in STYLES.values():
        yield from style.media
    for place in CONTEXTS.values():
        yield from place.phrases
    for shape in CLASSES.values():
        yield from (shape.name, shape.kind, shape.uses, *shape.parts, *shape.synonyms)


def _fill(frame: str, scene: Scene, rng: random.Random, parts: Sequence[str]) -> str:
    """The frame with the scene's phrases in place of its fields."""
    shape, style = shape_class(scene.class_name), STYLES[scene.style]
    noun = " ".join([*_adjectives(scene, rng), shape.name])
    medium = " ".join([*_photo_words(scene, rng), rng.choice(style.media)])
    places = _true(CONTEXTS[scene.context].phrases, scene)
    place = rng.choice(places) if style.setting else ""
    fields = {"a": _a(noun), "n": noun, "m": medium, "am": _a(medium), "place": place}
    if "{p}" in frame or "{type}" in frame or "{kind}" in frame:
        fields |= _class_words(shape, rng.sample(parts, min(3, len(parts))))
        fields["other"] = _a(rng.choice((shape.kind, *shape.synonyms, *shape.synonyms)))
    return frame.format_map(fields)


def _class_words(shape: ShapeClass, parts: Sequence[str]) -> dict[str, str]:
    known = KNOWN if shape.kind in NATURAL else USED
    return {
        **dict(zip("pqr", parts, strict=False)),
        "type": shape.kind,
        "kind": _a(shape.kind),
        "use": f"{known} {shape.uses}",
    }


def _adjectives(scene: Scene, rng: random.Random) -> list[str]:
    """Up to three adjectives of the object: size, an opinion, colour."""
    coloured, found = _coloured(scene), []
    if scene.scale < SMALL_BELOW and rng.random() < 0.45:
        found.append(rng.choice(SMALL))
    elif scene.scale > LARGE_ABOVE and rng.random() < 0.4:
        found.append(rng.choice(LARGE))
    if coloured and not scene.typical and rng.random() < 0.06:
        found.append(rng.choice(WEIRD))
    elif scene.typical and not scene.quality and rng.random() < 0.05:
        found.append(rng.choice(PRAISE))
    if coloured and rng.random() < 0.4:
        found.append(scene.colour)
    return found


def _photo_words(scene: Scene, rng: random.Random) -> list[str]:
    """Up to three adjectives of the photo: its flaws or, at times, its quality."""
    if scene.style != "photo":
        return []
    found = []
    if scene.quality and rng.random() < 0.6:
        found.append(rng.choice(QUALITY_WORDS[scene.quality]))
    if scene.light and rng.random() < 0.55:
        found.append(scene.light)
    if scene.cropped and rng.random() < 0.45:
        found.append(rng.choice(CROPPED))
    elif scene.scale > CLOSE_ABOVE and rng.random() < 0.25:
        found.append(rng.choice(CLOSE))
    flawed = scene.quality or scene.light or scene.cropped or scene.occluded
    if not flawed and not found and rng.random() < 0.12:
        found.append(rng.choice(GOOD))
    return found


def _coloured(scene: Scene) -> bool:
    return STYLES[scene.style].coloured and scene.quality != "black and white"


def _true(phrases: Sequence[str], scene: Scene) -> list[str]:
    """The phrases that are true of the picture: without colours in a grey one."""
    coloured = _coloured(scene)
    return [p for p in phrases if coloured or not _tokens(p) & COLOURS.keys()]


def _pick(frames: dict[str, float], rng: random.Random) -> str:
    return rng.choices(tuple(frames), tuple(frames.values()))[0]


def _a(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _tokens(text: str) -> set[str]:
    return set(re.findall("[a-z]+", text))
