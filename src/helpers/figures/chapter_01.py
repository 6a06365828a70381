"""What chapter 01 draws: images against texts, and which classes are confused."""

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from PIL import ImageOps
from statsmodels.stats.proportion import proportion_confint

from helpers.figures.style import (
    BLUE,
    INK,
    VERMILION,
    WIDTH,
    as_picture,
    beside,
    intervals,
    label_cells,
    label_rows,
    number_in_cell,
    require,
    short,
    styled,
)
from helpers.results import metrics


def _square_cells(fig: Figure, ax: plt.Axes, cell: float) -> None:
    """Size the figure so that a unit of either axis is `cell` inches, labels beside."""
    units = np.abs([np.diff(ax.get_xlim())[0], np.diff(ax.get_ylim())[0]])
    for _ in range(2):  # once more, as a label may reach beyond axes that shrank
        fig.draw_without_rendering()
        labels = ax.get_tightbbox().size - ax.get_window_extent().size
        fig.set_size_inches(cell * units + labels / fig.dpi + 0.1)


@styled
def similarity_matrix(
    images: Sequence[Any],
    texts: Sequence[str],
    similarity: ArrayLike,
    correct: Sequence[int] | None = None,
) -> tuple[Figure, pd.DataFrame]:
    """Images across, texts down, cosine similarity in the cells: the picture of CLIP.

    A frame marks the text that belongs to an image, bold type the most similar text.

    Args:
        images: 1 to 16 pictures (PIL or uint8 [H, W, 3]).
        texts: 1 to 32 texts.
        similarity: [images, texts].
        correct: position of each image's text, -1 for none; None: the i-th text belongs
            to the i-th image.
    """
    similarity = metrics.as_array(similarity).astype(float)
    shape = (len(images), len(texts))
    if not (1 <= shape[0] <= 16 and 1 <= shape[1] <= 32):
        raise ValueError(
            f"{shape[0]} images and {shape[1]} texts are not legible: choose 1 to 16 "
            "images and 1 to 32 texts"
        )
    if similarity.shape != shape:
        raise ValueError(
            f"similarity must be [images, texts] = {list(shape)}, "
            f"not {list(similarity.shape)}"
        )
    if correct is None:
        if shape[0] != shape[1]:
            raise ValueError("as many texts as images, or say which are correct=")
        correct = range(shape[0])
    best = similarity.argmax(axis=1)
    data = pd.DataFrame(
        {
            "image": np.repeat(np.arange(shape[0]), shape[1]),
            "text": list(texts) * shape[0],
            "similarity": similarity.ravel(),
            "correct": [j == correct[i] for i, j in np.ndindex(shape)],
            "best": [j == best[i] for i, j in np.ndindex(shape)],
        }
    )
    fig, ax = plt.subplots()
    span = max(np.ptp(similarity), 1e-9)
    limits = {"vmin": similarity.min(), "vmax": similarity.max() + 0.1 * span}
    ax.imshow(similarity.T, cmap="Blues", aspect="auto", **limits)
    for i, j in np.ndindex(shape):
        dark = similarity[i, j] > similarity.min() + 0.65 * span
        style = {"fontweight": "bold" if best[i] == j else "normal"}
        number_in_cell(ax, i, j, f"{similarity[i, j]:.2f}", 10, dark, **style)
        if correct[i] == j:
            corner, style = (i - 0.46, j - 0.46), {"fill": False, "ec": VERMILION}
            ax.add_patch(Rectangle(corner, 0.92, 0.92, lw=2, **style))
    for i, image in enumerate(images):
        thumbnail = ImageOps.fit(as_picture(image), (128, 128))
        box = (i - 0.46, i + 0.46, -0.56, -1.48)
        ax.imshow(thumbnail, extent=box, aspect="auto")
    ax.set(xlim=(-0.5, shape[0] - 0.5), ylim=(shape[1] - 0.5, -1.5))
    label_cells(ax, [], [textwrap.fill(text, 30) for text in texts])
    _square_cells(fig, ax, 0.62)
    return fig, data


def _most_confused(counts: np.ndarray, top: int) -> list[int]:
    """Up to `top` classes of the most frequent confusions, partners side by side."""
    mistakes = np.triu(counts + counts.T, 1)
    pairs = np.argwhere(mistakes)
    chosen: list[int] = []
    for a, b in pairs[np.argsort(-mistakes[tuple(pairs.T)], kind="stable")].tolist():
        if a not in chosen and b not in chosen:
            if len(chosen) + 2 <= top:
                chosen += [a, b]
        elif len(chosen) < top and not (a in chosen and b in chosen):
            partner, new = (a, b) if a in chosen else (b, a)
            chosen.insert(chosen.index(partner) + 1, new)
    return chosen


