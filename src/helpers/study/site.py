"""A finished study as pages that need no network: `outputs/STUDY/site/index.html`.

The index tells the story on a page, from the files of the run and from nothing else;
each executed notebook is a page of its own. Every page is one file.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from markupsafe import Markup
from PIL import Image

from helpers.data import embedded
from helpers.files import replacing
from helpers.paths import ROOT, number_of
from helpers.results import findings, photographs
from helpers.study import board, chapter_page, manual
from helpers.study.board import TEMPLATES
from helpers.study.chapter_page import ASSETS, Chapter

SYNTHESIS = "07"  # the chapter that sets all others side by side
ADVICE = ("tree",)  # its figure near the top of the index
SHOWN = "literature", "frontier"  # the first of its figures that there is
RESULTS = ("dataset", "backbone", "method", "seed", "n", "top1")
DRAWN = re.compile("<!-- drawn: begin -->(.*?)<!-- drawn: end -->", re.DOTALL)
"""The README's first words: its pictures, like those of the site, are drawn."""


class Picture(NamedTuple):
    """A figure of the synthesis on the index; both are empty where there is none."""

    image: Markup = Markup()
    caption: Markup = Markup()


def build(folder: Path) -> Path:
    """Write `site/` into a study's folder of outputs; returns its index.

    The same outputs give the same bytes.

    Raises:
        FileNotFoundError: no such folder, or no finished chapter in it.
        ValueError: a file of the run that cannot be read.
    """
    study = folder.name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no outputs of a study {study!r}, {folder} is missing: "
            f"`study run {study}` makes them"
        )
    found = sorted(folder.glob("[0-9][0-9]*_*.ipynb"))
    done = [path for path in found if not path.stem.endswith(".partial")]
    if not done:
        raise FileNotFoundError(
            f"no finished chapter NN_name.ipynb in {folder}: `study run {study}` "
            "makes them"
        )
    names = [path.stem for path in done]
    glossary, terms = manual.glossary()
    chapters = [chapter_page.chapter(path, names, terms) for path in done]
    partial = {
        path.name.removesuffix(".partial.ipynb"): _unfinished(path)
        for path in found
        if path not in done
    }
    results = _read(folder / "results.csv", RESULTS)
    leaders = _read(folder / "tables" / f"{SYNTHESIS}_leaderboard.csv", board.COLUMNS)
    provenance = _provenance(folder / "provenance.json")
    lines = [] if leaders is None else board.gains(leaders, _backbones(provenance))
    others = {"methods": "Methods", "board": "Leader board", "glossary": "Glossary"}
    if leaders is None:
        del others["board"]
    script = (ASSETS / "site.js").read_text(encoding="utf-8")
    common: dict[str, Any] = {
        "study": study,
        "chapters": chapters,
        "others": others,
        "partial": partial,
        "drawn": _drawn(results, provenance),
        "sections": [],
        "style": Markup((ASSETS / "site.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": _script_hash(script),
    }
    files = {}

    def write(name: str, template: str = "", **about: Any) -> None:
        page = TEMPLATES.get_template(f"site_{template or name}.html")
        files[f"{name}.html"] = page.render(common | {"here": name} | about)

    for before, chapter, after in zip(
        [None, *chapters], chapters, [*chapters[1:], None], strict=False
    ):
        write(
            chapter.name,
            "chapter",
            chapter=chapter,
            sections=chapter.sections,
            before=before,
            after=after,
            origin=provenance.get(chapter.name, {}),
        )
    finished = {chapter.name: chapter for chapter in chapters}
    entries = sorted({*finished, *partial})
    answers = findings.answers(folder / "tables")
    write(
        "index",
        entries=[(name, finished.get(name)) for name in entries],
        evidence=_evidence(folder, chapters, lines),
        lead=findings.sentences(answers[SYNTHESIS]) if SYNTHESIS in answers else [],
        answers={number: findings.short(text) for number, text in answers.items()},
        whole=SYNTHESIS,
        facts=_facts(results, folder / photographs.FILE),
        provenance=provenance,
    )
    write("glossary", glossary=glossary)
    families = manual.methods(lines, names)
    sections = [(m.id, m.title.partition(":")[0]) for f in families.values() for m in f]
    write("methods", families=families, sections=sections)
    if leaders is not None:
        write("board", rows=board.everything(leaders))
    _publish(folder / "site", files)
    return folder / "site" / "index.html"


def _script_hash(script: str) -> str:
    """The script's hash for the pages' Content-Security-Policy: no other one runs."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _drawn(results: pd.DataFrame | None, provenance: dict[str, Any]) -> Markup:
    """What the README says of drawn pictures, where the study has any."""
    names = {name for origin in provenance.values() for name in origin.get("data", {})}
    if results is not None:
        names |= set(results["dataset"])
    if not names & set(embedded.INFO):
        return Markup()
    return chapter_page.prose(DRAWN.search((ROOT / "README.md").read_text("utf-8"))[1])


def _backbones(provenance: dict[str, Any]) -> list[str]:
    """The backbones that the synthesis was given, the main one first."""
    given = next((f for n, f in provenance.items() if number_of(n) == SYNTHESIS), {})
    given = given.get("parameters", {})
    return [given[key] for key in ("backbone", "second_backbone") if given.get(key)]


def _publish(site: Path, files: dict[str, str]) -> None:
    """Write the pages, each at once, and remove those of an earlier run."""
    for name, text in files.items():
        with replacing(site / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for path in site.glob("*.html"):
        if path.name not in files:
            path.unlink()


def _unfinished(path: Path) -> dict[str, int]:
    """How many code cells have run of a notebook that broke off or is at work."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [c for c in cells if c["cell_type"] == "code" and c["source"]]
    except (ValueError, LookupError, TypeError):  # half written, as it is unfinished
        code = []
    done = sum(cell.get("execution_count") is not None for cell in code)
    return {"done": done, "cells": len(code)}


def _read(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame | None:
    """A table of the run; nothing where it was not written."""
    if not path.is_file():
        return None
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path} is no table ({error}): run its chapter again"
        ) from error
    lacking = [column for column in columns if column not in frame]
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}: run its chapter again")
    return frame


