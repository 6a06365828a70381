"""Prompt templates shared by all classes. Each holds one `{}` for the class name.

The 80 templates and the 7 found by forward selection are OpenAI's for ImageNet (CLIP's
`Prompt_Engineering_for_ImageNet` notebook), as open_clip ships them.
"""

import open_clip


def _texts(templates) -> tuple[str, ...]:
    """open_clip keeps templates as functions of the class name."""
    return tuple(template("{}") for template in templates)


TEMPLATES: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "photo": ("a photo of a {}.",),
    "openai_7": _texts(open_clip.SIMPLE_IMAGENET_TEMPLATES),
    "openai_80": _texts(open_clip.OPENAI_IMAGENET_TEMPLATES),
}


def templates(name: str) -> tuple[str, ...]:
    """The template set of this name."""
    if name not in TEMPLATES:
        raise ValueError(
            f"unknown template set {name!r}: choose {', '.join(TEMPLATES)}"
        )
    return TEMPLATES[name]
