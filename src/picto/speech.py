"""What a good caption of a scene says, and how much of it a given caption gets right.

A caption that pairs a picture with a text may leave the place out; one that describes
does not. So of the many true captions of a scene we take those that say what is seen
and, where the picture shows it, where.
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from picto import splits
from picto.captions import caption
from picto.contexts import CONTEXTS
from picto.scenes import Scene
from picto.shapes import CLASSES, COLOURS
from picto.styles import STYLES

DRAWS = 60  # captions of a scene to choose from: less than half of them tell all
MOST_WORDS = 13
DESCRIBES = re.compile(r"\b(which|with|type of|used for|known for)\b")


def telling(scene: Scene, rng: random.Random, count: int = 1) -> list[str]:
    """So many short captions of a scene, with its class and, if it has one, its place.

    Those that describe the class itself ("which has a thin stem") are left out.
    """
    shown = STYLES[scene.style].setting
    places = CONTEXTS[scene.context].phrases if shown else ("",)
    found: list[str] = []
    for _ in range(DRAWS):
        text = caption(scene, rng)
        fits = len(text.split()) <= MOST_WORDS and not DESCRIBES.search(text)
        if fits and any(place in text for place in places):
            found.append(text)
            if len(found) == count:
                return found
    return (found or [f"a photo of a {scene.class_name}"] * count)[:1] * count


def true_captions(image_ids: Sequence[str]) -> list[str]:
    """A telling caption of each embedded picture, by its id: "picto-s/00012".

    What a captioner would say that sees everything.
    """
    texts = []
    for image_id in image_ids:
        texts += telling(_scene(image_id), random.Random(f"telling/{image_id}"))
    return texts


def true_templates(image_ids: Sequence[str], say: Sequence[str]) -> list[str]:
    """Templates that say the true "style", the true "context", or both, and no more.

    With neither it is "a photo of a {}."; a place is said where the picture shows one.
    """
    return [_true_template(_scene(image_id), say) for image_id in image_ids]


def _true_template(scene: Scene, say: Sequence[str]) -> str:
    style = STYLES[scene.style]
    medium = style.media[0] if "style" in say else "photo"
    article = "an" if medium[0] in "aeiou" else "a"
    shown = "context" in say and style.setting
    place = f" {CONTEXTS[scene.context].phrases[0]}" if shown else ""
    return f"{article} {medium} of a {{}}{place}."


def _scene(image_id: str) -> Scene:
    split, _, index = image_id.partition("/")
    return splits.scene(split, int(index))


def said(texts: Iterable[str]) -> pd.DataFrame:
    """What each caption says, a row each: class_name, colour, context, style.

    "" where it says nothing of the kind. A colour counts where it stands before the
    class name: "a green field" has no bearing on the object.
    """
    return pd.DataFrame([_said(text.casefold()) for text in texts])


def correctness(texts: Sequence[str], facts: pd.DataFrame) -> dict[str, float]:
    """How often captions are right about scenes with these `facts`, in fractions.

    `class_right` of all captions; `colour_said` and `context_said` the shares that name
    one, and `colour_right`, `context_right` the shares of those that name the true one;
    `style_right` the share that says photo or rendition, and which, as it is.
    """
    found = said(texts)
    truth = facts.reset_index(drop=True)
    result = {"n": len(found), "class_right": _share(found, truth, "class_name")}
    for name in ("colour", "context"):
        some = found[name] != ""
        result[f"{name}_said"] = round(float(some.mean()), 4)
        result[f"{name}_right"] = _share(found[some], truth[some], name)
    return result | {"style_right": _share(found, truth, "style")}


def _share(found: pd.DataFrame, truth: pd.DataFrame, name: str) -> float:
    return (
        round(float((found[name] == truth[name]).mean()), 4) if len(found) else np.nan
    )


def _said(text: str) -> dict[str, str]:
    name = _longest(text, {c: (c,) for c in CLASSES})
    before = re.search(rf"\b({'|'.join(COLOURS)}) {re.escape(name)}\b", text)
    return {
        "class_name": name,
        "colour": before[1] if name and before else "",
        "context": _longest(text, {k: c.phrases for k, c in CONTEXTS.items()}),
        "style": _longest(text, {k: s.media for k, s in STYLES.items()}) or "photo",
    }


def _longest(text: str, phrases: Mapping[str, Sequence[str]]) -> str:
    """The key whose phrase is the longest of those that the text holds."""
    found = {
        phrase: key
        for key, several in phrases.items()
        for phrase in several
        if re.search(rf"\b{re.escape(phrase)}\b", text)
    }
    return found[max(found, key=len)] if found else ""
