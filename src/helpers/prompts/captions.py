"""Caption prompts: an image's caption, with each class name instead of its keyword.

Caption the image, find the caption's keyword, replace the keyword by each class name,
classify: the caption prompts of the course project TTA_DL-Project
(github.com/LuCazzola/TTA_DL-Project), 2023. With caption "a bird that is standing in
the sand" and keyword "bird" the prompts are "a dog that is standing in the sand", ...

Keywords are KeyBERT's (Grootendorst 2020, github.com/MaartenGr/KeyBERT): the word of
the caption whose embedding has the largest cosine with the caption's.

    here                                          that project, `faithful`
    keyword is no English stop word               any word but "a" and "of"
    replaced as a word, with its article          replaced wherever its letters occur
    replaced once; repeated, it becomes "one"     replaced every time
    replaces a hyphenated word that contains it   splits at the hyphen
    shortened word by word to CLIP's context      cut after 70 characters
    no keyword, not found, or a word too long:    an error, or the same prompt for all
    the plain prompt

The placeholders of templates are those of `helpers.models.template_prompts`.
"""

import random
import re
from collections.abc import Container, Iterable, Sequence

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # KeyBERT's own

from helpers.models import hub
from helpers.models.clip import Backbone
from helpers.models.optional import MissingModel, command
from helpers.models.template_prompts import PLACEHOLDER, ContextWindow, fill
from helpers.words import composed, folded, mentions, spans

PLAIN = "a photo of a {}."
ARTICLE = re.compile(r"(?<!\w)[Aa][Nn]?\s+$")
FAITHFUL_CHARACTERS = 70
SENTENCE_MODEL = "all-MiniLM-L6-v2"
SENTENCE_MODEL_SIZE = "90 MB"


def clip_embedder(backbone: Backbone):
    """Make a KeyBERT backend from a CLIP's text tower; it needs no download."""
    from keybert.backend import BaseEmbedder

    class ClipText(BaseEmbedder):
        def embed(self, documents: Iterable[str], verbose: bool = False) -> np.ndarray:
            """Unit features float32 [n, D] of texts, shortened to CLIP's context."""
            window = ContextWindow(backbone)
            texts = [shorten(text, window) for text in documents]
            return backbone.encode_texts(texts).cpu().numpy()

    return ClipText()


def sentence_embedder(name: str = SENTENCE_MODEL):
    """Load a model of sentence-transformers, KeyBERT's default, as a backend.

    Raises `MissingModel` with the command that fetches the model.
    """
    from keybert.backend._sentencetransformers import SentenceTransformerBackend

    source = hub.source(name)
    try:
        return SentenceTransformerBackend(source)
    except Exception as error:  # the hub's client raises many kinds
        size = f" (about {SENTENCE_MODEL_SIZE})" if name == SENTENCE_MODEL else ""
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
    """Find the best keyword of each caption, in lower case; "" if there is none.

    `embedder` is a KeyBERT backend. Candidates are single words of at least two
    letters; `stop_words=None` makes function words candidates too.
    """
    from keybert import KeyBERT

    distinct = sorted({caption for caption in captions if caption.strip()})
    # A combining accent, such as in Python's lower case of İ, would split its word.
    whole = [composed(caption).replace("İ", "I") for caption in distinct]
    # Two more, since KeyBERT returns another shape for a single text.
    ranked = KeyBERT(embedder).extract_keywords(
        [*whole, "", ""], stop_words=stop_words, top_n=1
    )
    first = {
        caption: found[0][0] if found else ""
        for caption, found in zip(distinct, ranked, strict=False)
    }
    return [first.get(caption, "") for caption in captions]


def template(caption: str, keyword: str) -> str:
    """Make a template of a caption: a placeholder for the first use of its keyword.

    Case does not count. An article before the keyword becomes part of the placeholder.
    A repeated keyword becomes "one": "a {} next to another one". Without a keyword in
    the caption the template is `PLAIN`.
    """
    text = composed(re.sub(r"[{}]", " ", caption))
    made, at = "", 0
    for start, end, _ in mentions(text, _words_with(keyword, text)):
        before = text[at:start]
        article = ARTICLE.search(before)
        before = before[: article.start()] if article else before
        if not made:
            made = before + ("{a}" if article else "{}")
        elif before.strip():  # not "a dog dog"
            made += f"{before}one"
        at = end
    return made + text[at:] if made else PLAIN


