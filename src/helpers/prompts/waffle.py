"""WaffleCLIP: descriptors of random words and random characters.

Waffling around for performance: visual classification with random words and broad
concepts, Roth et al. 2023, arXiv 2306.07282. DCLIP's gain may come from averaging many
prompts, whatever they say. As a control WaffleCLIP replaces each descriptor by noise
that all classes share:

    "A photo of a {class name}, which has {random}."

The noise has as many words as the average class name, each cut to the average length of
their words. Half of the templates, 15 by default, have random words, and half random
characters in words of the same lengths.

Deviations: the caller gives the words, such as `vocabulary(backbone.tokenizer)`, while
the paper draws from a published list; characters are the letters a to z, while it draws
from those of a file of descriptors. Class names fill templates; the paper's code
replaces them in finished prompts, and so within random words as well.
"""

import random
import string
from collections.abc import Callable, Sequence
from statistics import fmean

MIN_LETTERS = 3  # shorter entries of a vocabulary are mostly parts of words


def waffle_templates(
    class_names: Sequence[str], words: Sequence[str], count: int = 15, seed: int = 0
) -> tuple[str, ...]:
    """Make 2 x `count` templates that all classes share, words and characters in turn.

    Words are drawn with replacement. The same (names, words, seed) gives the same
    templates, a smaller `count` the first of them. WaffleCLIP averages cosines: see
    `helpers.methods.descriptions`. Raises ValueError for empty names or words.
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
    """Return the mean number of words per name and of letters per word, at least 1.

    Each name counts once, with its words' mean length. Halves round to even, as in
    NumPy.
    """
    split = [name.split() for name in class_names]
    number = fmean(len(words) for words in split)
    length = fmean(fmean(map(len, words)) for words in split)
    return max(1, round(number)), max(1, round(length))


def vocabulary(tokenizer: Callable) -> list[str]:
    """Return the words that are one token for open_clip's tokenizer, sorted.

    Words of three or more letters a to z. Raises ValueError for a tokenizer that does
    not list its words.
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
