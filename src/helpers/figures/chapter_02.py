"""What chapters 02 and 02b draw: views, one step of tuning, gains and their price."""

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
    colour,
    label_rows,
    logarithmic,
    require,
    short,
    styled,
)
from helpers.methods import registry
from helpers.results import metrics


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
        name = registry.title(method)
        right.barh(y, width, height, color=colour(method), label=name)
    label_rows(right, list(map(short, names)))
    right.set_xlabel("probability (%)")
    fig.legend(loc="outside lower center", ncols=min(4, len(methods)))
    return fig, frame.reset_index(drop=True)


@styled
def accuracy_and_calibration(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Accuracy across, calibration error up: right and low is better.

    Args:
        frame: a row per method: method, top1, its interval ci_low and ci_high, ece.
    """
    require(frame, ["method", "top1", "ci_low", "ci_high", "ece"])
    fig, ax = plt.subplots(figsize=(WIDTH, 4.2))
    _method_markers(ax, frame, 100 * frame["top1"], 100 * frame["ece"], "xerr")
    ax.set(xlabel="top-1 accuracy (%)", ylabel="expected calibration error (%)")
    ax.set_ylim(bottom=0)
    return fig, frame.reset_index(drop=True)


def _method_markers(
    ax: plt.Axes, frame: pd.DataFrame, x: pd.Series, y: pd.Series, side: str
) -> None:
    """A marker per method, its 95 % interval as `xerr` or `yerr`, and a legend."""
    ends = 100 * frame[["ci_low", "ci_high"]].to_numpy()
    for number, method in enumerate(frame["method"]):
        at = x.iloc[number], y.iloc[number]
        reach = np.abs(ends[number] - at[side == "yerr"])[:, None]
        look = {"markersize": 8, "elinewidth": 1, side: reach}
        look["label"] = registry.title(method)
        sign = MARKERS[number % len(MARKERS)]
        ax.errorbar(*at, fmt=sign, color=colour(method), **look)
    ax.figure.legend(loc="outside right upper")


@styled
def gain_by_seconds(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Accuracy gained against what an image costs, on a logarithmic axis.

    Args:
        frame: a row per method: method, seconds (per image), difference, ci_low,
            ci_high (fractions).
    """
    require(frame, ["method", "seconds", "difference", "ci_low", "ci_high"])
    fig, ax = plt.subplots(figsize=(WIDTH, 4.4))
    ax.axhline(0, color=INK, lw=1)
    x, y = 1000 * frame["seconds"], 100 * frame["difference"]
    _method_markers(ax, frame, x, y, "yerr")
    ax.set(xlabel="milliseconds per image", ylabel="points gained", xscale="log")
    logarithmic(ax.xaxis)
    return fig, frame.reset_index(drop=True)


@styled
def seconds_by_stage(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Seconds per image, a bar per method, its stages end to end.

    Args:
        frame: method, stage and seconds, in the order in which to draw.
    """
    require(frame, ["method", "stage", "seconds"])
    methods, stages = frame["method"].unique(), frame["stage"].unique()
    table = frame.pivot_table("seconds", "method", "stage", "sum", fill_value=0.0)
    table = 1000 * table.loc[methods, stages]
    fig, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.3 * len(methods)))
    shades = sns.color_palette("colorblind", len(stages))
    left = np.zeros(len(methods))
    for stage, shade in zip(stages, shades, strict=True):
        ax.barh(range(len(methods)), table[stage], 0.7, left, color=shade, label=stage)
        left += table[stage].to_numpy()
    for y, total in enumerate(left):
        beside(ax, y, f"{total:,.1f}")
    label_rows(ax, list(map(registry.title, methods)), above=0.6)
    ax.set_xlabel("milliseconds per image")
    fig.legend(loc="outside lower center", ncols=min(3, len(stages)))
    return fig, frame.reset_index(drop=True)
