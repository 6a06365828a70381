"""The site's tables of methods: what each gains, and every row of the leader board."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from helpers.methods import registry
from helpers.paths import number_of
from helpers.results import compare, names, published, synthesis
from helpers.study.chapter_page import ASSETS

TEMPLATES = Environment(
    loader=FileSystemLoader(ASSETS),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.filters["number"] = number_of
TEMPLATES.filters["named"] = names.named
COLUMNS = ("dataset", "backbone", "panel", "method", "name", "seed", "headline", "n")
COLUMNS += ("top1", "gain", "gain_low", "gain_high", "gain_verdict")
COLUMNS += ("over", "over_low", "over_high", "ece", "seconds_per_image")
"""Of `07_leaderboard.csv`, those that are shown."""


def gains(board: pd.DataFrame, backbones: Sequence[str]) -> list[dict[str, Any]]:
    """A line for each method of the figures: its points over one prompt, by data set.

    Lines are in the order of what methods need, then of their mean gain. `places` tell
    how a method ranks among those that need the same, "1 of 12".
    """
    known = {published.key(name): name for name in board["backbone"]}
    backbones = [known.get(published.key(name), name) for name in backbones]
    rows = synthesis.shown(board.fillna({"name": ""}), backbones)
    rivals = rows.groupby(["dataset", "panel"])["gain"]
    rank = rivals.rank(method="min", ascending=False).astype(int).astype(str)
    rows["place"] = rank + " of " + rivals.transform("size").astype(str)
    sets = list(dict.fromkeys(rows["dataset"]))
    panels = list(synthesis.PANELS)
    lines = []
    for (panel, name, backbone), part in rows.groupby(["panel", "name", "backbone"]):
        found = part.set_index("dataset").reindex(sets)
        order = panels.index(panel) if panel in panels else len(panels)
        first = synthesis.in_order(rows["backbone"], backbones)[0]
        module = _module(part["method"].iloc[0])
        line = {
            "rank": (order, panel, -part["gain"].mean()),
            "needs": synthesis.PANELS.get(panel, panel),
            "main": first,  # the CLIP that `method` does not name
            "method": name if backbone == first else f"{name} ({backbone})",
            "module": module,
            "exploratory": not part["headline"].all(),
            "gains": dict(zip(sets, map(_points, found["gain"]), strict=True)),
            "decided": found["gain_verdict"].isin(compare.DECIDED).to_dict(),
            "places": found["place"].fillna("").to_dict(),
            "ms": _milliseconds(part["seconds_per_image"].median()),
        }
        lines.append(line)
    return sorted(lines, key=lambda line: line["rank"])


def table(lines: Sequence[dict[str, Any]], places: bool = False) -> Markup:
    """Lines of `gains` as a table, with each method's place or without."""
    page = TEMPLATES.get_template("site_gains.html")
    return Markup(page.render(lines=lines, places=places))


def everything(board: pd.DataFrame) -> list[dict[str, Any]]:
    """Every row of the leader board, as it is to be read."""
    rows = []
    for row in board.itertuples():
        seed = f", seed {row.seed}" if row.seed else ""
        verdict = "" if pd.isna(row.gain_verdict) else row.gain_verdict
        line = {
            "method": _title(row) + seed,
            "dataset": row.dataset,
            "backbone": row.backbone,
            "module": _module(row.method),
            "needs": synthesis.PANELS.get(row.panel, row.panel),
            "images": f"{row.n:,}",
            "accuracy": f"{100 * row.top1:.1f}",
            "gain": _interval(row.gain, row.gain_low, row.gain_high),
            "verdict": verdict.partition(" (")[0],
            "over": _interval(row.over, row.over_low, row.over_high),
            "ece": f"{100 * row.ece:.1f}",
            "ms": _milliseconds(row.seconds_per_image),
        }
        rows.append(line)
    return rows


def _title(row: Any) -> str:
    return registry.title(row.method) if pd.isna(row.name) else row.name


def _module(method: str) -> str:
    """The name of the module that has a method, "" for one that is not registered."""
    return registry.find(method).module.rpartition(".")[2]


def _interval(gain: float, low: float, high: float) -> str:
    return "–" if pd.isna(gain) else compare.points(gain, low, high)


def _points(gain: float) -> str:
    return "–" if pd.isna(gain) else f"{100 * gain:+.1f}"


def _milliseconds(seconds: float) -> str:
    value = 1000 * seconds
    if pd.isna(value):
        return "–"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
