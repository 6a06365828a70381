"""Caption prompts: an image's caption, with each class in its subject's place.

Caption the image, find the caption's keyword, put each class name where the keyword
stands, classify: the caption prompts of the course project TTA_DL-Project
(github.com/LuCazzola/TTA_DL-Project), 2023. With caption "a bird that is standing in
the sand" and keyword "bird" the prompts are "a dog that is standing in the sand", ...

Keywords are KeyBERT's (Grootendorst 2020, github.com/MaartenGr/KeyBERT): of the
caption's words the one whose embedding has the largest cosine with the caption's.

    here                                          that project, `faithful`
    keyword not among English stop words          any word, "a" and "of" left out
    replaced as a word, with its article          replaced wherever its letters stand
    once: said again it becomes "one"             every time
    a part of a hyphenated word stands for it     split at the hyphen
    shortened by words to what CLIP reads         cut after 70 characters
    no keyword, not found, or a word too long:    an error, or the same prompt for all
    the plain prompt

Templates hold the class name's place as `helpers.models.slots` has it: `{}`, or `{a}`
with its article.
"""

import random
import re
from collections.abc import Container, Iterable, Sequence

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # KeyBERT's own

from helpers.models import slots
from helpers.models.clip import Backbone
from helpers.models.optional import MissingModel, command
from helpers.paths import from_root
from helpers.words import composed, folded, mentions, spans

PLAIN = "a photo of a {}."
ARTICLE = re.compile(r"(?<!\w)[Aa][Nn]?\s+$")
FAITHFUL_CHARACTERS = 70
SENTENCES = "all-MiniLM-L6-v2"
SENTENCES_SIZE = "90 MB"


def clip_embedder(backbone: Backbone):
    """A KeyBERT backend that embeds with a CLIP's text tower; needs no download."""
    from keybert.backend import BaseEmbedder

    class ClipText(BaseEmbedder):
        def embed(self, documents: Iterable[str], verbose: bool = False) -> np.ndarray:
            """Unit features float32 [n, D] of texts, shortened to what CLIP reads."""
            reads = counter(backbone)
            texts = [shorten(text, reads) for text in documents]
            return backbone.encode_texts(texts).cpu().numpy()

    return ClipText()


def sentence_embedder(name: str = SENTENCES):
    """KeyBERT's own choice of embeddings, from sentence-transformers.

    Raises `MissingModel` with the command that fetches the model.
    """
    from keybert.backend._sentencetransformers import SentenceTransformerBackend

    folder = from_root(name)
    try:
        return SentenceTransformerBackend(str(folder) if folder.is_dir() else name)
    except Exception as error:  # the hub's client raises many kinds
        size = f" (about {SENTENCES_SIZE})" if name == SENTENCES else ""
        raise MissingModel(
            "embeddings",
            f"no sentence embeddings {name!r} here: fetch them with "
            f"`{command('embeddings', name)}`{size} where there is a network, or take "
            "embeddings 'clip'",
            error,
        ) from error


def keywords(
    captions: Sequence[str], embedder, stop_words: str | None = "english"
) -> list[str]:
    """The first keyword of each caption in lower case, "" where there is none.

    `embedder` is a KeyBERT backend. Candidates are single words of two letters or more;
    `stop_words=None` lets function words compete.
    """
    from keybert import KeyBERT

    distinct = sorted({caption for caption in captions if caption.strip()})
    # A loose accent, such as Python's lower case of İ has, would split its word.
    whole = [composed(caption).replace("İ", "I") for caption in distinct]
    # Never a single one, of which KeyBERT would return another shape.
    ranked = KeyBERT(embedder).extract_keywords(
        [*whole, "", ""], stop_words=stop_words, top_n=1
    )
    first = {
        caption: found[0][0] if found else ""
        for caption, found in zip(distinct, ranked, strict=False)
    }
    return [first.get(caption, "") for caption in captions]


def template(caption: str, keyword: str, plain: str = PLAIN) -> str:
    """The caption with a class's place where the keyword first stands as a word.

    Case does not count. An article before the keyword goes with the class name, as it
    depends on it. Where the keyword is said again, the class is "one": "a {} next to
    another one". Without a keyword, or where it does not stand in the caption, the
    template is `plain`.
    """
    text = composed(re.sub(r"[{}]", " ", caption))
    made, at = "", 0
    for start, end, _ in mentions(text, _as_said(keyword, text)):
        before = text[at:start]
        article = ARTICLE.search(before)
        before = before[: article.start()] if article else before
        if not made:
            made = before + ("{a}" if article else "{}")
        elif before.strip():  # not "a dog dog"
            made += f"{before}one"
        at = end
    return made + text[at:] if made else plain


