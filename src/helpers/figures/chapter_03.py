"""What chapter 03 draws: captions beside their images, and where gains are lost."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import ImageOps

from helpers.figures.style import (
    BLUE,
    FAINT,
    INK,
    VERMILION,
    as_picture,
    label_rows,
    panel_grid,
    require,
    styled,
    wrapped,
)
from helpers.results.compare import DECIDED


@styled
def cards(
    images: Sequence[Any], texts: Sequence[Sequence[str]], columns: int = 2
) -> tuple[Figure, pd.DataFrame]:
    """Pictures with lines of text to their right, say a caption and what came of it.

    Args:
        images: pictures (PIL or uint8 [H, W, 3]).
        texts: a list of lines for each, the first in bold type; long ones are broken.
        columns: cards in a row.
    """
    if len(images) == 0 or len(images) != len(texts):
        raise ValueError(
            "as many texts as images, and at least one, "
            f"not {len(texts)} texts for {len(images)} images"
        )
    side, wide, line = 1.1, 4.2, 0.165  # inches: picture, card, line of text
    broken = [
        [textwrap.fill(text, 42 if number else 36) for number, text in enumerate(card)]
        for card in texts
    ]
    most = max("\n".join(card).count("\n") + 1 for card in broken)
    high = max(side, line * most + 0.05) + 0.12
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    size = np.array([columns * wide, rows * high])
    fig = plt.figure(figsize=size, layout="none")
    for number, (image, (bold, *rest)) in enumerate(zip(images, broken, strict=True)):
        row, column = divmod(number, columns)
        top = np.array([column * wide, (rows - row) * high - 0.05])
        ax = fig.add_axes((*((top - (0, side)) / size), *(side / size)))
        ax.imshow(ImageOps.pad(as_picture(image), (256, 256), color="white"))
        ax.axis("off")
        corner = np.add(top, (side + 0.12, 0))
        plain = {"va": "top", "fontsize": 9.5, "parse_math": False}  # "$" is a dollar
        fig.text(*(corner / size), bold, fontweight="bold", **plain)
        corner -= (0, line * (bold.count("\n") + 1) + 0.02)
        fig.text(*(corner / size), "\n".join(rest), linespacing=1.2, **plain)
    data = pd.DataFrame({"card": range(len(texts)), "text": map("\n".join, texts)})
    return fig, data


@styled
def waterfall(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """What each step from one method to another costs or buys, a panel per data set.

    A bar is filled where the verdict is "gains" or "loses".

    Args:
        frame: rows of `compare.corrected`, one per step, in order, with the accuracy
            after it: dataset, step, top1, difference, ci_low, ci_high, verdict. The
            first step of a data set has only the accuracy.
    """
    columns = ["dataset", "step", "top1", "difference", "ci_low", "ci_high", "verdict"]
    require(frame, columns)
    panels = list(frame.groupby("dataset", sort=False))
    high = 0.5 + 0.3 * frame["step"].nunique()
    fig, axes = panel_grid(len(panels), (2.0, 2.1), (0.7, high), sharey=True)
    for ax, (name, part) in zip(axes.flat, panels, strict=False):
        values = 100 * part[["top1", "difference", "ci_low", "ci_high"]].to_numpy()
        steps_of = zip(values, part["verdict"], strict=True)
        for y, ((after, step, low, high), verdict) in enumerate(steps_of):
            if np.isnan(step):
                ax.barh(y, after, height=0.62, color=FAINT)
            else:
                before, shade = after - step, BLUE if step >= 0 else VERMILION
                inside = shade if verdict in DECIDED else "white"
                style = {"height": 0.62, "color": inside, "edgecolor": shade}
                ax.barh(y, step, left=before, **style)
                ax.plot([before + low, before + high], [y, y], color=INK, lw=1.2)
                ax.plot([before, before], [y - 1, y], color=INK, lw=0.7, ls=":")
            text = f"{after:.1f}%" if np.isnan(step) else f"{step:+.1f}"
            end = max(after, 0 if np.isnan(step) else before + max(high, 0, step))
            ax.text(end + 1.5, y, text, va="center", fontsize=10)
        ax.set_title(wrapped(name, 22))
        label_rows(ax, part["step"], above=0.6, below=0.6)
        ax.set(xlim=(0, 118), xticks=[0, 50, 100])
    for ax in axes[-1]:
        ax.set_xlabel("top-1 accuracy (%)")
    return fig, frame.reset_index(drop=True)
