"""Texts about each class, written by a language model.

- CuPL: What does a platypus look like? Generating customized prompts for zero-shot
  image classification, Pratt et al. 2022, arXiv 2209.03320. Sentences, used unchanged;
  class feature = re-normalised mean of unit text features.
- DCLIP: Visual classification via description from large language models, Menon and
  Vondrick 2022, arXiv 2210.07183. Descriptors, linked to the class name by a verb;
  class score = mean of the cosines.
- LaFTer: Label-free tuning of zero-shot classifier using language and unlabeled image
  collections, Mirza et al. 2023, arXiv 2305.18287. Sentences, which train a classifier.
- AutoCLIP: Auto-tuning zero-shot classifiers for vision-language models, Metzen et al.
  2023, arXiv 2309.16414. Descriptors of all classes pooled into shared templates.

The published files are JSON, {class name: [text, ...]}; the texts show whether they are
sentences or descriptors. Our own files name the kind:

    {"provenance": {...}, "sentences": {class: [...]}, "descriptors": {class: [...]}}

The two averages are in `helpers.methods.descriptions`. From texts to features:

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
    """Return the names of the files that ship with the package."""
    return sorted(path.stem for path in ASSETS.glob("*.json"))


def load(
    source: str | Path, class_names: Sequence[str], kind: str = "sentences"
) -> list[list[str]]:
    """Load the texts of every class, in the order of `class_names`.

    Names match exactly or else by `helpers.words.folded`; classes of the same name get
    the same texts. A class may have no descriptors, as in DCLIP's files, but must have
    sentences.

    Args:
        source: the path of a JSON file, or the name of an embedded one ("picto").
        class_names: C names.
        kind: one of `KINDS`.

    Raises:
        ValueError: a file of another kind, or classes without texts.
        FileNotFoundError: no such file.
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
    """Read a file of texts: {"sentences" or "descriptors": {class name: texts}}."""
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
    """Make DCLIP's prompts of every class: "hen, which has two legs".

    As in the published code, a prompt begins with the name; `photo` gives WaffleCLIP's
    form for comparisons, "A photo of a hen, which has two legs.". A class without
    descriptors gets one prompt without any, where the published code leaves a dangling
    "which has".
    """
    frame = "A photo of a {}." if photo else "{}"
    prompts = []
    for name, of_class in zip(class_names, descriptors, strict=True):
        phrases = [f"{name}, {glue(text)}" for text in of_class] or [name]
        prompts.append([frame.format(phrase) for phrase in phrases])
    return prompts


def glue(descriptor: str) -> str:
    """Link a descriptor as DCLIP does: "which has two legs".

    Published numbers rest on its rule, which tests the first letters and not the first
    word, so that "antlers" becomes "which is antlers".
    """
    if descriptor.startswith(("a", "used")):
        return f"which is {descriptor}"
    if descriptor.startswith(("has", "often", "typically", "may", "can")):
        return f"which {descriptor}"
    return f"which has {descriptor}"


def pooled_templates(
    descriptors: Sequence[Sequence[str]], count: int, seed: int = 0
) -> tuple[str, ...]:
    """Make `count` templates shared by all classes from the descriptors of all classes.

    "A photo of a {}, which has <descriptor>.", with distinct descriptors drawn without
    replacement, or with replacement if `count` exceeds their number. The order of
    classes and descriptors does not matter. Raises ValueError for none of them.
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
    """Guess the kind: most sentences, and few descriptors, end with a full stop, or
    name their class."""
    votes = [
        text.endswith((".", "!", "?")) or folded(name) in folded(text)
        for name, of_class in texts.items()
        for text in of_class
    ]
    return "sentences" if 2 * sum(votes) > len(votes) else "descriptors"


def _checked(texts: object, path: Path) -> dict[str, list[str]]:
    """Lists of texts by class, stripped, without empty ones."""
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