def _as_said(keyword: str, text: str) -> list[str]:
    """The keyword or, where it is only a part of them, the hyphenated words: KeyBERT
    finds the shirt of a "t-shirt"."""
    if mentions(text, [keyword]):
        return [keyword]
    words = [text[start:end] for start, end in spans(text)]
    return [word for word in words if folded(keyword) in folded(word).split()]


def templates(
    captions: Sequence[str],
    found: Sequence[str],
    backbone: Backbone,
    class_names: Sequence[str],
    plain: str = PLAIN,
) -> list[str]:
    """`template` of each caption and keyword, as `fitted` to what the CLIP reads."""
    made = [template(*pair, plain) for pair in zip(captions, found, strict=True)]
    return fitted(made, backbone, class_names, plain)


def fitted(
    templates: Sequence[str],
    backbone: Backbone,
    class_names: Sequence[str],
    plain: str = PLAIN,
) -> list[str]:
    """Templates shortened to what the CLIP reads, each on its own.

    `plain` stands in for one of which a single word is too long. Raises ValueError
    where a class name is too long for that, too.
    """
    fits, made = counter(backbone), {}
    longest = fits.longest(class_names)
    for text in dict.fromkeys(templates):
        try:
            made[text] = shorten(text, fits, longest)
        except ValueError:
            made[text] = shorten(plain, fits, longest)
    return [made[text] for text in templates]


def faithful_template(caption: str, keyword: str) -> str:
    """The original's template: every run of the keyword's letters is a class's place.

    To be filled with `characters=FAITHFUL_CHARACTERS`. Where the keyword is not in the
    caption letter by letter all classes get one prompt, and the first class wins.
    """
    text = re.sub(r"[{}]", " ", caption)
    return text.replace(keyword, "{}") if keyword else text


def counter(backbone: Backbone) -> slots.Context:
    """Whether a text fits the backbone's context, whatever its tokenizer."""
    return slots.Context(backbone)


def shorten(text: str, fits: slots.Context, class_names: Sequence[str] = ()) -> str:
    """The text or template without the words that are too many for the context.

    A template keeps its slots: words go from the end as long as they stand behind the
    last slot, then from the beginning, until the longest of the class names fits.
    Raises ValueError where a class name alone does not. Of a text that is a single word
    too long the beginning is left.
    """
    longest = fits.longest(class_names)
    words = text.split()

    def fit() -> bool:
        short = " ".join(words)
        prompts = [slots.fill(short, name) for name in longest] or [short]
        return all(fits(prompt) for prompt in prompts)

    while not fit():
        if len(words) > 1:
            words.pop(0 if slots.SLOT.search(words[-1]) else -1)
        elif longest:
            raise ValueError(
                f"one word or class name of {slots.fill(text, longest[-1])!r} is "
                "longer than what this CLIP reads: shorten it"
            )
        else:
            words = [words[0][: len(words[0]) // 2]]
    return " ".join(words)


def class_in(text: str, class_names: Sequence[str]) -> str:
    """The class that the text names as a word, the longest of several, or "".

    Said of a caption: the captioner's own guess. Said of a template: what is left of
    that guess, in all the prompts alike.
    """
    of = {folded(name): name for name in class_names}
    found = [name for _, _, name in mentions(text, of)]
    return of[max(found, key=len)] if found else ""


def vocabulary(templates: Iterable[str]) -> set[str]:
    """The words of templates, in lower case and without commas and full stops."""
    words = {_bare(w) for t in templates for w in slots.SLOT.sub("", t).split()}
    return words - {""}


def restricted(template: str, words: Container[str], plain: str = PLAIN) -> str:
    """The template without any word but these: "a sketch of {a}", say, and no place.

    Function words that are left over at the end go, too; `plain` where no others stay.
    """
    kept = [w for w in template.split() if slots.SLOT.search(w) or _bare(w) in words]
    while kept and _bare(kept[-1]) in ENGLISH_STOP_WORDS:
        kept.pop()
    rest = {_bare(w) for w in kept if not slots.SLOT.search(w)} - ENGLISH_STOP_WORDS
    return f"{' '.join(kept).rstrip('.,')}." if rest else plain


def noisy(template: str, share: float, words: Sequence[str], rng: random.Random) -> str:
    """The template, each word but the slot's exchanged with a chance of `share`."""
    return " ".join(
        word if slots.SLOT.search(word) or rng.random() >= share else rng.choice(words)
        for word in template.split()
    )


def _bare(word: str) -> str:
    return folded(word.strip(".,"))
