"""The site's reference: the glossary, and each method from the head of its file."""

import importlib
import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from bs4 import BeautifulSoup
from markupsafe import Markup

from helpers.methods import registry
from helpers.paths import ROOT, number_of
from helpers.study import board, chapter_page

GLOSSARY = ROOT / "GLOSSARY.md"


def glossary() -> tuple[Markup, dict[str, str]]:
    """The glossary, and the id on its page of every term and other spelling.

    A term is a heading; "Also ..." in italics after it has its other spellings.
    """
    text = chapter_page.prose(GLOSSARY.read_text(encoding="utf-8"))
    terms = {}
    for heading in BeautifulSoup(text, "html.parser").select("h2"):
        also = heading.find_next_sibling("p").select_one("em:first-child")
        spellings = [chapter_page.text_of(heading)]
        if also:
            spellings += also.get_text().removeprefix("Also ").rstrip(".").split(", ")
        terms |= {spelling.lower(): heading["id"] for spelling in spellings}
    return text, terms


@dataclass
class Method:
    """What the methods page says of a module."""

    id: str
    title: str
    names: list[str]  # in figures and tables
    needs: str
    paper: str
    address: str  # of the paper, or nothing
    chapter: str  # the page of the chapter that runs it, or nothing
    text: Markup
    settings: dict[str, str]  # by function
    standing: Markup


def methods(
    lines: Sequence[dict[str, Any]], pages: Collection[str]
) -> dict[str, list[Method]]:
    """All registered modules by family; `lines` are those of `board.gains`."""
    found: dict[str, list[registry.Entry]] = {}
    for entry in registry.entries().values():
        if entry.module.startswith("helpers."):  # not one of somebody's own
            found.setdefault(entry.module, []).append(entry)
    families: dict[str, list[Method]] = {family: [] for family in registry.FAMILIES}
    for name, entries in sorted(found.items()):
        short = name.rpartition(".")[2]
        main = min(entries, key=lambda entry: (entry.key != short, len(entry.key)))
        families[main.family].append(_method(name, main, entries, lines, pages))
    return {family: methods for family, methods in families.items() if methods}


def _method(
    name: str,
    main: registry.Entry,
    entries: Sequence[registry.Entry],
    lines: Sequence[dict[str, Any]],
    pages: Collection[str],
) -> Method:
    module, short = importlib.import_module(name), name.rpartition(".")[2]
    title, _, text = (inspect.getdoc(module) or "").partition("\n")
    own = [line for line in lines if line["module"] == short]
    names = (entry.name or entry.title for entry in entries)
    _, arxiv, number = main.paper.partition("arXiv ")
    return Method(
        id=short,
        title=title.rstrip("."),
        names=list(dict.fromkeys(filter(None, names))),
        needs=registry.NEEDS[main.needs].given,
        paper=main.paper,
        address=f"https://arxiv.org/abs/{number}" if arxiv else "",
        chapter=next((p for p in pages if number_of(p) == main.chapter), ""),
        text=chapter_page.prose(text),
        settings=_settings(module),
        standing=board.table(own, places=True) if own else Markup(),
    )


def _settings(module: ModuleType) -> dict[str, str]:
    """The defaults of a module's public functions, in words."""
    found = {}
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if name.startswith("_") or function.__module__ != module.__name__:
            continue
        defaults = (
            f"{parameter.name} {parameter.default}"
            for parameter in inspect.signature(function).parameters.values()
            if isinstance(parameter.default, int | float | str | tuple)
        )
        if text := ", ".join(defaults):
            found[name] = text
    return found
