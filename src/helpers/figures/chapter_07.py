"""What chapter 07 draws: gains, prices and agreement of all methods."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

from helpers.figures.style import (
    BLUE,
    FAINT,
    INK,
    VERMILION,
    WIDTH,
    gains_and_losses,
    label_cells,
    logarithmic,
    require,
    styled,
    two_lines,
)
from helpers.methods import registry
from helpers.results.compare import DECIDED
from helpers.results.literature import panels, stands_for
from helpers.results.synthesis import ALONE, PANELS, priced

SHAPES = {need.panel: need.marker for need in registry.NEEDS.values()}
"""What a method needs is the shape of its marker."""
LETTERS = "oDs^vP<>Xp*dH8"
EXPLORATORY = "°"
LEADER = {"arrowstyle": "-", "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 0}


def family_colours() -> dict[str, str]:
    """The colour of each family, which a member has in the other chapters."""
    colours = registry.colours()
    families = registry.FAMILIES.items()
    return {name: colours.get(f.colour_of, VERMILION) for name, f in families}


@styled
def frontier(
    rows: pd.DataFrame, plain: pd.DataFrame, datasets: Sequence[str]
) -> tuple[Figure, pd.DataFrame]:
    """What accuracy costs: gain over one prompt against seconds per image.

    A panel per data set. Filled and bold: the verdict is "gains" or "loses"; a raised
    circle: exploratory. The line joins what no method beats that needs the image alone.

    Args:
        rows: of `synthesis.shown`.
        plain: the single prompt's rows of the leaderboard: dataset, backbone,
            top1, seconds_per_image. The first of a data set tells its main backbone,
            methods on another one get a raised 2.
        datasets: which panels to draw.
    """
    require(rows, ["dataset", "name", "gain", "gain_low", "seconds_per_image"])
    require(plain, ["dataset", "backbone", "top1", "seconds_per_image"])
    tables = [priced(rows, plain, name) for name in datasets]
    lines = [max(6, len(table)) for table in tables]
    fig, axes = plt.subplots(
        len(tables),
        squeeze=False,
        sharex=True,
        figsize=(7.6, 1.6 + sum(0.165 * n + 0.35 for n in lines)),
        height_ratios=lines,
    )
    spent = 1000 * pd.concat(tables)["seconds"]
    axes[0, 0].set(xscale="log", xlim=(spent.min() / 1.3, spent.max() * 1.3))
    for ax, name, table in zip(axes[:, 0], datasets, tables, strict=True):
        _frontier_panel(ax, table)
        right = f"one prompt is right on {100 * table['top1'].iloc[0]:.0f} %"
        ax.set_title(f"{name}: {right}")
    axes[-1, 0].set_xlabel("milliseconds per image")
    logarithmic(axes[-1, 0].xaxis)
    fig.supylabel("points of accuracy gained over one prompt", fontsize=11)
    title = "What adapting CLIP at test time buys, and what it costs"
    fig.suptitle(title, x=0.02, ha="left", fontsize=13, fontweight="bold")
    data = pd.concat(tables, ignore_index=True)
    shown = data[data["name"].ne("")]
    keys = [
        Line2D([], [], color=shade, marker="o", ls="", label=family)
        for family, shade in family_colours().items()
        if family in set(shown["family"])
    ]
    panels = [p for p in PANELS if p in set(shown["panel"]) - set(ALONE)]
    keys += [
        Line2D([], [], color=FAINT, marker=SHAPES[p], ls="", label=f"needs {PANELS[p]}")
        for p in panels
        if p != "own"
    ]
    keys.append(Line2D([], [], color=FAINT, lw=2, label="best from the image alone"))
    fig.legend(handles=keys, loc="outside lower center", ncols=3, fontsize=9)
    return fig, data


def _frontier_panel(ax: plt.Axes, table: pd.DataFrame) -> None:
    ax.axhline(0, color=INK, lw=1)
    edge = table[table["frontier"]].sort_values("seconds")
    x, y = 1000 * edge["seconds"], 100 * edge["gain"]
    end = ax.get_xlim()[1]
    x, y = [*x, end], [*y, y.iloc[-1]]
    ax.step(x, y, where="post", color=FAINT, lw=5, alpha=0.6, zorder=1)
    start, methods = table.iloc[0], table.iloc[1:].sort_values("gain")
    ax.plot(1000 * start["seconds"], 0, "o", color=INK, ms=7, zorder=4)
    low, high = methods["gain_low"].min(), methods["gain_high"].max()
    low, high = 100 * min(0.0, low), 100 * max(0.0, high)
    room = 0.06 * max(high - low, 1.0)
    ax.set_ylim(low - room, high + room)
    ax.grid(False, axis="x")
    levels = np.linspace(0.02, 0.98, max(len(methods), 2))
    wanted = (100 * methods["gain"].to_numpy() - low + room) / (high - low + 2 * room)
    shades = family_colours()
    gap = 0.96 / max(len(methods) - 1, 1)
    heights = spread(wanted, gap, levels[0], levels[-1])
    for row, height in zip(methods.itertuples(), heights, strict=True):
        shade = shades[row.family]
        x, y = 1000 * row.seconds, 100 * row.gain
        decided = row.gain_verdict in DECIDED
        ends = [100 * row.gain_low, 100 * row.gain_high]
        ax.plot([x, x], ends, color=shade, lw=1.3, alpha=0.8, zorder=2)
        look = {"mfc": shade if decided else "white", "mec": shade, "mew": 1.5}
        ax.plot(x, y, marker=SHAPES[row.panel], ms=7, zorder=3, **look)
        ax.plot([x, end], [y, y], color=shade, lw=0.6, alpha=0.55, zorder=1)
        other = "²" if row.backbone != start["backbone"] else ""
        other += "" if row.headline else EXPLORATORY
        text, beside = f"{row.name}{other} {y:+.1f}", ax.get_yaxis_transform()
        _label(ax, text, (1, y), height, shade, decided, xycoords=beside)


def _label(
    ax: plt.Axes,
    text: str,
    at: tuple[float, float],
    height: float,
    shade: str,
    decided: bool,
    **where: Any,
) -> None:
    """Text right of the axes at a height from 0 to 1, with a line to what it names."""
    ax.annotate(
        text,
        at,
        xytext=(1.05, height),
        textcoords="axes fraction",
        va="center",
        fontsize=9,
        color=INK,
        fontweight="bold" if decided else "normal",
        arrowprops=LEADER | {"color": shade, "lw": 0.6, "alpha": 0.55},
        **where,
    )


def spread(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Heights near those wanted, in their ascending order, at least `gap` apart.

    The smallest sum of squared moves between `low` and `high` (isotonic regression);
    `gap` is at most what leaves room for all.
    """
    n = len(wanted)
    if n < 2:
        return np.clip(wanted, low, high)
    gap = min(gap, (high - low) / (n - 1))
    steps = gap * np.arange(n)
    free = isotonic_regression(np.asarray(wanted, float) - steps).x
    return np.clip(free, low, high - steps[-1]) + steps