def _provenance(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}): delete it and run the chapters again"
        ) from error


def _facts(results: pd.DataFrame | None, own: Path) -> dict[str, str]:
    """How much was run, in words for the head of the index.

    The rows of `results` count labelled images, those of `own` all of a folder.
    """
    if results is None or results.empty:
        return {}
    images = results.groupby("dataset")["n"].max().sum()
    if own.is_file():
        images = max(images, len(pd.read_csv(own)))
    return {
        "data sets": f"{results['dataset'].nunique():,}",
        "images": f"{images:,}",
        "CLIPs": f"{results['backbone'].nunique():,}",
        "methods and variants": f"{results['method'].nunique():,}",
    }


def _evidence(
    folder: Path, chapters: Sequence[Chapter], lines: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The index's figures and table, from the synthesis."""
    advice, figure = (_picture(folder, chapters, names) for names in (ADVICE, SHOWN))
    if not lines or not figure.image:
        return {"advice": advice, "table": ""}
    table, main = board.table(lines), lines[0]["main"]
    return {"advice": advice, "figure": figure, "table": table, "main": main}


def _picture(
    folder: Path, chapters: Sequence[Chapter], names: Sequence[str]
) -> Picture:
    """The first of these figures of the synthesis that there is."""
    for name in names:
        path = folder / "figures" / f"{SYNTHESIS}_{name}.png"
        if path.is_file():
            break
    else:
        return Picture()
    found = [one.captions for one in chapters if number_of(one.name) == SYNTHESIS]
    caption = found[0].get(name, Markup()) if found else Markup()
    try:
        kind = Image.MIME[Image.open(path).format]
    except OSError as error:
        raise ValueError(
            f"{path} is no picture ({error}): run its chapter again"
        ) from error
    source = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    alt = caption.striptags() or f"figure {path.stem} of this study"
    return Picture(Markup('<img src="{}" alt="{}">').format(source, alt), caption)
