"""Every method of the study: its name, what it needs, what it is compared with.

A decorator on a method's function registers the method and returns the function:

    @method("zero", "ZERO", "votes", paper="arXiv 2405.18330", chapter="02")
    def zero(views, class_features, logit_scale): ...

The leader board, the figures and the comparisons with papers read the entries. Variants
follow one rule: a prediction file belongs to the entry whose key is the file's name or
the name's beginning before "_" or "-"; of several such keys, the longest counts. So
`tpt_linear-augmix` belongs to `tpt` unless `tpt_linear` has its own entry. By the same
rule, `tpt_revote` inherits from `tpt` the family, needs, paper and chapter that its own
entry does not give.

Importing this module is cheap; the first look-up imports all methods and torch.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeVar

F = TypeVar("F", bound=Callable)


class Need(NamedTuple):
    """What a method needs besides the class names; methods of one panel may compete."""

    panel: str  # in the leader board
    phrase: str  # the panel's title
    given: str  # what its user has
    marker: str  # in figures


NEEDS = {
    "nothing": Need("prompts", "nothing adapts", "the image alone", "o"),
    "image": Need("episodic", "the image alone", "the image alone", "o"),
    "word": Need("worded", "a word for such images", "a word for such images", "h"),
    "captioner": Need("captioner", "the image and a captioner", "a captioner", "D"),
    "diffusion": Need(
        "diffusion", "the image and a diffusion model", "a diffusion model", "X"
    ),
    "second model": Need(
        "second model", "the image and another CLIP", "another CLIP", "P"
    ),
    "stream": Need("online", "a stream of test images", "a stream of test images", "v"),
    "unlabelled pool": Need(
        "label-free", "unlabelled images or texts", "unlabelled images like them", "s"
    ),
    "labels": Need("labelled", "labelled images", "labelled images", "^"),
    "unknown": Need("own", "as its author knows", "your own method", "*"),
}


class Family(NamedTuple):
    """Methods that are akin."""

    needs: str  # of `NEEDS`, where a method of the family does not say otherwise
    colour_of: str  # the key of the method whose colour stands for the family


FAMILIES = {
    "prompts": Family("nothing", "zero_shot"),
    "votes": Family("image", "zero"),
    "tuned prompts": Family("image", "tpt"),
    "weighted prompts": Family("image", "autoclip"),
    "captions": Family("captioner", "caption"),
    "centring": Family("unlabelled pool", "mta"),
    "text classifiers": Family("unlabelled pool", "tps"),
    "self-training": Family("unlabelled pool", "lafter"),
    "entropy": Family("stream", "tent"),
    "learned prompts": Family("labels", "coop"),
    "second model": Family("second model", "difftpt"),
    "memory": Family("stream", "tda"),
    "all at once": Family("stream", "vote"),
    "own": Family("unknown", ""),
}

ONE, ENSEMBLE = "one prompt", "the prompt ensemble"
CANDIDATE, CONTROL = "candidate", "control"
ROLES = (CANDIDATE, ONE, ENSEMBLE, CONTROL)
"""Baselines run one prompt or the ensemble on a chapter's images, controls another
method. Neither can be the best method."""


@dataclass(frozen=True)
class Entry:
    """A method's traits; the key is "" for a prediction file that has no entry."""

    key: str
    module: str = ""  # where the method stands
    name: str = ""  # in the synthesis; "" for variants that it does not show
    title: str = ""  # in other figures; "" for the name
    family: str = "own"
    needs: str = "unknown"
    paper: str = ""
    chapter: str = ""  # that runs it
    colour: str = ""  # "#rrggbb"; a method without one is coloured by its letters
    speaker: str = ""  # the variant that figures show, "" for none
    published: tuple[str, ...] = ()  # its names in published_results.csv
    role: str = CANDIDATE
    headline: bool = False  # its speaker is tested, see `results.protocol`

    @property
    def panel(self) -> str:
        return NEEDS[self.needs].panel


_given: dict[str, tuple[Callable, dict]] = {}