@styled
def gains(
    rows: pd.DataFrame, value: str, against: str, backbones: Sequence[str]
) -> tuple[Figure, pd.DataFrame]:
    """Points gained or lost: methods down, grouped by what they need; data sets across.

    A cell holds the difference over its 95 % interval; bold: the verdict is "gains" or
    "loses"; a raised circle: exploratory; a raised 2: not the first of `backbones`.

    Args:
        rows: of `synthesis.shown`.
        value: `gain`, against one prompt, or `over`, against the ensemble.
        against: the baseline's name.
    """
    ends = [f"{value}_low", f"{value}_high"]
    require(rows, ["dataset", "backbone", "name", "headline", "panel", value, *ends])
    rows = rows[rows[value].notna()]
    label = rows["name"].where(rows["headline"], rows["name"] + EXPLORATORY)
    rows = rows.assign(label=label)
    sets = {name: i for i, name in enumerate(dict.fromkeys(rows["dataset"]))}
    groups = [(p, rows[rows["panel"] == p]) for p in PANELS if p in set(rows["panel"])]
    counts = [part["label"].nunique() for _, part in groups]
    margin = 0.5 + 0.085 * label.str.len().max()
    fig, axes = plt.subplots(
        len(groups),
        squeeze=False,
        figsize=(
            margin + max(2.6, 0.95 * len(sets)),
            1.0 + 0.4 * len(groups) + 0.42 * sum(counts),
        ),
        height_ratios=counts,
    )
    edge = max(1.0, 100 * rows[value].abs().max())
    for ax, (panel, part) in zip(axes[:, 0], groups, strict=True):
        names = {name: i for i, name in enumerate(dict.fromkeys(part["label"]))}
        cells = np.full((len(names), len(sets)), np.nan)
        cells[part["label"].map(names), part["dataset"].map(sets)] = 100 * part[value]
        gains_and_losses(ax, cells, 1.5 * edge)
        for _, row in part.iterrows():
            cell = sets[row["dataset"]], names[row["label"]]
            points = f"{100 * row[value]:+.1f}"
            points += "²" if row["backbone"] != backbones[0] else ""
            interval = "[{:.1f}, {:.1f}]".format(*(100 * row[end] for end in ends))
            two_lines(
                ax, *cell, points, interval, bold=row[f"{value}_verdict"] in DECIDED
            )
        label_cells(ax, [""] * len(sets), names)
        ax.set_title(f"needs {PANELS[panel]}" if panel != "prompts" else PANELS[panel])
    axes[-1, 0].set_xticks(range(len(sets)), sets)
    marks = f"bold: gains or loses; {EXPLORATORY}: exploratory"
    if len(backbones) > 1 and rows["backbone"].isin(backbones[1:]).any():
        marks += f"; ²: {backbones[1]}, else {backbones[0]}"
    axes[-1, 0].set_xlabel(f"points against {against}\n{marks}")
    return fig, rows.drop(columns="label").reset_index(drop=True)


