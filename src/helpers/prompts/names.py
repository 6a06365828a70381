"""Class names that a CLIP cannot read whole, or cannot tell apart."""

from collections.abc import Iterable, Sequence

import open_clip
import torch
from torch import Tensor

from helpers.models import embedded
from helpers.prompts.templates import TEMPLATES

PROMPTS = TEMPLATES["openai_80"]
BLOCK = 1024  # names compared with all at once


def too_long(backbone: str, class_names: Iterable[str]) -> list[str]:
    """A line for each name that does not fit into the prompts of a backbone.

    The longest of OpenAI's 80 prompts counts. No weights are loaded. Tokenizers of
    other kinds than CLIP's cut prompts off and are not asked.
    """
    embedded.register()
    config = open_clip.get_model_config(backbone)
    if config is None or "hf_tokenizer_name" in config["text_cfg"]:
        return []
    room = config["text_cfg"].get(
        "context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH
    )
    encode = open_clip.get_tokenizer(
        backbone, **embedded.tokenizer_options(backbone)
    ).encode
    around = 2 + max(len(encode(prompt.format(""))) for prompt in PROMPTS)
    lengths = {name: len(encode(name)) for name in class_names}
    return [
        f"class name {_short(name)!r} has {length} tokens, but inside a prompt "
        f"{backbone} reads {room - around} at most: give the class a shorter name"
        for name, length in lengths.items()
        if length > room - around
    ]


def alike(
    class_features: Tensor,
    names: Sequence[str],
    above: float = 0.98,
    owner: Tensor | None = None,
    most: int = 100,
) -> list[tuple[str, str]]:
    """Pairs of names that a CLIP takes for nearly the same, the most alike first.

    Args:
        class_features: [C, D], unit.
        names: C names.
        above: the cosine from which two names count as alike.
        owner: [C], the class of each name; those of one class may be alike.
        most: pairs to return at most.
    """
    features, number = class_features.float(), torch.arange(len(names))
    found, pairs = [], []
    for rows in number.split(BLOCK):
        cosines = features[rows] @ features.T
        later = number > rows[:, None]
        if owner is not None:
            later &= owner.cpu() != owner.cpu()[rows, None]
        cosines = cosines.cpu().where(later, -1.0)
        best = cosines.flatten().topk(min(most, cosines.numel()))
        kept = best.indices[best.values > above]
        found.append(best.values[best.values > above])
        pairs += [
            (names[rows[i // len(names)]], names[i % len(names)]) for i in kept.tolist()
        ]
    order = torch.cat(found).argsort(descending=True, stable=True)
    return [pairs[i] for i in order[:most].tolist()]


def told_alike(pairs: Sequence[tuple[str, str]], shown: int = 5) -> str:
    """A sentence that warns of pairs of `alike`; "" for none."""
    if not pairs:
        return ""
    some = ", ".join(f"{a!r} and {b!r}" for a, b in pairs[:shown])
    rest = len(pairs) - shown
    more = f" and {rest} more pairs" if rest > 0 else ""
    return (
        f"This CLIP can hardly tell some names apart: {some}{more}. Make two of them "
        f"one class ({' | '.join(pairs[0])}), or name what sets them apart."
    )


def _short(name: str, longest: int = 60) -> str:
    return name if len(name) <= longest else f"{name[:longest]}…"