def method(
    key: str,
    name: str = "",
    family: str | None = None,
    *,
    title: str = "",
    needs: str | None = None,
    paper: str | None = None,
    chapter: str | None = None,
    colour: str = "",
    speaker: str | None = None,
    published: tuple[str, ...] = (),
    role: str = CANDIDATE,
    headline: bool = False,
) -> Callable[[F], F]:
    """Register the decorated function as a method, or as several by several decorators.

    Args:
        key: the prediction file's name, or the beginning of all variants' names.
        name: in figures and tables; by default the key. The synthesis shows a variant
            of another entry only if it has a name.
        title: in figures of a chapter; by default the name.
        family: of `FAMILIES`; by default that of the main entry, or "own".
        needs: of `NEEDS`; by default that of the given family, or of the main entry.
        speaker: the prediction file that figures show, "" for none; by default the key.

        Others as in `Entry`.

    Raises:
        ValueError: an unknown family, need or role; or, at the decoration, a key that
            another function has entered.
    """
    choices = (
        ("family", family, FAMILIES),
        ("need", needs, NEEDS),
        ("role", role, ROLES),
    )
    for what, value, known in choices:
        if value is not None and value not in known:
            use = ", ".join(map(repr, known))
            raise ValueError(f"method {key!r}: unknown {what} {value!r}; use {use}")
    if family is not None and needs is None:
        needs = FAMILIES[family].needs
    given = {"family": family, "needs": needs, "paper": paper, "chapter": chapter}
    traits: dict = {trait: value for trait, value in given.items() if value is not None}
    traits |= {"name": name, "title": title, "colour": colour}
    traits |= {"published": published, "role": role}
    traits |= {"speaker": speaker, "headline": headline}

    def enter(function: F) -> F:
        where = _where(function)
        if key in _given and _where(_given[key][0]) != where:
            first = _where(_given[key][0])
            raise ValueError(f"method {key!r} of {where} is already entered by {first}")
        _given[key] = function, traits  # a cell that runs again enters its method anew
        entries.cache_clear()
        return function

    return enter


def _where(function: Callable) -> str:
    return f"{function.__module__}.{function.__qualname__}"


@cache
def entries() -> dict[str, Entry]:
    """All entries by key, a method before its variants."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")
    found: dict[str, Entry] = {}
    for key in sorted(_given):
        traits = dict(_given[key][1])
        parent = _longest(found, key)
        if parent:
            inherited = ("family", "needs", "paper", "chapter")
            traits = {t: getattr(found[parent], t) for t in inherited} | traits
        else:
            traits["name"] = traits["name"] or key
        if traits["speaker"] is None:
            traits["speaker"] = key if traits["name"] else ""
        found[key] = Entry(key, _given[key][0].__module__, **traits)
    return found


def functions() -> dict[str, Callable]:
    """Each function that is entered, by the key of its topmost decorator.

    The other keys of a function name what a chapter does with it.
    """
    entries()
    keys = {function: key for key, (function, _) in _given.items()}  # the last counts
    return {key: function for function, key in keys.items()}


def find(ledger: str) -> Entry:
    """The entry of a prediction file's name; one of key "" where no method has it."""
    key = _longest(entries(), ledger)
    return entries()[key] if key else Entry("")


def _longest(keys: Iterable[str], ledger: str) -> str:
    fitting = [k for k in keys if ledger == k or ledger.startswith((f"{k}_", f"{k}-"))]
    return max(fitting, key=len, default="")


def names() -> dict[str, str]:
    """Each method's name in figures and tables, by key."""
    return {key: entry.name for key, entry in entries().items()}


WORDS = {
    "00": "none",
    "100": "all",
    "25": "a quarter",
    "50": "half",
    "7": "7 templates",
    "75": "three quarters",
    "80": "80 templates",
    "augmix": "AugMix",
    "autoaugment": "AutoAugment",
    "averaged": "averaged with one prompt",
    "both": "half of the views drawn",
    "crops": "",
    "encoder": "encoder tuned",
    "gated": "where they fit the image",
    "linear": "linearised",
    "noisy": "noisy texts",
    "online": "on a stream",
    "per batch": "batch by batch",
    "pooled": "80 descriptors",
    "preaugment": "crops and flips",
    "prompt": "prompt tuned",
    "reference": "reference project's form",
    "style": "style alone",
    "styles": "style templates",
    "waffle": "random words",
    "wo affine": "norms frozen",
    "wo aug": "no strong view",
    "wo cls": "classifier frozen",
    "wo prompts": "no prompts",
    "wo stop grad": "teacher not frozen",
}
"""What figures say for the part of a prediction file's name that names no method."""


def title(ledger: str) -> str:
    """What figures call a prediction file; a name that no method has stays as it is.

    "autoclip_80" is "AutoCLIP, 80 templates".
    """
    titles = {key: e.title or e.name for key, e in entries().items()}
    titles = {key: text for key, text in titles.items() if text}
    key = _longest(titles, ledger)
    if not key:
        return ledger
    parts = [part.replace("_", " ").strip() for part in ledger[len(key) :].split("-")]
    return ", ".join(filter(None, [titles[key], *(WORDS.get(p, p) for p in parts)]))


def published() -> dict[str, str]:
    """Our key for each method's name in `published_results.csv`."""
    return {name: e.key for e in entries().values() for name in e.published}


def ledgers(role: str) -> tuple[str, ...]:
    """The prediction files of a role, by chapter, then by the order of registration.

    Of one function's decorators, the lowest registers first.
    """
    known = entries()  # before `_given`: the first look-up imports all methods
    having = [known[key] for key in _given if known[key].role == role]
    return tuple(e.key for e in sorted(having, key=lambda e: e.chapter))


def colours() -> dict[str, str]:
    """The colour of every entry that has one of its own, by key."""
    return {key: e.colour for key, e in entries().items() if e.colour}