@styled
def temperatures(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Accuracy against calibration before (hollow) and after (filled) a temperature.

    Args:
        table: rows of `synthesis.tempered` of one data set.
    """
    require(table, ["name", "family", "panel", "top1", "ece", "ece_t", "nll", "nll_t"])
    fig, axes = plt.subplots(1, 2, figsize=(1.3 * WIDTH, 4.3))
    labels = {"ece": "expected calibration error (%)", "nll": "NLL (nats)"}
    shades = family_colours()
    for ax, (what, label) in zip(axes, labels.items(), strict=True):
        factor = 100 if what == "ece" else 1
        for i, row in enumerate(table.itertuples()):
            shade, x = shades[row.family], 100 * row.top1
            before, after = (factor * getattr(row, k) for k in (what, f"{what}_t"))
            ax.plot([x, x], [before, after], color=shade, lw=1, alpha=0.6)
            look = {"marker": LETTERS[i % len(LETTERS)], "ms": 8, "mec": shade}
            ax.plot(x, before, mfc="white", ls="", **look)
            ax.plot(x, after, mfc=shade, ls="", label=row.name, **look)
        ax.set(xlabel="top-1 accuracy (%)", ylabel=label)
        if what == "nll" and table["nll"].max() > 5 * table["nll"].median():
            ax.set_yscale("log")
            logarithmic(ax.yaxis)
        else:
            ax.set_ylim(bottom=0)
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=4, fontsize=9)
    return fig, table.reset_index(drop=True)


@styled
def who_agrees(
    shares: pd.DataFrame, changed: pd.DataFrame
) -> tuple[Figure, pd.DataFrame]:
    """Heat map of agreement of predictions, beside it images rescued and broken.

    Args:
        shares: of `synthesis.agreement`.
        changed: `wins`, the share of images that a method gets right where one prompt
            does not, and `losses`, the reverse; the index has the names of `shares`.
    """
    names, n = list(shares), len(shares)
    size = 2.0 + 0.46 * n + 2.2, 1.5 + 0.36 * n
    fig, (ax, bars) = plt.subplots(1, 2, figsize=size, width_ratios=[n, 4.4])
    low = np.nanmin(shares.to_numpy())
    palette = sns.light_palette(BLUE, as_cmap=True)
    ax.imshow(shares, cmap=palette, vmin=2 * low - 1, vmax=1.25, aspect="auto")
    for y in range(n):
        for x in range(n):
            share = shares.iloc[y, x]
            if x != y and not np.isnan(share):
                ax.text(x, y, f"{100 * share:.0f}", ha="center", va="center", size=9)
    label_cells(ax, names, names, rotation=50, ha="right", rotation_mode="anchor")
    ax.set_title("same prediction (% of images)")
    rescued, broken = (
        100 * changed.loc[names, k].to_numpy(float) for k in ("wins", "losses")
    )
    bars.barh(range(n), rescued, color=BLUE, height=0.7)
    bars.barh(range(n), -broken, color=VERMILION, height=0.7)
    edge = max(1.0, rescued.max(), broken.max())
    for y, (won, lost) in enumerate(zip(rescued, broken, strict=True)):
        look, gap = {"va": "center", "size": 9}, 0.04 * edge
        bars.text(won + gap, y, f"{won:.1f}", **look)
        bars.text(-lost - gap, y, f"{lost:.1f}", ha="right", **look)
    bars.axvline(0, color=INK, lw=1)
    bars.set(ylim=(n - 0.5, -0.5), xlim=(-1.6 * edge, 1.6 * edge), yticks=[], xticks=[])
    bars.set_title("broken | rescued (%)", loc="center")
    bars.grid(False)
    sns.despine(ax=bars, left=True, bottom=True)
    data = shares.rename_axis("method").reset_index()
    return fig, data.assign(rescued=rescued / 100, broken=broken / 100)


@styled
def rank_map(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Rank correlation of methods between data sets.

    Args:
        table: of `synthesis.transfer`.
    """
    require(table, ["dataset", "other", "tau", "p", "methods"])
    names = list(dict.fromkeys([*table["dataset"], *table["other"]]))
    at = {name: i for i, name in enumerate(names)}
    cells = np.full((len(names), len(names)), np.nan)
    cells[table["dataset"].map(at), table["other"].map(at)] = table["tau"]
    side = 1.4 + 0.75 * len(names)
    fig, ax = plt.subplots(figsize=(side + 0.6, 0.75 * side + 0.4))
    gains_and_losses(ax, cells, 1.4)
    for row in table.dropna(subset="tau").itertuples():
        texts = f"{row.tau:+.2f}", f"of {row.methods}"
        cell = at[row.other], at[row.dataset]
        two_lines(ax, *cell, *texts, bold=False, size=11)
    label_cells(ax, names, names, rotation=35, ha="right")
    ax.set_xlabel("Kendall's tau of gains; small: methods compared")
    return fig, table.reset_index(drop=True)


@styled
def literature(table: pd.DataFrame, ranks: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Published gains across, ours up, a label per method, a panel per data set.

    Blue: our corrected test finds a gain of the papers' sign; vermilion: of the other
    one; hollow: it finds none. On the diagonal both gains are the same. Labels have our
    gain and, in brackets, the papers'.

    Args:
        table: of `literature.cells`.
        ranks: of `literature.ranks`.
    """
    require(table, ["dataset", "name", "published", "gain", "low", "high", "outcome"])
    parts = panels(table)
    parts = [part for part in parts if len(part[1]) > 1] or parts
    lines = [max(9, len(part)) for _, part in parts]
    fig, axes = plt.subplots(
        len(parts),
        squeeze=False,
        figsize=(7.6, 1.3 + sum(0.19 * n + 0.75 for n in lines)),
        height_ratios=lines,
    )
    taus = ranks.set_index(["dataset", "backbones"])
    for ax, ((dataset, backbone), part) in zip(axes[:, 0], parts, strict=True):
        _literature_panel(ax, part)
        title = f"{dataset} for {stands_for(dataset)}"
        if backbone:
            title = f"{dataset} with {backbone}"
        tau, low, high = taus.loc[(dataset, backbone), ["tau", "low", "high"]]
        if not np.isnan(tau):
            title += f": Kendall's tau {tau:+.2f} [{low:+.2f}, {high:+.2f}]"
        ax.set_title(title)
    axes[-1, 0].set_xlabel("points gained in papers, with the range of their numbers")
    fig.supylabel("points gained here, with 95 % interval", fontsize=11)
    looks = {"sign of the papers": (BLUE, BLUE, "o")}
    looks |= {"opposite sign": (VERMILION, VERMILION, "X")}
    looks |= {"no detectable difference": (UNDECIDED, "white", "o")}
    keys = [
        Line2D([], [], color=edge, mfc=face, marker=marker, ls="", label=name)
        for name, (edge, face, marker) in looks.items()
    ]
    keys.append(Line2D([], [], color=FAINT, lw=4, label="as in papers"))
    fig.legend(handles=keys, loc="outside lower center", ncols=4, fontsize=9)
    title = "Does a method gain here what it gains in papers?"
    fig.suptitle(title, x=0.02, ha="left", fontsize=13, fontweight="bold")
    return fig, pd.concat([part for _, part in parts], ignore_index=True)


UNDECIDED = "#888888"


def _literature_panel(ax: plt.Axes, part: pd.DataFrame) -> None:
    part = part.sort_values("gain").reset_index(drop=True)
    theirs, ours = ["published_low", "published_high"], ["low", "high"]
    for scale, ends in (("x", theirs), ("y", ours)):
        low, high = 100 * min(0, part[ends[0]].min()), 100 * max(0, part[ends[1]].max())
        room = 0.06 * max(high - low, 1)
        ax.set(**{f"{scale}lim": (low - room, high + room)})
    ax.axhline(0, color=INK, lw=1, zorder=1)
    ax.axvline(0, color=INK, lw=1, zorder=1)
    ax.axline((0, 0), slope=1, color=FAINT, lw=4, alpha=0.6, zorder=0)
    bottom, top = ax.get_ylim()
    wanted = (100 * part["gain"].to_numpy() - bottom) / (top - bottom)
    gap = min(0.11, 0.96 / max(len(part) - 1, 1))
    heights = spread(wanted, gap, 0.02, 0.98)
    for row, height in zip(part.to_dict("records"), heights, strict=True):
        x, y = 100 * row["published"], 100 * row["gain"]
        same, decided = (x > 0) == (y > 0), row["outcome"] in DECIDED
        shade = (BLUE if same else VERMILION) if decided else UNDECIDED
        look = {"color": shade, "lw": 1.1, "alpha": 0.7, "zorder": 2}
        ax.plot([100 * row[k] for k in theirs], [y, y], **look)
        ax.plot([x, x], [100 * row[k] for k in ours], **look)
        marker = "o" if same or not decided else "X"
        look = {"mfc": shade if decided else "white", "mec": shade, "mew": 1.5}
        ax.plot(x, y, marker=marker, ms=7, zorder=3, **look)
        text = f"{row['name']} {y:+.1f} ({x:+.1f})"
        _label(ax, text, (x, y), height, shade, decided)