def _words_with(keyword: str, text: str) -> list[str]:
    """The keyword or, if the text lacks it as a word, hyphenated words that contain it.

    KeyBERT finds "shirt" in "t-shirt".
    """
    if mentions(text, [keyword]):
        return [keyword]
    words = [text[start:end] for start, end in spans(text)]
    return [word for word in words if folded(keyword) in folded(word).split()]


def templates(
    captions: Sequence[str],
    found: Sequence[str],
    backbone: Backbone,
    class_names: Sequence[str],
) -> list[str]:
    """Make the `template` of each caption and keyword, `fitted` to the context."""
    made = [template(*pair) for pair in zip(captions, found, strict=True)]
    return fitted(made, backbone, class_names)


def fitted(
    templates: Sequence[str], backbone: Backbone, class_names: Sequence[str]
) -> list[str]:
    """Shorten each template to the backbone's context.

    `PLAIN` replaces a template with a word that is too long by itself. Raises
    ValueError if a class name is too long for `PLAIN`.
    """
    window, made = ContextWindow(backbone), {}
    longest = window.longest(class_names)
    for text in dict.fromkeys(templates):
        try:
            made[text] = shorten(text, window, longest)
        except ValueError:
            made[text] = shorten(PLAIN, window, longest)
    return [made[text] for text in templates]


def faithful_template(caption: str, keyword: str) -> str:
    """Make the original project's template: it replaces the keyword's letters anywhere.

    Fill it with `characters=FAITHFUL_CHARACTERS`. If the caption lacks the keyword
    letter by letter, all classes get the same prompt, and the first class wins.
    """
    text = re.sub(r"[{}]", " ", caption)
    return text.replace(keyword, "{}") if keyword else text


def shorten(text: str, window: ContextWindow, class_names: Sequence[str] = ()) -> str:
    """Remove words from a text or template until it fits the context.

    A template keeps its placeholders and fits with the longest class name: words are
    removed after the last placeholder, from the end, and then from the beginning. Of a
    text of one word the beginning is kept. Raises ValueError for a template if a class
    name or one word is too long by itself.
    """
    longest = window.longest(class_names)
    words = text.split()

    def fit() -> bool:
        short = " ".join(words)
        prompts = [fill(short, name) for name in longest] or [short]
        return all(map(window.fits, prompts))

    while not fit():
        if len(words) > 1:
            words.pop(0 if PLACEHOLDER.search(words[-1]) else -1)
        elif longest:
            raise ValueError(
                f"one word or class name of {fill(text, longest[-1])!r} is "
                "longer than what this CLIP reads: shorten it"
            )
        else:
            words = [words[0][: len(words[0]) // 2]]
    return " ".join(words)


def class_in(text: str, class_names: Sequence[str]) -> str:
    """Return the class that a text names, the longest of several, or "".

    In a caption this is the captioner's guess; in a template, a guess that leaks into
    the prompts of all classes.
    """
    name_of = {folded(name): name for name in class_names}
    found = [name for _, _, name in mentions(text, name_of)]
    return name_of[max(found, key=len)] if found else ""


def vocabulary(templates: Iterable[str]) -> set[str]:
    """Return the words of templates, in lower case, without commas and full stops."""
    words = {_bare(w) for t in templates for w in PLACEHOLDER.sub("", t).split()}
    return words - {""}


def restricted(template: str, words: Container[str]) -> str:
    """Keep only these words of a template, such as its style without the place.

    Function words at the end are removed as well; `PLAIN` if only function words stay.
    """
    kept = [w for w in template.split() if PLACEHOLDER.search(w) or _bare(w) in words]
    while kept and _bare(kept[-1]) in ENGLISH_STOP_WORDS:
        kept.pop()
    rest = {_bare(w) for w in kept if not PLACEHOLDER.search(w)} - ENGLISH_STOP_WORDS
    return f"{' '.join(kept).rstrip('.,')}." if rest else PLAIN


def noisy(template: str, share: float, words: Sequence[str], rng: random.Random) -> str:
    """Replace words, except placeholders, at random with probability `share`."""
    return " ".join(
        word if PLACEHOLDER.search(word) or rng.random() >= share else rng.choice(words)
        for word in template.split()
    )


def _bare(word: str) -> str:
    return folded(word.strip(".,"))
