"""Figures that several chapters draw."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import ImageOps

from helpers.figures.style import (
    ACCURACY,
    FAINT,
    INK,
    MARKERS,
    VERMILION,
    WIDTH,
    as_picture,
    beside,
    called,
    colour_key,
    gains_and_losses,
    label_cells,
    label_rows,
    level_colours,
    logarithmic,
    panel_grid,
    require,
    styled,
    two_lines,
    wrapped,
)
from helpers.methods import registry
from helpers.results import metrics
from helpers.results.compare import DECIDED


@styled
def image_grid(
    images: Sequence[Any], titles: Sequence[str], columns: int = 6
) -> tuple[Figure, pd.DataFrame]:
    """Pictures in rows, uncropped, a line or two of text above each.

    Args:
        images: pictures (PIL or uint8 [H, W, 3]).
        titles: one per picture, "" for none.
        columns: pictures in a row.
    """
    if len(images) == 0 or len(images) != len(titles):
        raise ValueError(
            "as many titles as images, and at least one, "
            f"not {len(titles)} titles for {len(images)} images"
        )
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    side = min(1.35, 8.1 / columns)
    wrapped = [textwrap.fill(title, int(13.5 * side)) for title in titles]
    lines = max(text.count("\n") + 1 for text in wrapped)
    title, gap = 0.1 + 0.15 * lines, 0.05  # inches, above and between pictures
    width, height = columns * side, rows * (side - gap + title)
    fig, axes = plt.subplots(
        rows,
        columns,
        squeeze=False,
        figsize=(width, height),
        layout="none",  # every size is known; to solve for it takes seconds
        gridspec_kw={
            "left": gap / 2 / width,
            "right": 1 - gap / 2 / width,
            "bottom": 0,
            "top": 1 - title / height,
            "wspace": gap / (side - gap),
            "hspace": title / (side - gap),
        },
    )
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, text in zip(axes.flat, images, wrapped, strict=False):
        ax.imshow(ImageOps.pad(as_picture(image), (256, 256), color="white"))
        ax.set_title(text, fontsize=9, loc="center")
    position = np.arange(len(images))
    data = {"row": position // columns, "column": position % columns}
    return fig, pd.DataFrame(data | {"title": list(titles)})


@styled
def accuracy_by_dataset(
    frame: pd.DataFrame, hue: str = "method"
) -> tuple[Figure, pd.DataFrame]:
    """Top-1 accuracy with its 95% interval, a band per data set, a colour per `hue`.

    Args:
        frame: rows of `results.csv`: dataset, `hue`, seed, top1, ci_low, ci_high, in
            the order in which to draw. Several seeds are drawn as their mean, each
            seed a small tick.
        hue: `method` or `backbone`.
    """
    require(frame, ["dataset", hue, "seed", "top1", "ci_low", "ci_high"])
    if frame.duplicated(["dataset", hue, "seed"]).any():
        raise ValueError(
            f"more than one row per dataset, {hue} and seed: select one "
            f"{'backbone' if hue == 'method' else 'method'} first"
        )
    datasets, levels = frame["dataset"].unique(), frame[hue].unique()
    colours = level_colours(hue, levels)
    step = 0.8 / len(levels)
    fig, ax = plt.subplots(
        figsize=(WIDTH, 0.9 + max(0.5, 0.2 * len(levels)) * len(datasets))
    )
    for row in range(0, len(datasets), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#f5f5f5", lw=0, zorder=0)
    for number, level in enumerate(levels):
        part = frame[frame[hue] == level]
        mean = part.groupby("dataset")[["top1", "ci_low", "ci_high"]].mean() * 100
        offset = (number - (len(levels) - 1) / 2) * step
        height = {name: row + offset for row, name in enumerate(datasets)}
        ax.errorbar(
            mean["top1"],
            mean.index.map(height),
            xerr=[mean["top1"] - mean["ci_low"], mean["ci_high"] - mean["top1"]],
            fmt=MARKERS[number % len(MARKERS)],
            color=colours[level],
            markersize=5.5,
            elinewidth=1.6,
            label=called(level),
        )
        if part["dataset"].duplicated().any():
            y = part["dataset"].map(height)
            ax.plot(part["top1"] * 100, y, "|", color=colours[level], markersize=7)
    ax.set_xlabel("top-1 accuracy (%)")
    label_rows(ax, _sized(frame, datasets))
    if len(levels) > 1:
        fig.legend(loc="outside lower center", ncols=min(3, len(levels)))
    return fig, frame.reset_index(drop=True)


def _sized(frame: pd.DataFrame, datasets: Sequence[str]) -> list[str]:
    """The data sets' names, with the number of images where the table knows it."""
    names = [wrapped(name, 24) for name in datasets]
    if "n" not in frame:
        return names
    sizes = frame.groupby("dataset")["n"].max()
    pairs = zip(names, datasets, strict=True)
    return [f"{name}\nn = {sizes[code]:,}" for name, code in pairs]


