"""A finished study as pages that need no network: `outputs/STUDY/site/index.html`.

The index tells the story on a page, from the files of the run and from nothing else;
each executed notebook is a page of its own. Every page is one file.
"""

import base64
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from helpers.notebooks import number_of
from helpers.results import compare, published, synthesis
from helpers.study import chapter_page
from helpers.study.chapter_page import ASSETS, Chapter

SYNTHESIS = "07"  # the chapter that sets all others side by side
TEMPLATES = Environment(
    loader=FileSystemLoader(ASSETS),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.filters["number"] = number_of
RESULTS = ("dataset", "backbone", "method", "seed", "n", "top1")
BOARD = ("dataset", "backbone", "panel", "name", "seed")
BOARD += ("gain", "gain_verdict", "headline", "seconds_per_image")


@dataclass
class Unfinished:
    """A notebook that broke off, or is still at work."""

    name: str
    done: int  # code cells that have run
    cells: int


@dataclass
class Evidence:
    """The index's figure and table, from the synthesis or from what comes next."""

    figure: Markup
    caption: Markup
    table: Markup
    about: str  # what the table shows
    missing: str  # what is not there, and its cure; or nothing


def build(folder: Path) -> Path:
    """Write `site/` into a study's folder of outputs; returns its index.

    The pages are written beside the old site and take its place together: whoever
    stops a build keeps the old one. The same outputs give the same bytes.

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
    chapters = [chapter_page.chapter(path, names) for path in done]
    partial = [_unfinished(path) for path in found if path not in done]
    results = _read(folder / "results.csv", RESULTS)
    provenance = _provenance(folder / "provenance.json")
    common: dict[str, Any] = {
        "study": study,
        "chapters": chapters,
        "partial": {one.name: one for one in partial},
        "style": Markup((ASSETS / "site.css").read_text(encoding="utf-8")),
    }
    page = TEMPLATES.get_template("site_chapter.html")
    files = {
        f"{chapter.name}.html": page.render(
            common,
            here=chapter.name,
            chapter=chapter,
            before=before,
            after=after,
            origin=provenance.get(chapter.name, {}),
        )
        for before, chapter, after in zip(
            [None, *chapters], chapters, [*chapters[1:], None], strict=False
        )
    }
    given = next((f for n, f in provenance.items() if number_of(n) == SYNTHESIS), {})
    given = given.get("parameters", {})
    backbones = [
        given[key] for key in ("backbone", "second_backbone") if given.get(key)
    ]
    finished = {chapter.name: chapter for chapter in chapters}
    entries = sorted({*finished, *common["partial"]})
    files["index.html"] = TEMPLATES.get_template("site_index.html").render(
        common,
        here="",
        entries=[(name, finished.get(name)) for name in entries],
        evidence=_evidence(folder, chapters, results, backbones),
        answers=_answers(folder / "tables"),
        whole=SYNTHESIS,
        facts=_facts(results),
        provenance=provenance,
    )
    _publish(folder / "site", files)
    return folder / "site" / "index.html"


def _publish(site: Path, files: dict[str, str]) -> None:
    new, old = site.with_name(".site.new"), site.with_name(".site.old")
    _settle(site, old, new)  # what a killed build may have left
    try:
        new.mkdir()
        for name, text in files.items():
            (new / name).write_text(text, encoding="utf-8")
        if site.exists():
            site.rename(old)
        new.rename(site)
    finally:
        _settle(site, old, new)


def _settle(site: Path, old: Path, new: Path) -> None:
    if old.exists() and not site.exists():
        old.rename(site)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(new, ignore_errors=True)


def _unfinished(path: Path) -> Unfinished:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [c for c in cells if c["cell_type"] == "code" and c["source"]]
    except (ValueError, LookupError, TypeError):  # half written, as it is unfinished
        code = []
    done = sum(cell.get("execution_count") is not None for cell in code)
    return Unfinished(path.name.removesuffix(".partial.ipynb"), done, len(code))


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


def _answers(tables: Path) -> dict[str, str]:
    """The finding of each chapter, by its number."""
    paths = sorted(tables.glob("*_findings.csv"))
    if not paths:
        return {}
    found = pd.concat([_read(path, ("chapter", "answer")) for path in paths])
    numbers = found["chapter"].astype(str).map(number_of).str.zfill(2)
    return dict(zip(numbers, found["answer"].astype(str), strict=True))


def _facts(results: pd.DataFrame | None) -> dict[str, str]:
    """How much was run, in words for the head of the index."""
    if results is None or results.empty:
        return {}
    images = results.groupby("dataset")["n"].max().sum()
    return {
        "data sets": f"{results['dataset'].nunique():,}",
        "images": f"{images:,}",
        "CLIPs": f"{results['backbone'].nunique():,}",
        "methods and variants": f"{results['method'].nunique():,}",
    }


def _evidence(
    folder: Path,
    chapters: Sequence[Chapter],
    results: pd.DataFrame | None,
    backbones: Sequence[str],
) -> Evidence:
    figure = folder / "figures" / f"{SYNTHESIS}_frontier.png"
    leaderboard = _read(folder / "tables" / f"{SYNTHESIS}_leaderboard.csv", BOARD)
    missing = ""
    if leaderboard is None or not figure.is_file():
        missing = (
            f"Chapter {SYNTHESIS}, which sets all methods side by side, is missing "
            "here. Until then this page shows"
        )
        figure = folder / "figures" / "01_accuracy.png"
        shown = ["chapter 01's accuracies"] if figure.is_file() else []
        shown += ["results.csv"] if results is not None else []
        missing += f" {' and '.join(shown) or 'neither figure nor table'}."
    table, about = Markup(), ""
    if not missing:
        table, about = _gains(leaderboard, backbones)
    elif results is not None and (results["n"] > 0).any():
        table, about = _accuracies(results)
    if not figure.is_file():
        return Evidence(Markup(), Markup(), table, about, missing)
    number, _, name = figure.stem.partition("_")
    captions = [one.captions for one in chapters if number_of(one.name) == number]
    caption = captions[0].get(name, Markup()) if captions else Markup()
    alt = caption.striptags() or f"figure {figure.stem} of this study"
    try:
        kind = Image.MIME[Image.open(figure).format]
    except OSError as error:
        raise ValueError(
            f"{figure} is no picture ({error}): run its chapter again"
        ) from error
    source = f"data:{kind};base64,{base64.b64encode(figure.read_bytes()).decode()}"
    image = Markup('<img src="{}" alt="{}">').format(source, alt)
    return Evidence(image, caption, table, about, missing)


def _accuracies(results: pd.DataFrame) -> tuple[Markup, str]:
    """Accuracy of each method on each data set, of the CLIP that was run most."""
    backbone = results["backbone"].value_counts().idxmax()
    whole = results[results["n"] == results.groupby("dataset")["n"].transform("max")]
    whole = whole[whole["backbone"].eq(backbone)].sort_values("seed", kind="stable")
    wide = whole.pivot_table("top1", "method", "dataset", aggfunc="first")
    text = wide.map(lambda x: "–" if pd.isna(x) else f"{100 * x:.1f}")
    about = (
        f"Top-1 accuracy in percent with {backbone}, of every method that saw all "
        "images of a data set, from results.csv."
    )
    text = text.rename_axis(columns=None).reset_index()
    return chapter_page.table(text.to_html(index=False)), about


def _gains(board: pd.DataFrame, backbones: Sequence[str]) -> tuple[Markup, str]:
    """What the methods of the figures gain over one prompt, by what they need."""
    known = {published.key(name): name for name in board["backbone"]}
    backbones = [known.get(published.key(name), name) for name in backbones]
    rows = synthesis.shown(board.fillna({"name": ""}), backbones)
    if rows.empty:
        return Markup(), ""
    first = synthesis.in_order(rows["backbone"], backbones)[0]
    sets = list(dict.fromkeys(rows["dataset"]))
    ranks = {panel: rank for rank, panel in enumerate(synthesis.PANELS)}
    lines = []
    for (panel, name, backbone), part in rows.groupby(["panel", "name", "backbone"]):
        found = part.set_index("dataset").reindex(sets)
        line = {
            "rank": (ranks.get(panel, len(ranks)), panel, -part["gain"].mean()),
            "needs": synthesis.PANELS.get(panel, panel),
            "method": name if backbone == first else f"{name} ({backbone})",
            "exploratory": not part["headline"].all(),
            "gains": [_points(gain) for gain in found["gain"]],
            "decided": list(found["gain_verdict"].isin(compare.DECIDED)),
            "ms": _milliseconds(1000 * part["seconds_per_image"].median()),
        }
        lines.append(line)
    lines.sort(key=lambda line: line["rank"])
    template = TEMPLATES.get_template("site_gains.html")
    about = (
        "Points of top-1 accuracy gained over one prompt on the same images; bold: "
        "gains or loses by the study's protocol; °: exploratory, without a test. "
        f"With {first} unless another is named; milliseconds are the median of the "
        f"data sets. Every variant is in tables/{SYNTHESIS}_leaderboard.csv."
    )
    return Markup(template.render(sets=sets, lines=lines)), about


def _points(gain: float) -> str:
    return "–" if pd.isna(gain) else f"{100 * gain:+.1f}"


def _milliseconds(value: float) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
