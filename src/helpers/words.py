"""Comparing names, finding them in texts, and choosing their article.

Every comparison of names that ignores case uses `folded`, so that all agree.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache

# Characters that count as others. Unicode folds the capital İ to an i and a combining
# dot, which readers take for the same letter.
ALIKE = str.maketrans({"’": "'", "‘": "'", "‐": " ", "-": " ", "_": " "})
LOOSE_DOT = "i\N{COMBINING DOT ABOVE}", "i"
# Matched in a text whose letters, digits and accents are all "w". Hyphens join words.
HYPHENATED = re.compile(r"w+(?:['’]?[-‐‑]['’]?w+)*")
TAILS = ("-like", "-shaped", "-sized")  # endings that are words of their own

CONSONANT = "[b-df-hj-np-tv-xz]"
AN = re.compile(
    rf"""
    # Vowels, unless they sound as in "you" or "one",
    (?! eu | ewe | oui | once\b | ones?\b | onesie
        | u\b | uni(?!n|m[^o]|dent) | u[rst]?[aeio] | usu | uk[aeiru] | ubiq
        | (?:us[abp]? | uk | un | ufo | url | uv)s?\b )
    [aeiou] | y{CONSONANT}
    | (?:mri | suv | led | lcd | hiv)s?\b
    | 8 | 1[18] (?:\d\d)? (?:,?\d{{3}})* (?!\d)    # eight, eleven, eighteen
    | hours?\b | hourg | heir | honest | honou?r
    # and acronyms without a vowel, though not "St." and its like.
    | (?! (?:[fmls]t | mrs? | ms | sr)\b ) [fhlmnrsx] {CONSONANT}* (?![a-z])
    """,
    re.VERBOSE,
)
ARTICLED = re.compile(r"(?:an?|the)\s")


def composed(text: str) -> str:
    """Compose Unicode, reduce white space to single spaces, and strip the ends."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


@lru_cache(maxsize=2**16)
def folded(text: str) -> str:
    """Return the form that is equal for all texts that a reader takes for the same.

    It ignores case, ligatures, widths, invisible characters, and whether a blank, an
    underscore or a hyphen joins words. Accents count, and the dotless ı is not an i.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace(*LOOSE_DOT)
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return composed(unicodedata.normalize("NFKC", text).translate(ALIKE))


def closest(word: str, words: Iterable[str]) -> str:
    """ " (did you mean ...?)" where a known word is near, else nothing."""
    known = {folded(one): one for one in words}
    near = difflib.get_close_matches(folded(word), known, n=1)
    return f" (did you mean {known[near[0]]}?)" if near else ""


def mentions(text: str, names: Iterable[str]) -> list[tuple[int, int, str]]:
    """Find names in a text: (start, end, folded name) of each, in order.

    Names match whole words only; of several at one position the longest matches. A
    hyphenated word is one word: "t-shirt" does not contain "shirt".
    """
    wanted = {folded(name) for name in names} - {""}
    reach = 2 * max(map(len, wanted), default=0)  # folding may lengthen a text
    inside = {p for start, end in spans(text) for p in range(start + 1, end)}
    edges = [p for p in range(len(text) + 1) if p not in inside]
    found: list[tuple[int, int, str]] = []
    for start in edges[:-1]:
        if (found and start < found[-1][1]) or not folded(text[start]):
            continue
        for end in reversed([p for p in edges if start < p <= start + reach]):
            name = folded(text[start:end])
            if name in wanted and folded(text[end - 1]):
                found.append((start, end, name))
                break
    return found


def spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each word of a text; a hyphenated word is one word."""
    skeleton = "".join("w" if _is_word_part(sign) else sign for sign in text)
    for match in HYPHENATED.finditer(skeleton):
        start, end = match.span()
        tail = next((t for t in TAILS if text[start:end].endswith(t)), "")
        yield start, end - len(tail)
        if tail:
            yield end - len(tail) + 1, end


def _is_word_part(sign: str) -> bool:
    return sign.isalnum() or sign == "_" or unicodedata.category(sign)[0] == "M"


@lru_cache(maxsize=2**16)
def with_article(name: str) -> str:
    """Add the article: "an apple", "a unicorn", "an MRI scan"; "the Moon" has one."""
    plain = "".join(
        sign
        for sign in unicodedata.normalize("NFKD", name.casefold())
        if not unicodedata.combining(sign)
    )
    plain = plain.translate({ord("ø"): "o", ord("æ"): "ae", ord("œ"): "oe"})
    plain = re.sub(r"^[\W_]+", "", plain)
    if ARTICLED.match(plain):
        return name
    return f"{'an' if AN.match(plain) else 'a'} {name}"
