"""What chapters 02 and 02b draw: views, one step of tuning, changes and prices."""

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import ImageOps

from helpers.figures.style import (
    BLUE,
    INK,
    MARKERS,
    VERMILION,
    WIDTH,
    as_picture,
    beside,
    called,
    colour,
    label_rows,
    require,
    short,
    styled,
)
from helpers.methods import registry
from helpers.results import metrics
from helpers.results.compare import DECIDED


@styled
def view_rows(
    pictures: Sequence[Any], frame: pd.DataFrame
) -> tuple[Figure, pd.DataFrame]:
    """Views of one image, a row per recipe; a frame marks those that are trusted.

    Args:
        pictures: one per row of the frame (PIL or uint8 [H, W, 3]).
        frame: recipe, view (0 is the image as it is), prediction, entropy in nats and
            kept (bool), as many rows for every recipe, in the order in which to draw.
    """
    require(frame, ["recipe", "view", "prediction", "entropy", "kept"])
    groups = [group for _, group in frame.groupby("recipe", sort=False)]
    columns = len(groups[0])
    if len(pictures) != len(frame) or any(len(group) != columns for group in groups):
        raise ValueError("a picture for each row, and as many rows for every recipe")
    side = 7.6 / columns
    size = side * columns + 0.4, (side + 0.42) * len(groups)
    fig, axes = plt.subplots(len(groups), columns, squeeze=False, figsize=size)
    for ax, picture, row in zip(axes.flat, pictures, frame.itertuples(), strict=True):
        ax.imshow(ImageOps.pad(as_picture(picture), (128, 128), color="white"))
        name = short(row.prediction, int(13.5 * side))
        ax.set_title(f"{name}\n{row.entropy:.2f}", fontsize=9, loc="center")
        if row.view == 0:
            ax.set_xlabel("original", fontsize=9)
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set(visible=row.kept, color=VERMILION, linewidth=3)
    for ax, group in zip(axes[:, 0], groups, strict=True):
        name = group["recipe"].iloc[0].replace("_", " ")
        name = textwrap.fill(registry.WORDS.get(name, name), 12)  # rows: an inch high
        ax.set_ylabel(name, fontsize=10)
    return fig, frame.reset_index(drop=True)


@styled
def first_step(
    gradient: ArrayLike, step: ArrayLike, learning_rate: float
) -> tuple[Figure, pd.DataFrame]:
    """Every coordinate's gradient across, on a logarithmic axis, and its step.

    Args:
        gradient, step: of one context, [M, W].
        learning_rate: dashed lines lie that far above and below no step.
    """
    gradient, step = (metrics.as_array(x).astype(float) for x in (gradient, step))
    if gradient.shape != step.shape or gradient.ndim != 2 or not gradient.size:
        raise ValueError(
            "gradient and step must be [tokens, width] alike, "
            f"not {list(gradient.shape)} and {list(step.shape)}"
        )
    token, coordinate = np.indices(gradient.shape).reshape(2, -1)
    columns = {"token": token, "coordinate": coordinate}
    data = pd.DataFrame(columns | {"gradient": gradient.ravel(), "step": step.ravel()})
    fig, ax = plt.subplots(figsize=(WIDTH, 3.0))
    for sign, name, shade in ((1, "positive", VERMILION), (-1, "negative", BLUE)):
        part = data[np.sign(data["gradient"]) == sign]
        size = part["gradient"].abs()
        label = f"{name} gradient"
        ax.plot(size, part["step"], ".", color=shade, alpha=0.5, label=label)
        ax.axhline(-sign * learning_rate, color=INK, lw=1, ls="--", zorder=0)
    if (gradient != 0).any():
        ax.set_xscale("log")
    limit = 1.6 * max(learning_rate, np.abs(step).max())
    ax.set(ylim=(-limit, limit))
    ax.set(xlabel="size of the gradient", ylabel="step taken")
    fig.legend(loc="outside lower center", ncols=2, markerscale=2)
    return fig, data


@styled
def before_and_after(
    image: Any, frame: pd.DataFrame, title: str = ""
) -> tuple[Figure, pd.DataFrame]:
    """A picture, and the probabilities of some classes by several methods.

    Args:
        image: the picture (PIL or uint8 [H, W, 3]).
        frame: class_name, method and probability, classes from top to bottom.
        title: above the picture, say its true class.
    """
    require(frame, ["class_name", "method", "probability"])
    names, methods = frame["class_name"].unique(), frame["method"].unique()
    height = 0.8 / len(methods)
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 1.2 + 0.42 * max(len(names), 4)), width_ratios=[1, 1.8]
    )
    left.imshow(as_picture(image))
    left.axis("off")
    left.set_title(textwrap.fill(title, 18), fontsize=10, loc="center")
    row = {name: number for number, name in enumerate(names)}
    for number, method in enumerate(methods):
        part = frame[frame["method"] == method]
        y = part["class_name"].map(row) + (number - (len(methods) - 1) / 2) * height
        width = 100 * part["probability"]
        name = called(method)
        right.barh(y, width, height, color=colour(method), label=name)
    label_rows(right, list(map(short, names)))
    right.set_xlabel("probability (%)")
    fig.legend(loc="outside lower center", ncols=min(4, len(methods)))
    return fig, frame.reset_index(drop=True)


