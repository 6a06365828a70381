"""Names and texts as people read them: which look alike, where one names another, a/an.

All that compares names without regard to case asks `folded`, so that what is found in
one place is found in every other.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache

# Signs that look like another, and the ones they count as. Unicode folds the capital
# İ to an i and a loose dot, which is no other word to anybody.
ALIKE = str.maketrans({"’": "'", "‘": "'", "‐": " ", "-": " ", "_": " "})
LOOSE_DOT = "i\N{COMBINING DOT ABOVE}", "i"
# Skeleton of a text: w where a letter, figure or accent stands. Hyphens join words.
HYPHENATED = re.compile(r"w+(?:['’]?[-‐‑]['’]?w+)*")
TAILS = ("-like", "-shaped", "-sized")  # said of a word, and no part of it

CONSONANT = "[b-df-hj-np-tv-xz]"
YOU = r"""
    eu | ewe | oui | once\b | ones?\b | onesie    # one begins with a w
    | u\b | u\d | uni(?!n|m[^o]|dent) | unanim | u[rstv]?[aeio] | usu | uk[aeiru]
    | ubiq | ug[ae] | (?:us[abp]? | uk | un | ufo | uhd | uno | ups | url | uv)s?\b
"""
AN = re.compile(
    rf"""
    (?!{YOU}) [aeiou] | y{CONSONANT}
    | 8 | 1[18] (?:\d\d)? (?:,?\d{{3}})* (?!\d)    # eight, eleven, eighteen
    | hours?\b | hourg | hourly | heir | honest | honou?r
    # Letters said one by one, though not "St. Bernard": without a vowel,
    | (?! (?:[fmls]t | mrs? | ms | sr | sgt)\b ) (?:
        [fhlmnrsx] {CONSONANT}* (?![a-z])
        # with a beginning that no word has,
        | (?: f(?![aeiouylr]) | h(?![aeiouy]) | l(?![aeiouyl]) | [mn](?![aeiouy])
            | r(?![aeiouyh]) | s(?=[bdgjxz]) | x(?![aeiouy]) ) [a-z]{{1,3}}\b )
    # and though they look like a word.
    | (?:suv | led | hiv | sos | faq | nes | mit | nyu | rsvp)s?\b
    """,
    re.VERBOSE,
)
ARTICLED = re.compile(r"(?:an?|the)\s")


def composed(text: str) -> str:
    """Composed Unicode, runs of white space to one space, none at the ends."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


@lru_cache(maxsize=2**16)
def folded(text: str) -> str:
    """One form for all texts that a reader takes for the same.

    Case does not count, nor do ligatures, widths, invisible signs, and whether words
    are joined by a blank, an underscore or a hyphen. Accents do, and the dotless ı is
    no i.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace(*LOOSE_DOT)
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return composed(unicodedata.normalize("NFKC", text).translate(ALIKE))


def mentions(text: str, names: Iterable[str]) -> list[tuple[int, int, str]]:
    """Where the text says one of the names: (start, end, the name folded), in order.

    Names count as whole words only, and of several at one place the longest does. A
    hyphenated word is one word: "t-shirt" names no shirt.
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
            said = folded(text[start:end])
            if said in wanted and folded(text[end - 1]):
                found.append((start, end, said))
                break
    return found


def spans(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the words of a text, hyphenated ones as one."""
    skeleton = "".join("w" if _is_of_words(sign) else sign for sign in text)
    for match in HYPHENATED.finditer(skeleton):
        start, end = match.span()
        tail = next((t for t in TAILS if text[start:end].endswith(t)), "")
        yield start, end - len(tail)
        if tail:
            yield end - len(tail) + 1, end


def _is_of_words(sign: str) -> bool:
    return sign.isalnum() or sign == "_" or unicodedata.category(sign)[0] == "M"


@lru_cache(maxsize=2**16)
def with_article(name: str) -> str:
    """ "an apple", "a dog", "a unicorn", "an MRI scan"; "the Moon" as it is."""
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
