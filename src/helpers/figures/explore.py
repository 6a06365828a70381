"""What the explorer draws of one image: its views, the vote, TPT's step, AutoCLIP."""

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from PIL import Image

from helpers.figures.style import (
    INK,
    VERMILION,
    colour,
    label_rows,
    require,
    short,
    styled,
)

WIDTH, HEIGHT = 8.6, 6.9  # inches
SHEET = 5.85, 3.3  # inches of the sheet of views
SIDE, BORDER, HEAD = 96, 6, 26  # of a view in the sheet, and above it, in pixels
CLASSES, TEMPLATES = 5, 12  # drawn, the largest of them
VOTE = {
    "zero_shot": "original alone",
    "vote_mean": "mean of all views",
    "vote": "mean of kept views",
}
STEP = {"zero_shot": "before", "tpt": "after"}


@styled
def explorer(
    pictures: ArrayLike,
    views: pd.DataFrame,
    probabilities: pd.DataFrame,
    weights: Mapping[str, float],
    title: str = "",
) -> tuple[Figure, pd.DataFrame]:
    """One image as its views, the vote, TPT and AutoCLIP see it.

    Above the image and its other views, the surest first; a frame marks those that
    vote and TPT keep. Below the probabilities of the likeliest classes, and the
    heaviest prompt templates.

    Args:
        pictures: uint8 [V, S, S, 3], view 0 the original.
        views: a row for each picture: entropy in nats, kept (bool).
        probabilities: class_name, method (zero_shot, vote_mean, vote, and tpt unless
            it was not run) and probability.
        weights: template -> AutoCLIP's weight, all K of them; the dashed line is at
            1 / K.
        title: above the original, a line or two.
    """
    require(views, ["entropy", "kept"])
    require(probabilities, ["class_name", "method", "probability"])
    pictures = np.asarray(pictures)
    if len(pictures) != len(views) or not len(weights):
        raise ValueError("a picture for each row of views, and at least one template")
    # Sliders wait for it: axes and titles (y=1) are laid out by hand, which is faster.
    fig = plt.figure(figsize=(WIDTH, HEIGHT), layout="none")

    def axes(left: float, top: float, width: float, height: float) -> plt.Axes:
        """Of these inches, `top` being the distance from the upper edge."""
        bottom = HEIGHT - top - height
        box = left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT
        return fig.add_axes(box)

    others = views.iloc[1:].sort_values("entropy", kind="stable")
    _original(axes(0.1, 0.5, 2.3, 2.3), pictures[0], views.iloc[0], title)
    _sheet(axes(2.65, 0.5, *SHEET), pictures[others.index], others)
    # Classes of one name, of which ImageNet has some, are one row.
    by_class = probabilities.pivot_table(
        "probability", "class_name", "method", "sum", sort=False
    )
    largest = by_class.loc[by_class.max(axis=1).nlargest(CLASSES).index]
    vote, step = axes(1.15, 4.25, 1.85, 1.6), axes(3.15, 4.25, 1.85, 1.6)
    vote.set_title("vote of the views", y=1)
    _bars(vote, largest, VOTE)
    step.set_title("TPT's step", y=1)
    if "tpt" in largest:
        _bars(step, largest, STEP)
        step.set_yticklabels([])
    else:
        step.text(0.5, 0.5, "switched off", ha="center", va="center")
        step.axis("off")
    ranked = pd.Series(weights).sort_values(ascending=False, kind="stable")
    _templates(axes(6.8, 4.25, 1.7, 1.6), ranked)
    return fig, _numbers(views, probabilities, ranked)


def _original(ax: plt.Axes, picture: np.ndarray, row: pd.Series, title: str) -> None:
    ax.imshow(picture)
    ax.set(xticks=[], yticks=[])
    lines = (short(line, 32) for line in title.split("\n"))
    ax.set_title("\n".join(lines), fontsize=10, y=1)
    ax.set_xlabel(f"original: {row['entropy']:.2f}{', kept' if row['kept'] else ''}")
    for spine in ax.spines.values():
        spine.set(visible=row["kept"], color=VERMILION, linewidth=3)


