"""Texts about each class, written by a language model.

- CuPL: What does a platypus look like? Generating customized prompts for zero-shot
  image classification, Pratt et al. 2022, arXiv 2209.03320. Sentences, used as they
  are; class feature = re-normalised mean of unit text features.
- DCLIP: Visual classification via description from large language models, Menon and
  Vondrick 2022, arXiv 2210.07183. Descriptors, set behind the class name with a glue
  word; class score = mean of the cosines.
- LaFTer: Label-free tuning of zero-shot classifier using language and unlabeled image
  collections, Mirza et al. 2023, arXiv 2305.18287. Sentences, which train a classifier.
- AutoCLIP: Auto-tuning zero-shot classifiers for vision-language models, Metzen et al.
  2023, arXiv 2309.16414. Descriptors of all classes pooled into shared templates.

All three publish JSON files {class name: [text, ...]}, which are read as they are; what
the texts are is told from the texts. Files of our own say so:

    {"provenance": {...}, "sentences": {class: [...]}, "descriptors": {class: [...]}}

The two averages are in `helpers.methods.descriptions`. From texts to their features:

    flat = [text for texts in per_class for text in texts]
    features = backbone.encode_texts(flat).split([len(texts) for texts in per_class])
"""

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers.paths import from_root
from helpers.words import folded

KINDS = ("sentences", "descriptors")
ASSETS = Path(__file__).parent / "assets"


def embedded() -> list[str]:
    """Names of the files that ship with the package."""
    return sorted(path.stem for path in ASSETS.glob("*.json"))


def load(
    source: str | Path, class_names: Sequence[str], kind: str = "sentences"
) -> list[list[str]]:
    """The texts of every class, in the order of `class_names`.

    `source`: the path of a JSON file, or the name of an embedded one ("picto"). Names
    are matched exactly first, then as `helpers.words.folded` has them; a name that
    occurs twice among the classes gets the same texts twice. A class may have no
    descriptors (DCLIP's files have such), but never no sentences.

    Raises ValueError for a file that is of another kind or lacks classes, naming them.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: choose one of {', '.join(KINDS)}")
    found = read(source)
    if kind not in found:
        raise ValueError(
            f"{source} holds {' and '.join(found)}, not {kind}. If they were taken for "
            f'the wrong kind, wrap them: {{"{kind}": {{...}}}}'
        )
    texts = [_of_class(found[kind], name, source) for name in class_names]
    missing = [
        name
        for name, of_class in zip(class_names, texts, strict=True)
        if of_class is None or (kind == "sentences" and not of_class)
    ]
    if missing:
        raise ValueError(
            f"{source} has no {kind} for {len(missing)} of {len(class_names)} classes: "
            f"{', '.join(map(repr, missing))}. Write them "
            "with `python tools/generate.py`"
        )
    return texts


def read(source: str | Path) -> dict[str, dict[str, list[str]]]:
    """All texts of a file: {"sentences" or "descriptors": {class name: texts}}."""
    path = ASSETS / f"{source}.json" if source in embedded() else from_root(source)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"no file of texts at {path}: give the path of a JSON file, or one of "
            f"{', '.join(embedded())}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object {{class name: [text, ...]}}")
    if any(isinstance(content.get(kind), dict) for kind in KINDS):
        return {k: _checked(content[k], path) for k in KINDS if k in content}
    texts = _checked(content, path)
    return {_kind(texts): texts}


def dclip_prompts(
    class_names: Sequence[str],
    descriptors: Sequence[Sequence[str]],
    photo: bool = False,
) -> list[list[str]]:
    """DCLIP's prompts of every class: "hen, which has two legs".

    The published code puts nothing in front of the name, and neither do we by default.
    `photo` gives the form that WaffleCLIP compares with, "A photo of a hen, which has
    two legs.": what it adds is the descriptor alone. A class without descriptors gets
    one prompt without any (the published code leaves a dangling "which has").
    """
    frame = "A photo of a {}." if photo else "{}"
    prompts = []
    for name, of_class in zip(class_names, descriptors, strict=True):
        phrases = [f"{name}, {glue(text)}" for text in of_class] or [name]
        prompts.append([frame.format(phrase) for phrase in phrases])
    return prompts


def glue(descriptor: str) -> str:
    """The descriptor as DCLIP appends it: "which has two legs".

    The rule looks at how the text begins, not at its first word, so that "antlers" too
    becomes "which is antlers". Published numbers rest on that.
    """
    if descriptor.startswith(("a", "used")):
        return f"which is {descriptor}"
    if descriptor.startswith(("has", "often", "typically", "may", "can")):
        return f"which {descriptor}"
    return f"which has {descriptor}"


def pooled_templates(
    descriptors: Sequence[Sequence[str]], count: int, seed: int = 0
) -> tuple[str, ...]:
    """`count` templates that all classes share, from the descriptors of all classes.

    "A photo of a {}, which has <descriptor>.", with descriptors drawn from the distinct
    ones, without replacement unless `count` exceeds them. The order of classes and of
    their descriptors does not matter.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, not {count}")
    pool = sorted({text for of_class in descriptors for text in of_class})
    if not pool:
        raise ValueError("no class has a descriptor to make templates from")
    draw = random.Random(seed)
    few = count <= len(pool)
    drawn = draw.sample(pool, count) if few else draw.choices(pool, k=count)
    literal = [text.replace("{", "{{").replace("}", "}}") for text in drawn]
    return tuple(f"A photo of a {{}}, which has {text}." for text in literal)


def _kind(texts: Mapping[str, Sequence[str]]) -> str:
    """Sentences end with a stop or name their class; most descriptors do neither."""
    votes = [
        text.endswith((".", "!", "?")) or folded(name) in folded(text)
        for name, of_class in texts.items()
        for text in of_class
    ]
    return "sentences" if 2 * sum(votes) > len(votes) else "descriptors"


def _checked(texts: object, path: Path) -> dict[str, list[str]]:
    """Lists of texts by class, stripped, without blank ones."""
    if not isinstance(texts, dict) or not texts:
        raise ValueError(f"{path} must hold an object {{class name: [text, ...]}}")
    for name, of_class in texts.items():
        if not isinstance(of_class, list) or not all(
            isinstance(text, str) for text in of_class
        ):
            raise ValueError(f"{path}: the texts of {name!r} must be a list of strings")
    return {
        name: [text.strip() for text in of_class if text.strip()]
        for name, of_class in texts.items()
    }


def _of_class(
    texts: Mapping[str, list[str]], name: str, source: str | Path
) -> list[str] | None:
    if name in texts:
        return texts[name]
    alike = [key for key in texts if folded(key) == folded(name)]
    if len(alike) > 1:
        raise ValueError(
            f"{source}: class {name!r} could be any of {', '.join(map(repr, alike))}; "
            "name one of them exactly so"
        )
    return texts[alike[0]] if alike else None
