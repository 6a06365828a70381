"""What chapter 04 draws: the weights of templates."""

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from helpers.figures.style import (
    INK,
    VERMILION,
    WIDTH,
    as_picture,
    called,
    colour,
    label_cells,
    label_rows,
    number_in_cell,
    short,
    styled,
)


@styled
def template_weights(
    image: Any, weights: Mapping[str, float], title: str = "", top: int = 24
) -> tuple[Figure, pd.DataFrame]:
    """A picture and how much each prompt template counts for it, heaviest first.

    Args:
        image: the picture (PIL or uint8 [H, W, 3]).
        weights: template -> weight, all K of them; the dashed line is at 1 / K.
        top: templates to draw.
    """
    if not weights:
        raise ValueError("nothing to draw: no templates")
    ranked = pd.Series(weights).sort_values(ascending=False, kind="stable")
    shown = 100 * ranked[:top]
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 0.9 + 0.22 * max(len(shown), 6)), width_ratios=[1, 1.6]
    )
    left.imshow(as_picture(image))
    left.axis("off")
    left.set_anchor("N")  # beside the heaviest templates
    left.set_title(textwrap.fill(title, 26), loc="center")
    right.barh(range(len(shown)), shown, color=colour("autoclip"), height=0.7)
    right.axvline(100 / len(ranked), color=INK, lw=1, ls="--")
    labels = [short(template, 32) for template in shown.index]
    label_rows(right, labels, above=0.6, below=0.6, fontsize=9)
    right.set_xlabel("weight (%), dashed: uniform")
    if len(shown) < len(ranked):
        right.set_ylabel(f"heaviest {len(shown)} of {len(ranked)}")
    data = ranked.rename_axis("template").rename("weight").reset_index()
    return fig, data


@styled
def one_step_for_all(
    entropies: Mapping[str, ArrayLike], beta: float, title: str = ""
) -> tuple[Figure, pd.DataFrame]:
    """How concentrated the weights of images are, a row per data set.

    The dot is the median image; the thick line has half of the images, the thin line
    nine in ten.

    Args:
        entropies: data set -> entropy of each image's weights, as a share of log K.
        beta: the share asked for, the dashed line.
    """
    if not entropies:
        raise ValueError("nothing to draw: no data sets")
    shares = [0.05, 0.25, 0.5, 0.75, 0.95]
    frame = pd.DataFrame({k: np.quantile(v, shares) for k, v in entropies.items()}).T
    ends = (100 * frame).to_numpy().T
    y = np.arange(len(frame))
    fig, ax = plt.subplots(figsize=(WIDTH, 1.1 + 0.32 * len(frame)))
    ax.axvline(100 * beta, color=INK, lw=1, ls="--")
    ax.hlines(y, ends[0], ends[4], color=colour("autoclip"), lw=1.5)
    ax.hlines(y, ends[1], ends[3], color=colour("autoclip"), lw=5)
    ax.plot(ends[2], y, "o", color="white", mec=INK, ms=7, zorder=3)
    label_rows(ax, list(map(called, frame.index)))
    ax.set(title=title, xlim=(0, 102))
    ax.set_xlabel("entropy of an image's weights (% of log K)")
    columns = [f"quantile_{share:g}" for share in shares]
    return fig, frame.set_axis(columns, axis=1).rename_axis("dataset").reset_index()


@styled
def weight_map(weights: pd.DataFrame, top: int = 24) -> tuple[Figure, pd.DataFrame]:
    """Mean weight of templates, down, for groups of images, across.

    The darker, the more times its uniform weight a template has; a frame marks the
    heaviest of each group and says how many times. Of more than `top` templates,
    those that are heaviest for any group.

    Args:
        weights: a row per group, a column per template, all K; rows sum to 1.
    """
    if weights.empty:
        raise ValueError("nothing to draw: the table has no weights")
    times = weights * weights.shape[1]
    heaviest = times.max().nlargest(top).index
    shown = times[[column for column in times if column in heaviest]].T
    fig, ax = plt.subplots()
    cells = shown.to_numpy()
    edge = max(2.0, cells.max())
    ax.imshow(cells, cmap="Greens", aspect="auto", vmin=0, vmax=edge)
    for j, i in enumerate(cells.argmax(axis=0)):
        value = cells[i, j]
        number_in_cell(ax, j, i, f"{value:.1f}", 9, dark=value > 0.65 * edge)
        box = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec=VERMILION, lw=2)
        ax.add_patch(box)
    rows = [short(text, 34) for text in shown.index]
    label_cells(ax, list(map(called, shown.columns)), rows, rotation=45, ha="right")
    ax.tick_params(labelsize=9)
    size = 1.2 + 0.42 * shown.shape[1]
    fig.set_size_inches(max(WIDTH, 2.2 + size), 1.4 + 0.24 * len(shown))
    data = weights.rename_axis("group").reset_index()
    return fig, data.melt("group", var_name="template", value_name="weight")