@styled
def paired_differences(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Forest plot of accuracy gained or lost against a baseline on the same images.

    A marker is filled where the verdict is "gains" or "loses"; variants have the colour
    of their method. On the right: images won, which only the method gets right, and
    lost, which only the baseline does.

    Args:
        frame: rows of `compare.corrected`, in the order in which to draw.
    """
    columns = ["dataset", "backbone", "method", "seed", "baseline", "difference"]
    require(frame, [*columns, "ci_low", "ci_high", "wins", "losses", "verdict"])
    groups = list(frame.groupby(["dataset", "backbone"], sort=False))
    sizes = [len(group) for _, group in groups]
    high = 0.18 * max(wrapped(n, 28).count("\n") + 1.4 for n in frame["method"])
    fig, axes = plt.subplots(
        len(groups),
        squeeze=False,
        sharex=True,
        figsize=(
            WIDTH,
            0.9 + 0.35 * len(groups) + high * len(frame),
        ),
        height_ratios=[size + 0.4 for size in sizes],
    )
    for ax, (names, group) in zip(axes.flat, groups, strict=True):
        ax.axvline(0, color=INK, lw=1)
        for y, row in enumerate(group.itertuples()):
            shade = registry.colours().get(colour_key(row.method), INK)
            ax.plot([100 * row.ci_low, 100 * row.ci_high], [y, y], color=shade, lw=2)
            style = {"color": shade, "markersize": 7, "markeredgewidth": 1.6}
            inside = shade if row.verdict in DECIDED else "white"
            ax.plot(100 * row.difference, y, "o", markerfacecolor=inside, **style)
            beside(ax, y, f"{row.wins} : {row.losses}")
        labels = [
            wrapped(row.method, 28) + (f", seed {row.seed}" if row.seed else "")
            for row in group.itertuples()
        ]
        label_rows(ax, labels, above=0.6)
        ax.set_title(" · ".join(map(called, filter(None, names))))
    axes[0, 0].annotate(
        "won : lost",
        (1.02, 1),
        xytext=(0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=10,
    )
    axes[-1, 0].set_xlabel(
        f"points against {called(frame['baseline'].iloc[0])}\n"
        "filled: gains or loses (exploratory)"
    )
    return fig, frame.reset_index(drop=True)


@styled
def reliability_diagram(
    bins: pd.DataFrame | Mapping[str, pd.DataFrame],
) -> tuple[Figure, pd.DataFrame]:
    """Accuracy against confidence, the gap between them, and where the images are.

    Args:
        bins: a table of `metrics.reliability_bins`, or several under their labels.
    """
    tables = {"": bins} if isinstance(bins, pd.DataFrame) else dict(bins)
    if not tables:
        raise ValueError("nothing to draw: no table of bins")
    for table in tables.values():
        columns = ["low", "high", "count", "confidence", "accuracy"]
        require(table, [*columns, "ci_low", "ci_high"])
    rows = math.ceil(len(tables) / 3)
    columns = math.ceil(len(tables) / rows)
    fig, axes = plt.subplots(
        2 * rows,
        columns,
        squeeze=False,
        sharex=True,
        sharey="row",
        figsize=(1.0 + (2.3 if columns > 1 else 3.0) * columns, 3.8 * rows + 0.3),
        height_ratios=[3, 1] * rows,
    )
    panels = axes.reshape(rows, 2, columns).transpose(0, 2, 1).reshape(-1, 2)
    for ax in panels[len(tables) :].flat:
        ax.remove()
    for (top, bottom), (label, table) in zip(panels, tables.items(), strict=False):
        _reliability_panel(top, bottom, table[table["count"] > 0])
        filled = table[table["count"] > 0]
        means = filled["confidence"], filled["accuracy"]
        bins = np.arange(len(filled))
        error = 100 * metrics.calibration_error(*means, bins, filled["count"])
        top.set_title(f"{wrapped(label, 24)}\nECE {error:.1f}%".strip())
    keys = [
        Patch(fc=ACCURACY, label="accuracy"),
        Patch(fill=False, ec=VERMILION, hatch="////", label="gap to confidence"),
    ]
    fig.legend(handles=keys, loc="outside lower center", ncols=2)
    data = pd.concat(tables, names=["label", "bin"]).reset_index()
    return fig, data


def _reliability_panel(top: plt.Axes, bottom: plt.Axes, table: pd.DataFrame) -> None:
    low, width = 100 * table["low"], 100 * (table["high"] - table["low"])
    accuracy, confidence = 100 * table["accuracy"], 100 * table["confidence"]
    plain = {"align": "edge", "ec": "white", "lw": 0.5}
    gap = {"align": "edge", "ec": VERMILION, "lw": 0.6, "hatch": "////", "fill": False}
    top.bar(low, accuracy, width, color=ACCURACY, **plain)
    top.bar(low, confidence - accuracy, width, bottom=accuracy, **gap)
    middle = low + width / 2
    top.vlines(middle, 100 * table["ci_low"], 100 * table["ci_high"], color=INK, lw=1)
    top.plot([0, 100], [0, 100], "--", color=INK, lw=1)
    top.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy (%)")
    share = 100 * table["count"] / table["count"].sum()
    bottom.bar(low, share, width, color=FAINT, **plain)
    bottom.set(ylabel="images (%)", xlabel="confidence (%)")
    for ax in (top, bottom):
        if not ax.get_subplotspec().is_first_col():
            ax.set_ylabel("")
    bottom.tick_params(labelbottom=True)


@styled
def curves(
    frame: pd.DataFrame,
    x: str,
    y: str,
    hue: str,
    *,
    xlabel: str,
    ylabel: str,
    panel: str = "",
    log: bool = False,
    across: float | None = None,
    at: float | None = None,
) -> tuple[Figure, pd.DataFrame]:
    """A line per level of `hue`, with a band where the table has ci_low and ci_high.

    Args:
        frame: a row per point; `y` and its interval are fractions, drawn in percent.
        panel: a column whose every value gets axes of its own, three in a row, or ""
            for one. It may be `hue`.
        log: logarithmic x axis; linear up to the second point if the first is 0.
        across, at: dashed lines to compare with, a value of y and a value of x.
    """
    require(frame, [x, y, hue, *filter(None, [panel])])
    panels = list(frame.groupby(panel, sort=False)) if panel else [("", frame)]
    levels = frame[hue].unique()
    colours = level_colours(hue, levels)
    fig, axes = panel_grid(len(panels), (1.0, 2.3), (1.2, 2.4), sharey=True)
    for ax, (title, part) in zip(axes.flat, panels, strict=False):
        for number, level in enumerate(levels):
            line = part[part[hue] == level].sort_values(x)
            sign = MARKERS[number % len(MARKERS)] if len(line) <= 15 else ""
            shade = colours[level]
            name = called(str(level))
            ax.plot(line[x], 100 * line[y], color=shade, marker=sign, label=name)
            if {"ci_low", "ci_high"} <= set(line):
                low, high = 100 * line["ci_low"], 100 * line["ci_high"]
                ax.fill_between(line[x], low, high, color=shade, alpha=0.13, lw=0)
        if across is not None:
            ax.axhline(100 * across, color=INK, lw=1, ls="--", zorder=1)
        if at is not None:
            ax.axvline(at, color=INK, lw=1, ls="--", zorder=1)
        named = {hue, "", "dataset", "method", "backbone"}  # no noun before a name
        name = called(str(title)) if panel in named else f"{panel} {title}"
        ax.set(title=textwrap.fill(name, 24), xlabel=xlabel)
        points = sorted(set(frame[x]))
        if log and points[0] <= 0:
            ax.set_xscale("symlog", linthresh=points[1])
            ax.set_xlim(left=points[0] - 0.2 * points[1])
        elif log:
            ax.set_xscale("log")
        if log and len(points) <= 15:
            ax.set_xticks(points, [f"{point:g}" for point in points])
            ax.minorticks_off()
        elif log:
            logarithmic(ax.xaxis)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    if len(levels) > 1 and panel != hue:
        keys, names = axes[0, 0].get_legend_handles_labels()
        fitting = 80 // (5 + max(map(len, names)))
        columns = max(1, min(4, len(names), fitting))
        fig.legend(keys, names, loc="outside lower center", ncols=columns)
    return fig, frame.reset_index(drop=True)


@styled
def difference_map(
    frame: pd.DataFrame, across: Sequence[str] = ("dataset",)
) -> tuple[Figure, pd.DataFrame]:
    """Accuracy gained or lost against a baseline: methods down, `across` across.

    A cell holds the difference in points over its 95% interval, in bold type where the
    verdict is "gains" or "loses".

    Args:
        frame: rows of `compare.corrected`, in the order in which to draw.
        across: columns that name the cell's column, a line of its label each.
    """
    columns = ["method", "baseline", "difference", "ci_low", "ci_high", "verdict"]
    require(frame, [*across, *columns])
    heads = frame[list(across)].astype(str).agg("\n".join, axis=1)
    x = {head: i for i, head in enumerate(heads.unique())}
    y = {method: i for i, method in enumerate(frame["method"].unique())}
    cells = np.full((len(y), len(x)), np.nan)
    cells[frame["method"].map(y), heads.map(x)] = 100 * frame["difference"]
    edge = max(1.0, np.nanmax(np.abs(cells)))
    lines = ["\n".join(wrapped(p, 11) for p in h.split("\n")) for h in x]
    names = [wrapped(method, 24) for method in y]
    margin = 0.3 + 0.09 * max(len(part) for name in names for part in name.split("\n"))
    height = 0.9 + 0.16 * max(text.count("\n") for text in lines) + 0.46 * len(y)
    fig, ax = plt.subplots(figsize=(margin + max(2.4, 0.92 * len(x)), height))
    gains_and_losses(ax, cells, 1.5 * edge)
    for head, row in zip(heads, frame.itertuples(), strict=True):
        points = f"{100 * row.difference:+.1f}"
        interval = f"[{100 * row.ci_low:+.1f}, {100 * row.ci_high:+.1f}]"
        cell = x[head], y[row.method]
        two_lines(ax, *cell, points, interval, bold=row.verdict in DECIDED)
    label_cells(ax, lines, names)
    ax.set_xticks(np.arange(len(x) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(y) + 1) - 0.5, minor=True)
    ax.tick_params(which="both", length=0, top=False, bottom=False)
    ax.xaxis.tick_top()
    ax.grid(True, which="minor", color="white")
    baseline = called(frame["baseline"].iloc[0])
    ax.set_xlabel(f"points against {baseline}\nbold: gains or loses\n(exploratory)")
    return fig, frame.reset_index(drop=True)


@styled
def difference_panels(
    frame: pd.DataFrame, panel: str, row: str = "dataset", hue: str = "backbone"
) -> tuple[Figure, pd.DataFrame]:
    """Accuracy gained or lost against a baseline, with 95% intervals, in panels.

    All panels have the same rows and the same axis. A marker is filled where the
    verdict is "gains" or "loses".

    Args:
        frame: rows of `compare.corrected`, in the order in which to draw.
        panel, row, hue: the columns whose values have a panel, a row and a colour each.
    """
    columns = ["baseline", "difference", "ci_low", "ci_high", "verdict"]
    require(frame, [panel, row, hue, *columns])
    titles, rows, levels = (list(frame[name].unique()) for name in (panel, row, hue))
    colours = level_colours(hue, levels)
    names = [wrapped(str(name), 22) for name in rows]
    lines = 1 + max(name.count("\n") for name in names)
    high = 0.6 + len(rows) * max(0.26, 0.18 * lines, 0.15 * len(levels))
    shared = {"sharex": True, "sharey": True}
    fig, axes = panel_grid(len(titles), (1.3, 2.2), (0.9, high), **shared)
    wide, across = fig.get_figwidth(), axes.shape[1]
    letters = int(11.5 * (wide - 1.3) / across)  # that fit above a panel
    for ax, title in zip(axes.flat, titles, strict=False):
        ax.axvline(0, color=INK, lw=1)
        ax.set_title(wrapped(str(title), letters))
        for number, level in enumerate(levels):
            part = frame[(frame[panel] == title) & (frame[hue] == level)]
            y = np.array([rows.index(name) for name in part[row]])
            y = y + 0.36 * (number - (len(levels) - 1) / 2)
            shade = colours[level]
            ax.hlines(y, 100 * part["ci_low"], 100 * part["ci_high"], shade, lw=1.6)
            inside = [shade if v in DECIDED else "white" for v in part["verdict"]]
            style = {"edgecolors": shade, "s": 34, "linewidths": 1.5, "zorder": 3}
            sign = MARKERS[number % len(MARKERS)]
            ax.scatter(100 * part["difference"], y, marker=sign, c=inside, **style)
        label_rows(ax, names)
        ax.tick_params(labelbottom=True)
    if len(levels) > 1:
        keys = [
            Line2D([], [], marker=MARKERS[n % len(MARKERS)], color=colours[level])
            for n, level in enumerate(levels)
        ]
        labels = list(map(called, levels))
        fig.legend(keys, labels, loc="outside upper right", ncols=len(levels))
    baseline = called(frame["baseline"].iloc[0])
    fig.supxlabel(
        f"points against {baseline}; filled: gains or loses (exploratory)", fontsize=11
    )
    return fig, frame.reset_index(drop=True)
