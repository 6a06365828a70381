"""Prompt templates shared by all classes, with one `{}` for the class name.

The 80 templates and the 7 found by forward selection are OpenAI's for ImageNet (CLIP's
`Prompt_Engineering_for_ImageNet` notebook), as open_clip ships them. `styles` is ours,
for pictures of many kinds: eight wordings for photos, the name with and without an
article, and a template for each of thirteen kinds of rendition.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from string import Formatter

import open_clip


def _texts(templates: Iterable[Callable[[str], str]]) -> tuple[str, ...]:
    """open_clip keeps templates as functions of the class name."""
    return tuple(template("{}") for template in templates)


TEMPLATES: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "photo": ("a photo of a {}.",),
    "openai_7": _texts(open_clip.SIMPLE_IMAGENET_TEMPLATES),
    "openai_80": _texts(open_clip.OPENAI_IMAGENET_TEMPLATES),
    "styles": (
        "{}",
        "a {}.",
        "a photo of a {}.",
        "a photo of the {}.",
        "a picture of a {}.",
        "a close-up photo of a {}.",
        "a cropped photo of a {}.",
        "a blurry photo of a {}.",
        "a dark photo of a {}.",
        "a black and white photo of a {}.",
        "an oil painting of a {}.",
        "a watercolor painting of a {}.",
        "a cartoon of a {}.",
        "pixel art of a {}.",
        "a silhouette of a {}.",
        "a pencil sketch of a {}.",
        "a crayon drawing of a {}.",
        "a neon sign of a {}.",
        "an origami {}.",
        "a mosaic of a {}.",
        "an embroidery of a {}.",
        "a chalk drawing of a {}.",
        "a blueprint of a {}.",
    ),
}


def templates(name: str) -> tuple[str, ...]:
    """Return a template set by name; raises ValueError for an unknown name."""
    if name not in TEMPLATES:
        raise ValueError(
            f"unknown template set {name!r}: choose {', '.join(TEMPLATES)}"
        )
    return TEMPLATES[name]


def shared(templates: Sequence[str]) -> tuple[str, ...]:
    """Return the templates after a check that all classes can share each of them.

    Methods that weight templates (AutoCLIP) need template k to mean the same for all
    classes. Raises ValueError for texts per class, for an empty list, and for a
    template without exactly one `{}`.
    """
    if isinstance(templates, str):
        raise ValueError(f"one string, not a list of templates: [{templates!r}]?")
    per_class = isinstance(templates, Mapping)
    if per_class or not all(isinstance(template, str) for template in templates):
        raise ValueError(
            "texts that differ from class to class, where templates shared by all "
            "classes are needed: the k-th text of one class has nothing to do with the "
            "k-th of another. Draw shared ones from them with "
            "helpers.prompts.descriptions.pooled_templates, or average them per class "
            "with helpers.methods.descriptions.class_features"
        )
    if not templates:
        raise ValueError("an empty list of templates: give one at least, say '{}'")
    for template in templates:
        if _fields(template) != [""]:
            raise ValueError(
                f"template {template!r} must hold exactly one {{}}, the place of the "
                "class name; write other braces double, {{ and }}"
            )
    return tuple(templates)


def _fields(template: str) -> list[str]:
    """The content of each replacement field; [""] for a single `{}`."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError:  # a brace without its partner
        return []
    return [
        f"{name}!{conversion}:{layout}" if conversion or layout else name
        for _, name, layout, conversion in parsed
        if name is not None
    ]
