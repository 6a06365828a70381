"""Prompt templates shared by all classes, with one `{}` for the class name.

The 80 templates and the 7 found by forward selection are OpenAI's for ImageNet (CLIP's
`Prompt_Engineering_for_ImageNet` notebook), as open_clip ships them. `styles` is ours,
for pictures of many kinds: eight wordings for photos, the name with and without an
article, and a template for each of thirteen kinds of rendition.
"""

from collections.abc import Callable, Iterable

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
