"""What chapter 07 draws: gains, prices and agreement of all methods."""

import textwrap
from collections.abc import Iterable
from itertools import pairwise
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
    MARKERS,
    VERMILION,
    WIDTH,
    called,
    colour,
    gains_and_losses,
    label_cells,
    label_rows,
    logarithmic,
    number_in_cell,
    panel_grid,
    require,
    styled,
    two_lines,
    wrapped,
)
from helpers.methods import registry
from helpers.results import tree
from helpers.results.compare import DECIDED
from helpers.results.literature import panels, stands_for
from helpers.results.synthesis import LABELLED, PANELS

OTHERS = "#999999"
LEADER_LINE = {"arrowstyle": "-", "relpos": (0, 0.5), "shrinkB": 0}
LEADER_LINE |= {"color": FAINT, "lw": 0.8, "shrinkA": 2}


def _looks(rows: pd.DataFrame, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each of these methods that is in the rows, by name."""
    methods = rows.drop_duplicates("name").set_index("name")["method"]
    styles = {}
    for name, marker in zip(names, MARKERS, strict=False):
        if name in methods:
            shade = colour(registry.find(methods[name]).key)
            grey = shade[1:3] == shade[3:5] == shade[5:7]  # as the others are
            styles[name] = {"color": INK if grey else shade, "marker": marker}
    return styles


def _legend(fig: Figure, styles: dict[str, dict[str, Any]]) -> None:
    """The labelled methods and the others."""
    keys = [
        Line2D([], [], ls="", label=tree.CALLED.get(name, name), **style)
        for name, style in styles.items()
    ]
    keys.append(Line2D([], [], color=OTHERS, marker="o", ms=4, ls="", label="others"))
    fig.legend(handles=keys, loc="outside lower center", ncols=3, fontsize=9)


@styled
def frontier(rows: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """What accuracy costs: gain over one prompt against milliseconds per image.

    Data sets down, backbones across. In a panel all gains are about the same images.
    Methods of one price stand side by side, by name, so that no slope is seen.

    Args:
        rows: of `synthesis.on_equal_images`, for every panel.
    """
    require(rows, ["dataset", "backbone", "name", "labelled", "difference", "seconds"])
    sets, backbones = (list(dict.fromkeys(rows[k])) for k in ("dataset", "backbone"))
    fig, axes = plt.subplots(
        len(sets),
        len(backbones),
        squeeze=False,
        sharex="col",
        sharey="row",
        figsize=(WIDTH, 1.2 + 2.2 * len(sets)),
    )
    styles = _looks(rows, dict.fromkeys(rows.loc[rows["labelled"], "name"]))
    for (down, across), ax in np.ndenumerate(axes):
        at = rows["dataset"].eq(sets[down]) & rows["backbone"].eq(backbones[across])
        if not at.any():
            ax.axis("off")
            continue
        _frontier_panel(ax, rows[at], styles)
        if across == 0:
            ax.set_ylabel("points gained")
    for across, backbone in enumerate(backbones):
        spent = 1000 * rows.loc[rows["backbone"].eq(backbone), "seconds"]
        axes[-1, across].set(xscale="log", xlabel="milliseconds per image")
        axes[-1, across].set_xlim(spent.min() / 1.9, spent.max() * 1.6)
        logarithmic(axes[-1, across].xaxis)
    _legend(fig, styles)
    return fig, rows.reset_index(drop=True)


def _frontier_panel(
    ax: plt.Axes, rows: pd.DataFrame, styles: dict[str, dict[str, Any]]
) -> None:
    ax.axhline(0, color=INK, lw=1, zorder=1)
    ax.grid(False, axis="x")
    logs = np.log10(1000 * rows["seconds"])
    order = np.lexsort([rows["name"].str.casefold(), (logs / 0.06).round()])
    log_x = spread(logs.to_numpy()[order], 0.013, -np.inf, np.inf)
    for x, row in zip(10**log_x, rows.iloc[order].itertuples(), strict=True):
        style = styles.get(row.name, {"color": OTHERS, "marker": "o"})
        front = row.name in styles
        ends = [100 * row.ci_low, 100 * row.ci_high]
        strong = {"lw": 1.6, "zorder": 3} if front else {"lw": 0.7, "zorder": 2}
        ax.plot([x, x], ends, color=style["color"], **strong)
        size = {"ms": 7, "zorder": 4} if front else {"ms": 3, "zorder": 2}
        ax.plot(x, 100 * row.difference, ls="", **style, **size)
    first = rows.iloc[0]
    title = f"{called(first['dataset'])}, {first['backbone']}"
    about = f"one prompt {100 * first['top1']:.0f}%, {first['n']:,} images"
    ax.set_title(f"{title}\n{about}", fontsize=10)


def spread(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions near those wanted, in ascending order and at least `gap` apart.

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
    rows: pd.DataFrame, value: str, against: str, backbone: str
) -> tuple[Figure, pd.DataFrame]:
    """Points gained or lost: methods down, grouped by what they need; data sets across.

    A cell holds the difference over its 95% interval; bold: the verdict is "gains" or
    "loses". A label names the backbone if that is not `backbone`.

    Args:
        rows: of `synthesis.shown` and `synthesis.tested`.
        value: `gain`, against one prompt, or `over`, against the ensemble.
        against: the baseline's name.
    """
    ends = [f"{value}_low", f"{value}_high"]
    require(rows, ["dataset", "backbone", "name", "panel", value, *ends])
    rows = rows[rows[value].notna()]
    other = rows["backbone"].ne(backbone)
    label = rows["name"].where(~other, rows["name"] + " (" + rows["backbone"] + ")")
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
            interval = "[{:+.1f}, {:+.1f}]".format(*(100 * row[end] for end in ends))
            two_lines(
                ax, *cell, points, interval, bold=row[f"{value}_verdict"] in DECIDED
            )
        label_cells(ax, [""] * len(sets), names)
        ax.set_title(f"needs {PANELS[panel]}" if panel != "prompts" else PANELS[panel])
    heads = [wrapped(name, 11) for name in sets]
    axes[-1, 0].set_xticks(range(len(sets)), heads)
    axes[-1, 0].set_xlabel(f"points against {against}; bold: gains or loses")
    return fig, rows.drop(columns="label").reset_index(drop=True)


@styled
def temperatures(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Calibration error before and after a temperature, a panel per data set.

    A line per method; the labelled ones have their 95% intervals.

    Args:
        table: rows of `synthesis.tempered` with one backbone.
    """
    require(table, ["dataset", "name", "method", "n", "ece", "ece_t", "ece_low_t"])
    parts = list(table.groupby("dataset", sort=False))
    fig, axes = panel_grid(len(parts), (WIDTH, 0.0), (0.8, 2.5), sharey=True)
    styles = _looks(table, LABELLED)
    for ax, (dataset, part) in zip(axes.flat, parts, strict=False):
        for row in part.to_dict("records"):
            errors = 100 * row["ece"], 100 * row["ece_t"]
            if row["name"] not in styles:
                ax.plot([0, 1], errors, color=OTHERS, lw=0.7, alpha=0.8, zorder=1)
                continue
            style, aside = styles[row["name"]], 0.03 * list(styles).index(row["name"])
            for x, t in ((-aside, ""), (1 + aside, "_t")):
                ends = 100 * row[f"ece_low{t}"], 100 * row[f"ece_high{t}"]
                ax.plot([x, x], ends, color=style["color"], lw=1.4, zorder=2)
            ax.plot([-aside, 1 + aside], errors, lw=1.6, ms=6, zorder=3, **style)
        ax.set_title(f"{called(dataset)}\n{part['n'].iloc[0]:,} images", fontsize=10)
        ax.set_xticks([0, 1], ["before", "after"])
        ax.set_xlim(-0.3, 1.3)
        ax.grid(False, axis="x")
    axes[0, 0].set_ylim(bottom=0)  # of all, since they share it
    for ax in axes[:, 0]:
        ax.set_ylabel("calibration error (%)")
    _legend(fig, styles)
    return fig, table.reset_index(drop=True)


@styled
def who_agrees(shares: pd.DataFrame, printed: int = 5) -> tuple[Figure, pd.DataFrame]:
    """Heat map of agreement of predictions, methods that agree side by side.

    Only the greatest and the smallest shares are printed.

    Args:
        shares: of `synthesis.clustered`.
        printed: how many of either.
    """
    names, n = list(shares), len(shares)
    cells = shares.to_numpy(float)
    cells = np.where(np.tri(n, k=-1, dtype=bool), cells, np.nan)[1:, :-1]
    side = max(0.22 * n, 2.5)
    fig, ax = plt.subplots(figsize=(2.0 + side, 1.7 + 0.9 * side))
    palette = sns.light_palette(BLUE, as_cmap=True)
    picture = ax.imshow(100 * cells, cmap=palette, aspect="auto")
    known = np.argwhere(~np.isnan(cells))
    known = known[np.argsort(cells[tuple(known.T)], kind="stable")]
    for y, x in (
        known if len(known) <= 2 * printed else [*known[:printed], *known[-printed:]]
    ):
        share = cells[y, x]
        dark = share > np.nanmean([np.nanmin(cells), np.nanmax(cells)])
        number_in_cell(ax, x, y, f"{100 * share:.0f}", 8, dark)
    label_cells(ax, names[:-1], names[1:], rotation=90)
    fig.colorbar(picture, ax=ax, label="same prediction (% of images)", shrink=0.6)
    return fig, shares.rename_axis("method").reset_index()


@styled
def rescued_and_broken(rows: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Images that a method gets right and one prompt wrong, the reverse, and the net.

    Bars: rescued to the right, broken to the left; dots: their difference, the gain,
    with its 95% interval, filled where the verdict is "gains" or "loses".

    Args:
        rows: of a leader board, about one data set and backbone.
    """
    require(rows, ["name", "n", "wins", "losses", "gain", "gain_low", "gain_high"])
    rows = rows.sort_values("gain", ascending=False, kind="stable")
    fig, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.27 * len(rows)))
    y = np.arange(len(rows))
    rescued, broken = (100 * rows[k] / rows["n"] for k in ("wins", "losses"))
    style = {"height": 0.72, "alpha": 0.45}
    ax.barh(y, rescued, color=BLUE, label="rescued", **style)
    ax.barh(y, -broken, color=VERMILION, label="broken", **style)
    ax.axvline(0, color=INK, lw=1)
    for y, row in enumerate(rows.itertuples()):
        ends = [100 * row.gain_low, 100 * row.gain_high]
        ax.plot(ends, [y, y], color=INK, lw=1.4)
        face = INK if row.gain_verdict in DECIDED else "white"
        ax.plot(100 * row.gain, y, "o", ms=5, mec=INK, mfc=face)
    label_rows(ax, list(rows["name"]))
    ax.set_xlabel("share of images (%)")
    handles, names = ax.get_legend_handles_labels()
    handles.append(Line2D([], [], color=INK, marker="o", ms=5, label="gain"))
    fig.legend(handles, [*names, "gain"], loc="outside lower center", ncols=3)
    return fig, rows.reset_index(drop=True)


@styled
def rank_map(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Rank correlation of methods between data sets, over its 95% interval.

    Args:
        table: of `synthesis.transfer`.
    """
    require(table, ["dataset", "other", "tau", "low", "high"])
    columns, lines = (list(dict.fromkeys(table[k])) for k in ("other", "dataset"))
    across = {name: i for i, name in enumerate(columns)}
    down = {name: i for i, name in enumerate(lines)}
    cells = np.full((len(lines), len(columns)), np.nan)
    cells[table["dataset"].map(down), table["other"].map(across)] = table["tau"]
    size = max(3.0, 1.6 + 0.95 * len(columns)), max(1.6, 0.8 + 0.6 * len(lines))
    fig, ax = plt.subplots(figsize=size)
    gains_and_losses(ax, cells, 1.4)
    for row in table.dropna(subset="tau").itertuples():
        texts = f"{row.tau:+.2f}", f"[{row.low:+.1f}, {row.high:+.1f}]"
        two_lines(ax, across[row.other], down[row.dataset], *texts, bold=False)
    label_cells(ax, *([wrapped(name, 11) for name in s] for s in (columns, lines)))
    ax.set_xlabel("Kendall's tau of gains")
    return fig, table.reset_index(drop=True)


@styled
def trainings(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Gains with one training of a CLIP across, with another training up.

    A mark per method and data set, a panel per pair of trainings. Blue: both tests find
    the same; vermilion: they find opposites; hollow: one finds nothing, or both.
    The three marks farthest from the diagonal have a name.

    Args:
        table: of `protocol.trainings`.
    """
    require(table, ["backbone", "other", "gain", "gain_other", "gain_verdict"])
    pairs = table.groupby(["backbone", "other"], sort=False)
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    size = 0.9 * WIDTH * columns, 0.8 + 4 * rows
    fig, axes = plt.subplots(rows, columns, squeeze=False, figsize=size)
    for ax in axes.flat[len(pairs) :]:
        ax.remove()
    for ax, ((one, other), part) in zip(axes.flat, pairs, strict=False):
        _gain_against_gain(ax)
        for row in part.to_dict("records"):
            x, y = 100 * row["gain"], 100 * row["gain_other"]
            verdicts = {row["gain_verdict"], row["gain_verdict_other"]}
            decided = verdicts <= set(DECIDED)
            shade = (BLUE if len(verdicts) == 1 else VERMILION) if decided else OTHERS
            style = {"color": shade, "lw": 0.7, "alpha": 0.4, "zorder": 2}
            ax.plot([100 * row["gain_low"], 100 * row["gain_high"]], [y, y], **style)
            ends = row["gain_low_other"], row["gain_high_other"]
            ax.plot([x, x], [100 * end for end in ends], **style)
            marker = "X" if decided and len(verdicts) == 2 else "o"
            face = shade if decided else "white"
            ax.plot(x, y, marker=marker, ms=5, mfc=face, mec=shade, zorder=3)
        apart = (part["gain"] - part["gain_other"]).abs()
        far = part.loc[apart.nlargest(3).index].sort_values("gain_other")
        labels = far["name"].replace(tree.CALLED) + ", " + far["dataset"].map(called)
        _names_beside(ax, labels, 100 * far["gain"], 100 * far["gain_other"], 0.08)
        ax.set(xlabel=f"points gained with {one}", ylabel=f"points with {other}")
    styles = {"both find the same": (BLUE, BLUE, "o")}
    styles |= {"they find opposites": (VERMILION, VERMILION, "X")}
    styles |= {"one finds nothing, or both": (OTHERS, "white", "o")}
    keys = _mark_handles(styles)
    fig.legend(handles=keys, loc="outside lower center", ncols=3, fontsize=9)
    return fig, table.reset_index(drop=True)


@styled
def decision_tree(leaves: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Questions on the left, then the method of each leaf, its gain, its price.

    Filled: the verdict is "gains".

    Args:
        leaves: of `tree.leaves`.
    """
    require(leaves, ["asks", "use", "expect", "expect_low", "expect_high", "verdict"])
    n = len(leaves)
    fig, (words, ax, numbers) = plt.subplots(
        1,
        3,
        sharey=True,
        figsize=(1.3 * WIDTH, 1.0 + 0.75 * n),
        width_ratios=[4.6, 2.0, 3.0],
    )
    words.set(xlim=(0, 1), ylim=(n - 0.4, -0.8))
    for part in (words, numbers):
        part.axis("off")
    _questions(words, leaves)
    columns = {"broken": 0.16, "ECE": 0.4, "ms": 0.58, "keeps": 1.0}
    for y, leaf in enumerate(leaves.to_dict("records")):
        if leaf["use"] == tree.KEEP:
            style = {"textcoords": "offset points", "va": "center", "fontsize": 9}
            ax.annotate("no gain found", (0, y), xytext=(6, 0), **style)
        else:
            ends = [100 * leaf["expect_low"], 100 * leaf["expect_high"]]
            face = BLUE if leaf["verdict"] == DECIDED[0] else "white"
            ax.plot(ends, [y, y], color=BLUE, lw=2)
            ax.plot(100 * leaf["expect"], y, "o", ms=8, mec=BLUE, mfc=face)
            points = f"{100 * leaf['expect']:+.1f}"
            near = leaf["expect_low"] < 0.2 * leaves["expect_high"].max()  # the axis
            look = {"ha": "left" if near else "center", "va": "bottom"}
            ax.text(100 * leaf["expect"], y - 0.15, points, **look)
        error = tree.share(leaf["ece"])
        note = tree.calibrated(leaf).removeprefix(error).strip()
        numbers.text(columns["ECE"], y + 0.3, note, ha="right", va="center", fontsize=8)
        spent = tree.milliseconds(leaf["seconds_per_image"])
        texts = [tree.share(leaf["broken"]), error, spent, leaf["keeps"]]
        for x, text in zip(columns.values(), texts, strict=True):
            numbers.text(x, y, text or "–", ha="right", va="center", fontsize=10)
    for head, x in columns.items():
        numbers.text(x, -0.6, head, ha="right", va="center", fontweight="bold")
    over = " or ".join(dict.fromkeys(filter(None, leaves["over"])))
    ax.axvline(0, color=INK, lw=1)
    ax.set_xlabel(f"points gained over\n{over}" if over else "points gained")
    ax.tick_params(left=False, labelleft=False)
    ax.grid(False, axis="y")
    ax.spines["left"].set_visible(False)
    return fig, leaves.reset_index(drop=True)


def _questions(ax: plt.Axes, leaves: pd.DataFrame) -> None:
    """The questions about images, a branch to each leaf, and what the leaf advises."""
    box = {"boxstyle": "round,pad=0.35", "fc": "#f0f4f8", "ec": FAINT}
    middles = []
    for asks, part in leaves.reset_index(drop=True).groupby("asks", sort=False):
        middle = part.index.to_numpy().mean()
        middles.append(middle)
        for y, leaf in zip(part.index, part.to_dict("records"), strict=True):
            ax.plot([0.42, 0.5, 0.53], [middle, y, y], color=FAINT, lw=1.5, zorder=0)
            without = " or ".join(leaf["without"].rsplit(", ", 1))
            without = f"even with {without}" if without else ""
            question = tree.asked(leaf) or "Otherwise" * (len(part) > 1)
            lines = [
                (question, 0.24, {"fontsize": 9}),
                (leaf["use"], 0.27, {"fontweight": "bold"}),
                *((x, 0.18, {"fontsize": 8}) for x in textwrap.wrap(without, 37)),
            ]
            lines = [line for line in lines if line[0]]
            top = y - sum(height for _, height, _ in lines) / 2
            for text, height, style in lines:
                ax.text(0.55, top + height / 2, text, va="center", **style)
                top += height
        sets = called(part["datasets"].iloc[0])
        text = textwrap.fill(asks, 24) + "\n" + textwrap.fill(f"({sets})", 28)
        ax.text(0.21, middle, text, ha="center", va="center", fontsize=9, bbox=box)
    for above, below in pairwise(middles):
        ax.plot([0.21, 0.21], [above, below], color=FAINT, lw=1.5, zorder=0)


@styled
def literature(table: pd.DataFrame, ranks: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Published gains across, ours up, a panel per data set.

    Blue: our corrected test finds a gain of the papers' sign; vermilion: of the other
    one; hollow: it finds none, and no label. On the diagonal both gains are the same.
    Labels have our gain and, in brackets, the papers'.

    Args:
        table: of `literature.cells`.
        ranks: of `literature.ranks`.
    """
    require(table, ["dataset", "name", "published", "gain", "low", "high", "outcome"])
    parts = panels(table)
    parts = [part for part in parts if len(part[1]) > 1] or parts
    fig, axes = plt.subplots(
        len(parts), squeeze=False, figsize=(1.1 * WIDTH, 1.2 + 2.5 * len(parts))
    )
    taus = ranks.set_index(["dataset", "backbones"])
    for ax, ((dataset, backbone), part) in zip(axes[:, 0], parts, strict=True):
        _literature_panel(ax, part)
        title = f"{called(dataset)} for {stands_for(dataset)}"
        if backbone:
            title = f"{called(dataset)} with {backbone}"
        tau, low, high = taus.loc[(dataset, backbone), ["tau", "low", "high"]]
        if not np.isnan(tau):
            title += f"\nKendall's tau {tau:+.2f} [{low:+.2f}, {high:+.2f}]"
        ax.set_title(title)
    axes[-1, 0].set_xlabel("points gained in papers, with the range of their numbers")
    fig.supylabel("points gained here, with 95% interval", fontsize=11)
    styles = {"sign of the papers": (BLUE, BLUE, "o")}
    styles |= {"opposite sign": (VERMILION, VERMILION, "X")}
    styles |= {"no detectable difference": (UNDECIDED, "white", "o")}
    keys = _mark_handles(styles)
    keys.append(Line2D([], [], color=FAINT, lw=4, label="as in papers"))
    fig.legend(handles=keys, loc="outside lower center", ncols=4, fontsize=9)
    return fig, pd.concat([part for _, part in parts], ignore_index=True)


UNDECIDED = "#888888"


def _literature_panel(ax: plt.Axes, part: pd.DataFrame) -> None:
    part = part.sort_values("gain").reset_index(drop=True)
    theirs, ours = ["published_low", "published_high"], ["low", "high"]
    for axis, ends in (("x", theirs), ("y", ours)):
        low, high = 100 * min(0, part[ends[0]].min()), 100 * max(0, part[ends[1]].max())
        room = 0.06 * max(high - low, 1)
        ax.set(**{f"{axis}lim": (low - room, high + room)})
    _gain_against_gain(ax)
    for row in part.to_dict("records"):
        x, y = 100 * row["published"], 100 * row["gain"]
        same, decided = (x > 0) == (y > 0), row["outcome"] in DECIDED
        shade = (BLUE if same else VERMILION) if decided else UNDECIDED
        style = {"color": shade, "lw": 1.1, "alpha": 0.7, "zorder": 2}
        ax.plot([100 * row[k] for k in theirs], [y, y], **style)
        ax.plot([x, x], [100 * row[k] for k in ours], **style)
        marker = "o" if same or not decided else "X"
        style = {"mfc": shade if decided else "white", "mec": shade, "mew": 1.5}
        ax.plot(x, y, marker=marker, ms=7, zorder=3, **style)
    part = part[part["outcome"].isin(DECIDED)]
    x, y = 100 * part["published"], 100 * part["gain"]
    labels = [
        f"{name} {ours:+.1f} ({theirs:+.1f})"
        for name, ours, theirs in zip(part["name"], y, x, strict=True)
    ]
    _names_beside(ax, labels, x, y, 0.1)


def _gain_against_gain(ax: plt.Axes) -> None:
    """Where either gain is zero, and where both are the same."""
    ax.axhline(0, color=INK, lw=1, zorder=1)
    ax.axvline(0, color=INK, lw=1, zorder=1)
    ax.axline((0, 0), slope=1, color=FAINT, lw=4, alpha=0.6, zorder=0)


def _names_beside(
    ax: plt.Axes, texts: Iterable[str], x: pd.Series, y: pd.Series, gap: float
) -> None:
    """Texts to the right of the axes, each with a line to its mark; y ascends."""
    bottom, top = ax.get_ylim()
    heights = spread((y.to_numpy() - bottom) / (top - bottom), gap, 0.03, 0.97)
    for text, mark, height in zip(texts, zip(x, y, strict=True), heights, strict=True):
        ax.annotate(
            text,
            mark,
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=10,
            arrowprops=LEADER_LINE,
        )


def _mark_handles(styles: dict[str, tuple[str, str, str]]) -> list[Line2D]:
    """Handles of a legend from name -> (edge colour, face colour, marker)."""
    return [
        Line2D([], [], color=edge, mfc=face, marker=marker, ls="", label=name)
        for name, (edge, face, marker) in styles.items()
    ]