@styled
def confusion_matrix(
    labels: ArrayLike, predictions: ArrayLike, class_names: Sequence[str], top: int = 12
) -> tuple[Figure, pd.DataFrame]:
    """Confusion matrix in percent of each true class's images.

    Up to `top` classes are drawn in full; of more, those of the most frequent
    confusions, with a last column for all other predictions, so that rows sum to 100.

    Args:
        labels, predictions: integers [N] in 0..C-1.
        class_names: C names in label order.
        top: classes to draw.
    """
    counts = metrics.confusion_counts(labels, predictions, len(class_names))
    n = counts.sum(axis=1)
    if len(class_names) <= top:
        shown = np.flatnonzero(n + counts.sum(axis=0)).tolist()
    else:
        shown = _most_confused(counts, top)
    if not shown:
        raise ValueError("nothing to draw: no image is confused with another class")
    table = counts[np.ix_(shown, shown)]
    names = [class_names[number] for number in shown]
    columns = list(names)
    if len(class_names) > top:
        table = np.column_stack([table, n[shown] - table.sum(axis=1)])
        columns.append("other classes")
    seen = n[shown, None] > 0
    share = 100 * table / np.where(seen, n[shown, None], np.nan)

    diagonal = np.eye(*table.shape, dtype=bool)
    rest = np.zeros_like(diagonal)
    rest[:, len(names) :] = True
    fig, ax = plt.subplots()
    for mask, palette in (
        (~diagonal & ~rest & (table > 0), "Oranges"),
        (diagonal, "Blues"),
        (rest, "Greys"),
    ):
        shade = np.where(mask, share, np.nan)
        ax.imshow(shade, cmap=palette, vmin=0, vmax=130, aspect="auto")
    for i, j in np.argwhere((table > 0) | (diagonal & seen)).tolist():
        value = f"{share[i, j]:.0f}" if share[i, j] >= 1 or not table[i, j] else "<1"
        number_in_cell(ax, j, i, value, 9, dark=share[i, j] > 75)
    ax.set_xticks(range(len(columns)), map(short, columns), rotation=45, ha="right")
    ax.set_yticks(range(len(names)), map(short, names))
    ax.set_xticks(np.arange(len(columns)) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(names)) - 0.5, minor=True)
    ax.grid(False)
    ax.grid(True, which="minor")
    ax.tick_params(which="both", length=0)
    ax.set(xlabel="predicted class (% of images)", ylabel="true class")
    _square_cells(fig, ax, max(0.42, 2.4 / len(columns)))  # room for the label
    data = pd.DataFrame(
        {
            "true": np.repeat(names, len(columns)),
            "predicted": columns * len(names),
            "images": table.ravel(),
            "share": share.ravel() / 100,
        }
    )
    return fig, data


@styled
def confusion_pairs(
    labels: ArrayLike, predictions: ArrayLike, class_names: Sequence[str], top: int = 12
) -> tuple[Figure, pd.DataFrame]:
    """The most frequent mistakes, in percent of the true class, 95% Wilson intervals.

    Args as in `confusion_matrix`; `top` is the number of mistakes drawn.
    """
    counts = metrics.confusion_counts(labels, predictions, len(class_names))
    n = counts.sum(axis=1)
    mistakes = counts - np.diag(np.diag(counts))
    pairs = np.argwhere(mistakes)
    if not len(pairs):
        raise ValueError("nothing to draw: every prediction is right")
    images = mistakes[tuple(pairs.T)]
    order = np.lexsort((-images / n[pairs[:, 0]], -images))[:top]
    pairs, images = pairs[order], images[order]
    of = n[pairs[:, 0]]
    low, high = proportion_confint(images, of, method="wilson")
    data = pd.DataFrame(
        {
            "true": [class_names[number] for number in pairs[:, 0]],
            "predicted": [class_names[number] for number in pairs[:, 1]],
            "images": images,
            "of": of,
            "share": images / of,
            "ci_low": low,
            "ci_high": high,
        }
    )
    fig, ax = plt.subplots(figsize=(WIDTH, 0.8 + 0.29 * len(data)))
    intervals(ax, np.arange(len(data)), data, "share", VERMILION)
    for y, row in enumerate(data.itertuples()):
        beside(ax, y, f"{row.images} of {row.of}")
    label_rows(ax, data["true"].map(short) + " → " + data["predicted"].map(short))
    ax.set_xlabel("share of the true class (%)")
    ax.set_xlim(left=0)
    return fig, data


@styled
def per_class_accuracy(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Accuracy class by class, best first, 95% intervals, their mean a dashed line.

    Of more than 60 classes, the best 20 and the worst 20.

    Args:
        frame: rows of `metrics.per_class`: class_name, n, top1, ci_low, ci_high.
    """
    require(frame, ["class_name", "n", "top1", "ci_low", "ci_high"])
    ranked = frame.sort_values(
        ["top1", "n"], ascending=False, kind="stable", ignore_index=True
    )
    left_out = len(ranked) - 40 if len(ranked) > 60 else 0
    y = ranked.index.to_numpy(float)
    if left_out:
        keep = (y < 20) | (y >= 20 + left_out)
        ranked, y = ranked[keep], y[keep]
        y[20:] -= left_out - 1.5
    fig, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.18 * (y[-1] + 1)))
    mean = 100 * frame["top1"].mean()
    ax.axvline(mean, color=INK, lw=1, ls="--", zorder=0)
    intervals(ax, y, ranked, "top1", BLUE)
    if left_out:
        ax.axhspan(19.75, 20.75, color="#f0f0f0", lw=0)
        text = f"{left_out} classes between"
        middle = {"transform": ax.get_yaxis_transform(), "ha": "center", "va": "center"}
        ax.text(0.5, 20.25, text, fontsize=9, **middle)
    ax.set_yticks(y, ranked["class_name"].map(short), fontsize=9)
    least = 10 * np.floor(10 * ranked["ci_low"].min())
    ax.set(xlim=(least - 2, 102), ylim=(y[-1] + 0.7, -0.7))
    ax.set_xlabel(f"top-1 accuracy (%), dashed: mean {mean:.1f}")
    ax.grid(False, axis="y")
    return fig, ranked.reset_index(drop=True)
