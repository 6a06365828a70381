"""Captions for the captioner's training, and scores of captions.

CLIP's training captions may omit the place. For the captioner we take, of the many true
captions of a scene, those that name the class and, if there is a background, the place.
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

DRAWS = 60  # captions to choose from; less than half of them name class and place
MOST_WORDS = 13
DESCRIBES = re.compile(r"\b(which|with|type of|used for|known for)\b")


def telling(scene: Scene, rng: random.Random, count: int = 1) -> list[str]:
    """Draw `count` short captions of a scene that name its class and its place, if any.

    Descriptions of the class ("which has a thin stem") are left out.
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
    """Return a `telling` caption of each embedded picture, by id ("picto-s/00012").

    These are the captions of a perfect captioner.
    """
    texts = []
    for image_id in image_ids:
        texts += telling(_scene(image_id), random.Random(f"telling/{image_id}"))
    return texts


def true_templates(image_ids: Sequence[str], say: Sequence[str]) -> list[str]:
    """Make templates with the true "style", the true "context", or both.

    Without either it is "a photo of a {}."; pictures without background have no place.
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
    """Parse captions: class_name, colour, context and style of each, "" if not named.

    Only a colour before the class name counts, not that of "a green field".
    """
    return pd.DataFrame([_said(text.casefold()) for text in texts])


def correctness(texts: Sequence[str], facts: pd.DataFrame) -> dict[str, float]:
    """Return shares of captions that are right about scenes with these `facts`.

    `class_right` and `style_right` are shares of all captions; `colour_said` and
    `context_said` the shares that name one, and `colour_right` and `context_right` the
    shares of these that name the true one.
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