def _sheet(ax: plt.Axes, pictures: np.ndarray, views: pd.DataFrame) -> None:
    """Views in rows on one canvas: axes of their own would take seconds to draw."""
    ax.axis("off")
    count, kept = len(views), views["kept"].sum()
    text = f"its {count} other views by entropy in nats; framed: {kept} kept"
    ax.set_title(text if count else "no other views", y=1)
    if not count:
        return
    columns = _columns(count)
    rows = math.ceil(count / columns)
    width, height = SIDE + BORDER, SIDE + BORDER + HEAD
    canvas = np.full((rows * height, columns * width, 3), 255, np.uint8)
    size = min(9.0, 17 * SHEET[0] / columns)
    pairs = zip(pictures, views.itertuples(), strict=True)
    for number, (picture, row) in enumerate(pairs):
        top, left = (number // columns) * height + HEAD, (number % columns) * width
        small = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE)))
        canvas[top : top + SIDE, left : left + SIDE] = small
        style = {"color": VERMILION if row.kept else INK, "fontsize": size}
        middle = left + SIDE / 2
        ax.text(middle, top - 3, f"{row.entropy:.2f}", ha="center", **style)
        if row.kept:
            frame = Rectangle((left, top), SIDE, SIDE, fill=False, ec=VERMILION, lw=2)
            ax.add_patch(frame)
    ax.imshow(canvas)
    ax.set_anchor("NW")


def _columns(count: int) -> int:
    """The number of columns, at least 4, that makes the views as large as possible."""
    width, height = SIDE + BORDER, SIDE + BORDER + HEAD

    def size(columns: int) -> float:
        rows = math.ceil(count / columns)
        return min(SHEET[0] / (columns * width), SHEET[1] / (rows * height))

    return max(range(4, max(4, count) + 1), key=size)


def _bars(ax: plt.Axes, table: pd.DataFrame, methods: Mapping[str, str]) -> None:
    """Probabilities of classes, down, by some methods, which get these labels."""
    thick = 0.8 / len(methods)
    for number, (method, label) in enumerate(methods.items()):
        width = 100 * table[method]
        y = np.arange(len(table)) + (number - (len(methods) - 1) / 2) * thick
        ax.barh(y, width, thick, color=colour(method), label=label)
        for at, value in zip(y, width, strict=True):
            style = {"fontsize": 7, "va": "center_baseline"}
            ax.text(value + 2, at, f"{value:.0f}", **style)
    label_rows(ax, [short(name, 14) for name in table.index], fontsize=9)
    ax.set(xlim=(0, 118), xticks=[0, 50, 100])
    ax.set_xlabel("probability (%)", fontsize=9)
    style = {"fontsize": 8, "borderaxespad": 0, "labelspacing": 0.25}
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.27), **style)


def _templates(ax: plt.Axes, ranked: pd.Series) -> None:
    shown = 100 * ranked[:TEMPLATES]
    ax.barh(range(len(shown)), shown, color=colour("autoclip"), height=0.7)
    ax.axvline(100 / len(ranked), color=INK, lw=1, ls="--")
    label_rows(ax, [short(template, 28) for template in shown.index], fontsize=8)
    ax.set_title("AutoCLIP's weights", y=1)
    text = f"weight (%)\ndashed: 1 / {len(ranked)} for each"
    ax.set_xlabel(text, fontsize=9)


def _numbers(
    views: pd.DataFrame, probabilities: pd.DataFrame, weights: pd.Series
) -> pd.DataFrame:
    """All that is drawn as one table: panel, name, series and value."""
    kept = np.where(views["kept"], "kept", "left out")
    columns = {"name": views.index.astype(str), "series": kept}
    parts = {
        "entropy of view": pd.DataFrame(columns | {"value": views["entropy"]}),
        "probability": probabilities.set_axis(["name", "series", "value"], axis=1),
        "weight of template": pd.DataFrame(
            {"name": weights.index, "series": "autoclip", "value": weights.to_numpy()}
        ),
    }
    return pd.concat(parts, names=["panel", None]).reset_index("panel")