@styled
def changes(frame: pd.DataFrame, xlabel: str, head: str) -> tuple[Figure, pd.DataFrame]:
    """A change with its interval in every row, and a number of another kind beside it.

    Args:
        frame: a row per line: method (its colour), label, difference, ci_low, ci_high
            (fractions) and beside (text); where it has a verdict, markers are filled if
            that is "gains" or "loses".
        head: above the numbers beside.
    """
    require(frame, ["method", "label", "difference", "ci_low", "ci_high", "beside"])
    decided = frame.get("verdict", pd.Series(DECIDED[0], frame.index)).isin(DECIDED)
    fig, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.28 * len(frame)))
    ax.axvline(0, color=INK, lw=1)
    for y, (row, full) in enumerate(zip(frame.itertuples(), decided, strict=True)):
        shade = colour(row.method)
        ax.plot([100 * row.ci_low, 100 * row.ci_high], [y, y], color=shade, lw=2)
        style = {"color": shade, "markersize": 7, "markeredgewidth": 1.6}
        inside = shade if full else "white"
        ax.plot(100 * row.difference, y, "o", markerfacecolor=inside, **style)
        beside(ax, y, row.beside)
    beside(ax, -1, head)
    label_rows(ax, list(frame["label"]), above=0.6)
    ax.set_xlabel(xlabel)
    return fig, frame.reset_index(drop=True)


@styled
def sweeps(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Points gained at every setting tried, a panel for each setting that is swept.

    Args:
        frame: setting (its name), value, method, difference, ci_low, ci_high
            (fractions).
    """
    require(frame, ["setting", "value", "method", "difference", "ci_low", "ci_high"])
    panels, methods = list(frame.groupby("setting", sort=False)), frame["method"]
    fig, axes = plt.subplots(
        1, len(panels), squeeze=False, sharey=True, figsize=(WIDTH, 3.3)
    )
    for ax, (setting, part) in zip(axes.flat, panels, strict=True):
        values = sorted(part["value"].unique())
        ax.axhline(0, color=INK, lw=1)
        for number, method in enumerate(methods.unique()):
            line = part[part["method"] == method].sort_values("value")
            middle = 100 * line["difference"]
            ends = [middle - 100 * line["ci_low"], 100 * line["ci_high"] - middle]
            x = np.arange(len(line)) + 0.2 * (number - (methods.nunique() - 1) / 2)
            style = {"color": colour(method), "label": called(method)}
            ax.errorbar(x, middle, ends, fmt=MARKERS[number], elinewidth=1.6, **style)
        ax.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        ax.set_xlabel(setting)
        ax.grid(False, axis="x")
    axes[0, 0].set_ylabel("points against zero-shot")
    keys = axes[0, 0].get_legend_handles_labels()
    fig.legend(*keys, loc="outside lower center", ncols=methods.nunique())
    return fig, frame.reset_index(drop=True)


@styled
def seconds_by_stage(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Milliseconds per image, a bar per method, its stages end to end.

    Bars are means over data sets; a line reaches from the cheapest data set to the
    dearest.

    Args:
        frame: method, dataset, stage and seconds, in the order in which to draw.
    """
    require(frame, ["method", "dataset", "stage", "seconds"])
    methods, stages = frame["method"].unique(), frame["stage"].unique()
    table = frame.pivot_table("seconds", ["method", "dataset"], "stage")
    mean = 1000 * table.groupby("method").mean().loc[methods, stages]
    totals = 1000 * table.sum(axis=1)
    fig, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.3 * len(methods)))
    shades = sns.color_palette("colorblind", len(stages))
    left = np.zeros(len(methods))
    for stage, shade in zip(stages, shades, strict=True):
        ax.barh(range(len(methods)), mean[stage], 0.7, left, color=shade, label=stage)
        left += mean[stage].to_numpy()
    for y, (method, total) in enumerate(zip(methods, left, strict=True)):
        ax.plot([totals[method].min(), totals[method].max()], [y, y], color=INK, lw=1.5)
        beside(ax, y, f"{total:,.1f}")
    label_rows(ax, list(map(called, methods)), above=0.6)
    ax.set_xlabel("milliseconds per image")
    fig.legend(loc="outside lower center", ncols=min(3, len(stages)))
    return fig, frame.reset_index(drop=True)
