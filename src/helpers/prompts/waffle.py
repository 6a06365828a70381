"""WaffleCLIP: descriptors of random words and random characters.

Waffling around for performance: visual classification with random words and broad
concepts, Roth et al. 2023, arXiv 2306.07282. What DCLIP gains may come from averaging
many prompts, whatever they say. The control replaces each descriptor by noise that all
classes share:

    "A photo of a {class name}, which has {random}."

The noise has as many words as a class name has on average, each cut to the average
length of their words; the character half has words of the same lengths. Half of the
templates are of either kind, 2 x 15 by default.

Deviations: words come from the caller, say `vocabulary(backbone.tokenizer)`, where the
paper draws from a published list; characters are the letters a to z, where it draws
from those of a file of descriptors. Class names are filled into templates and never
replaced in finished prompts, where a name that is part of a random word would be
replaced as well.
"""

import random
import string
from collections.abc import Callable, Sequence
from statistics import fmean

MIN_LETTERS = 3  # shorter entries of a vocabulary are mostly pieces


def waffle_templates(
    class_names: Sequence[str],
    words: Sequence[str],
    count: int = 15,
    seed: int = 0,
) -> tuple[str, ...]:
    """2 x `count` templates shared by all classes, a word one before its character one.

    Words are drawn with replacement. The same (names, words, seed) gives the same
    templates, and a smaller `count` the first of them. Like every average of cosines,
    WaffleCLIP's goes without re-normalising: see `helpers.methods.descriptions`.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, not {count}")
    if not class_names or not all(name.split() for name in class_names):
        raise ValueError("class names, none of them blank, decide the noise's length")
    if not words or not all(word.isalpha() for word in words):
        raise ValueError(
            "words to draw from must be letters only and at least one: filter them, or "
            "take vocabulary(backbone.tokenizer)"
        )
    number, length = noise_size(class_names)
    draw, templates = random.Random(seed), []
    for _ in range(count):
        drawn = [word[:length] for word in draw.choices(words, k=number)]
        noise = ["".join(draw.choices(string.ascii_lowercase, k=len(w))) for w in drawn]
        for text in (" ".join(drawn), " ".join(noise)):
            templates.append(f"A photo of a {{}}, which has {text}.")
    return tuple(templates)


def noise_size(class_names: Sequence[str]) -> tuple[int, int]:
    """Words of the average name, and letters of its average word; each at least 1.

    A name counts once, with the average of its words' lengths. Halves are rounded to
    even, as NumPy does.
    """
    split = [name.split() for name in class_names]
    number = fmean(len(words) for words in split)
    length = fmean(fmean(map(len, words)) for words in split)
    return max(1, round(number)), max(1, round(length))


def vocabulary(tokenizer: Callable) -> list[str]:
    """Words that open_clip's byte-pair tokenizer knows whole, in alphabetical order.

    Those of three or more letters a to z; the list depends on the merges alone.
    """
    entries = getattr(tokenizer, "encoder", None)
    if entries is None:
        raise ValueError(
            f"{type(tokenizer).__name__} does not list its words: give words of your "
            "own, say those of the class descriptions"
        )
    whole = {entry.removesuffix("</w>") for entry in entries if entry.endswith("</w>")}
    letters = set(string.ascii_lowercase)
    return sorted(w for w in whole if len(w) >= MIN_LETTERS and set(w) <= letters)
