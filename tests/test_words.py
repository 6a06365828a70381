"""Names and texts as people read them."""

import unicodedata

import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.prompts import captions
from helpers.words import folded, mentions, with_article

AN = (
    "apple|Éclair|Übung|Île|Østers|æbleskiver|owl|umbrella|urn|usher|"
    "uninhabited island|unlit candle|unidentified object|upright piano|udon|"
    "ugly duckling|iPod|ox|OWL|hour|hourglass|heir|heiress|honest man|honor|"
    "honour guard|ytterbium|'owl'|(old) car|MRI|MRI scan|mri|X-ray|F-16|f1 car|"
    "M&M|MP3 player|HDTV|RV|SSD|8-track|8|18-wheeler|11|1850 map|80s car"
)
A = (
    "dog|unicorn|unicycle|uniform|union|unit|universe|UFO|ufo|UFOs|USB stick|"
    "UK flag|URL|UV lamp|U-turn|user|usual|utensil|ukulele|"
    "uranium|uterus|ubiquitous|European|eucalyptus|ewe|ewer|"
    "one-eyed cat|one|once|onesie|ouija board|horse|HORSE|hotel|hôtel|herb|"
    "hound|FOX|DOG|RAM|scuba|schnauzer|squirrel|fly|spa|sky|rhinoceros|llama|"
    "gym|T-shirt|TV|CD player|yacht|St. Bernard|"
    "Mr Potato Head|Mt Fuji|100|1|10|110|7-Eleven|3D printer|猫|xylophone"
)
ALIKE = [
    ("İstanbul", "istanbul", "i\N{COMBINING DOT ABOVE}stanbul", "ISTANBUL"),
    ("Straße", "STRASSE", "strasse", "STRAẞE"),
    ("ﬁsh", "FISH", "Ｆｉｓｈ"),
    ("οδός", "ΟΔΌΣ", "οδόσ"),
    ("café", "CAFE\N{COMBINING ACUTE ACCENT}"),
    ("\N{KELVIN SIGN}elvin", "kelvin", "KELVIN"),
    (
        "T-shirt",
        "t shirt",
        "T_Shirt",
        " t\N{NO-BREAK SPACE}shirt\n",
        "t‐shirt",
        "t‑shirt",
    ),
    ("jack-o'-lantern", "Jack-o’-Lantern"),
    ("zero\N{ZERO WIDTH SPACE}width", "zerowidth"),
]


@pytest.mark.parametrize("names", ALIKE)
def test_names_that_look_alike_are_the_same(names):
    assert len({folded(name) for name in names}) == 1
    for name in names:
        for other in names:
            assert mentions(f"see {name}!", [other]), (name, other)


def test_names_that_look_different_are_not():
    names = ["kırmızı", "kirmizi", "cafe", "café", "o", "ö", "ø", "C", "C++", "Σ", "S"]
    assert len({folded(name) for name in names}) == len(names)


@settings(max_examples=300, deadline=None, database=None)
@given(st.text(max_size=20), st.lists(st.text(max_size=6), max_size=4))
def test_what_a_text_names_can_be_looked_up_whatever_the_letters(text, names):
    assert folded(folded(text)) == folded(text)
    assert folded(unicodedata.normalize("NFD", text)) == folded(text)
    said = " ".join([text, *names])
    assert captions.class_in(said, names) in ["", *names]
    for start, end, found in mentions(said, names):
        assert folded(said[start:end]) == found
        assert found in map(folded, names)


def test_articles():
    assert [n for n in AN.split("|") if with_article(n) != f"an {n}"] == []
    assert [n for n in A.split("|") if with_article(n) != f"a {n}"] == []
    assert with_article("the Moon") == "the Moon"
    assert with_article("a cat") == "a cat"
    other = [
        name
        for name in open_clip.IMAGENET_CLASSNAMES
        if (name[0] in "aeiouAEIOU") != (with_article(name) == f"an {name}")
    ]
    assert sorted(other) == [
        "European garden spider",
        "European green lizard",
        "European polecat",
        "hourglass",
        "one-piece bathing suit",
        "unicycle",
    ]
