"""The study's figures: each function draws one and returns it with its numbers.

Every function gives `(figure, data)`: `data` is the tidy table that the figure shows,
fractions of one as everywhere, drawn in percent. A method has one colour throughout.
"""

import functools
import math
import re
import textwrap
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike
from PIL import Image, ImageOps
from statsmodels.stats.proportion import proportion_confint

from helpers.files import replacing
from helpers.results import metrics
from helpers.results.predictions import write_csv

WIDTH = 6.4  # inches: 11-point type stays legible when a page shows it at half width
INK = "#333333"
FAINT = "#bbbbbb"
BLUE, VERMILION = "#0173b2", "#d55e00"
ACCURACY = "#9ecae1"
MARKERS = "oDs^vPX<>*"

# Chosen so that the closest two stay apart (CIEDE2000 of 9) in deuteranopia and
# protanopia too; the baseline is ink, not a hue.
METHOD_COLOURS = {
    "zero_shot": "#4d4d4d",
    "ensemble": "#b3b3b3",
    "vote": "#56b4e9",
    "zero": "#0173b2",
    "mta": "#332288",
    "tpt": "#d55e00",
    "difftpt": "#8c2d04",
    "coop": "#cfc411",
    "tps": "#5c3a1e",
    "autoclip": "#029e73",
    "lafter": "#cc78bc",
    "caption": "#aa3377",
    "tent": "#9bd08b",
    "tda": "#5f0f40",
    "dmn": "#2200ee",
    "dota": "#aa5544",
    "bca": "#778888",
    "onzeta": "#ff3366",
    "boost_adapter": "#6677ff",
}
"""Colours of families of methods: `vote_augmix` is a shade of `vote`."""


def _style() -> dict[str, Any]:
    return {
        **sns.axes_style("whitegrid"),
        "font.sans-serif": ["DejaVu Sans"],  # matplotlib brings it; others may be there
        "figure.dpi": 150,
        "figure.constrained_layout.use": True,
        "font.size": 11,
        "axes.labelsize": 11,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.edgecolor": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": plt.cycler(color=sns.color_palette("colorblind")),
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "grid.color": "#e6e6e6",
        "legend.fontsize": 10,
        "legend.frameon": False,
        "hatch.linewidth": 0.6,
    }


def use_style() -> None:
    """Give every later figure of the session the study's look, and nothing of the
    user's own settings."""
    mpl.rcdefaults()  # leaves the backend
    plt.rcParams.update(_style())  # type: ignore[arg-type]


def _styled(draw: Callable) -> Callable:
    """Draw in the study's look, whatever the session's settings."""

    @functools.wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> tuple[Figure, pd.DataFrame]:
        with plt.rc_context():
            use_style()
            fig, data = draw(*args, **kwargs)
            fig.draw_without_rendering()  # ticks take the look in force at first draw
            return fig, data

    return wrapper


def colour(method: str) -> str:
    """The colour of a method as "#rrggbb", the same in every figure and run.

    A name that begins like a family of `METHOD_COLOURS` gets that family's colour, in
    a shade of its own if more follows. Any other name gets a hue from its letters.
    """
    name, family = _letters(method), _family(method)
    digest = zlib.crc32(name.encode())
    if not family:
        return sns.color_palette("husl", 12, desat=0.8).as_hex()[digest % 12]
    base = METHOD_COLOURS[family]
    if name == _letters(family):
        return base
    shades = sns.blend_palette(["black", base, "white"], 21).as_hex()
    return (shades[5:9] + shades[12:17])[digest % 9]


def _letters(method: str) -> str:
    return "".join(sign for sign in method.casefold() if sign.isalnum())


def _family(method: str) -> str:
    """The longest key of `METHOD_COLOURS` that the name begins with, or nothing."""
    name = _letters(method)
    families = [f for f in METHOD_COLOURS if name.startswith(_letters(f))]
    return max(families, key=len, default="")


def _colours(hue: str, levels: Sequence[str]) -> dict[str, str]:
    if hue == "method":
        return {level: colour(level) for level in levels}
    palette = sns.color_palette("colorblind", len(levels)).as_hex()
    return dict(zip(levels, palette, strict=True))


def _short(text: str, width: int = 22) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def _require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(f"the table lacks {missing}; it has {list(frame.columns)}")
    if frame.empty:
        raise ValueError("nothing to draw: the table has no rows")


def _square_cells(fig: Figure, ax: plt.Axes, cell: float) -> None:
    """Size the figure so that a unit of either axis is `cell` inches, labels beside."""
    units = np.abs([np.diff(ax.get_xlim())[0], np.diff(ax.get_ylim())[0]])
    for _ in range(2):  # once more, as a label may reach beyond axes that shrank
        fig.draw_without_rendering()
        labels = np.subtract(ax.get_tightbbox().size, ax.get_window_extent().size)
        fig.set_size_inches(*(cell * units + labels / fig.dpi + 0.1))


def _beside(ax: plt.Axes, y: float, text: str) -> None:
    """Text to the right of the axes, at the height of the row y."""
    place = ax.get_yaxis_transform()
    ax.text(1.02, y, text, transform=place, va="center", fontsize=10)


def _picture(image: Any, side: int = 256) -> Image.Image:
    """RGB picture of a PIL image or a uint8 array [H, W] or [H, W, 3]."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image))
    image = image.convert("RGB")
    image.thumbnail((side, side))
    return image


@_styled
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
    ax.imshow(
        similarity.T,
        cmap="Blues",
        aspect="auto",
        vmin=similarity.min(),
        vmax=similarity.max() + 0.1 * span,
    )
    for i, j in np.ndindex(shape):
        dark = similarity[i, j] > similarity.min() + 0.65 * span
        ax.text(
            i,
            j,
            f"{similarity[i, j]:.2f}",
            ha="center",
            va="center",
            fontsize=10,
            color="white" if dark else INK,
            fontweight="bold" if best[i] == j else "normal",
        )
        if correct[i] == j:
            ax.add_patch(
                Rectangle(
                    (i - 0.46, j - 0.46), 0.92, 0.92, fill=False, ec=VERMILION, lw=2
                )
            )
    for i, image in enumerate(images):
        thumbnail = ImageOps.fit(_picture(image), (128, 128))
        box = (i - 0.46, i + 0.46, -0.56, -1.48)
        ax.imshow(thumbnail, extent=box, aspect="auto")
    ax.set(xlim=(-0.5, shape[0] - 0.5), ylim=(shape[1] - 0.5, -1.5), xticks=[])
    ax.set_yticks(range(shape[1]), [textwrap.fill(text, 30) for text in texts])
    ax.grid(False)
    sns.despine(ax=ax, left=True, bottom=True)
    _square_cells(fig, ax, 0.62)
    return fig, data


@_styled
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
        ax.imshow(ImageOps.pad(_picture(image), (256, 256), color="white"))
        ax.set_title(text, fontsize=9, loc="center")
    position = np.arange(len(images))
    data = pd.DataFrame(
        {
            "row": position // columns,
            "column": position % columns,
            "title": list(titles),
        }
    )
    return fig, data


@_styled
def accuracy_by_dataset(
    frame: pd.DataFrame, hue: str = "method"
) -> tuple[Figure, pd.DataFrame]:
    """Top-1 accuracy with its 95 % interval, a band per data set, a colour per `hue`.

    Args:
        frame: rows of `results.csv`: dataset, `hue`, seed, top1, ci_low, ci_high, in
            the order in which to draw. Several seeds are drawn as their mean, each
            seed a small tick.
        hue: `method` or `backbone`.
    """
    _require(frame, ["dataset", hue, "seed", "top1", "ci_low", "ci_high"])
    if frame.duplicated(["dataset", hue, "seed"]).any():
        raise ValueError(
            f"more than one row per dataset, {hue} and seed: select one "
            f"{'backbone' if hue == 'method' else 'method'} first"
        )
    datasets, levels = frame["dataset"].unique(), frame[hue].unique()
    colours = _colours(hue, levels)
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
        place = {name: row + offset for row, name in enumerate(datasets)}
        ax.errorbar(
            mean["top1"],
            mean.index.map(place),
            xerr=[mean["top1"] - mean["ci_low"], mean["ci_high"] - mean["top1"]],
            fmt=MARKERS[number % len(MARKERS)],
            color=colours[level],
            markersize=5.5,
            elinewidth=1.6,
            label=level,
        )
        if part["dataset"].duplicated().any():
            ax.plot(
                part["top1"] * 100,
                part["dataset"].map(place),
                "|",
                color=colours[level],
                markersize=7,
            )
    ax.set(xlabel="top-1 accuracy (%)", ylim=(len(datasets) - 0.5, -0.5))
    ax.set_yticks(range(len(datasets)), _sized(frame, datasets))
    ax.grid(False, axis="y")
    if len(levels) > 1:
        fig.legend(loc="outside lower center", ncols=min(3, len(levels)))
    return fig, frame.reset_index(drop=True)


def _sized(frame: pd.DataFrame, datasets: Sequence[str]) -> list[str]:
    """The data sets' names, with the number of images where the table knows it."""
    if "n" not in frame:
        return list(datasets)
    sizes = frame.groupby("dataset")["n"].max()
    return [f"{name}\nn = {sizes[name]:,}" for name in datasets]


@_styled
def paired_differences(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Forest plot of accuracy gained or lost against a baseline on the same images.

    Filled markers differ from zero at 5 % after Holm's correction. On the right: images
    won, which only the method gets right, and lost, which only the baseline does.

    Args:
        frame: rows of `compare.compare`, in the order in which to draw.
    """
    columns = ["dataset", "backbone", "method", "seed", "baseline", "difference"]
    _require(frame, [*columns, "ci_low", "ci_high", "wins", "losses", "p_holm"])
    groups = list(frame.groupby(["dataset", "backbone"], sort=False))
    sizes = [len(group) for _, group in groups]
    fig, axes = plt.subplots(
        len(groups),
        squeeze=False,
        sharex=True,
        figsize=(WIDTH, 0.9 + 0.35 * len(groups) + 0.26 * len(frame)),
        height_ratios=[size + 0.4 for size in sizes],
    )
    for ax, (names, group) in zip(axes.flat, groups, strict=True):
        ax.axvline(0, color=INK, lw=1)
        for y, row in enumerate(group.itertuples()):
            shade = colour(row.method) if _family(row.method) else INK
            difference = 100 * row.difference
            ax.plot([100 * row.ci_low, 100 * row.ci_high], [y, y], color=shade, lw=2)
            ax.plot(
                difference,
                y,
                "o",
                color=shade,
                markersize=7,
                markeredgewidth=1.6,
                markerfacecolor=shade if row.p_holm < 0.05 else "white",
            )
            _beside(ax, y, f"{row.wins} : {row.losses}")
        labels = [
            f"{row.method}, seed {row.seed}" if row.seed else row.method
            for row in group.itertuples()
        ]
        ax.set_yticks(range(len(group)), labels)
        ax.set_ylim(len(group) - 0.5, -0.6)
        ax.set_title(" · ".join(names))
        ax.grid(False, axis="y")
    axes[0, 0].annotate(
        "won : lost",
        (1.02, 1),
        xytext=(0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=10,
    )
    axes[-1, 0].set_xlabel(
        f"top-1 difference to {frame['baseline'].iloc[0]} (points)\n"
        "filled: Holm-corrected p < 0.05"
    )
    return fig, frame.reset_index(drop=True)


@_styled
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
        _require(
            table,
            ["low", "high", "count", "confidence", "accuracy", "ci_low", "ci_high"],
        )
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
        error = 100 * metrics.table_calibration_error(table)
        top.set_title(f"{textwrap.fill(label, 24)}\nECE {error:.1f} %".strip())
    keys = [Patch(fc=ACCURACY), Patch(fill=False, ec=VERMILION, hatch="////")]
    fig.legend(
        keys, ["accuracy", "gap to confidence"], loc="outside lower center", ncols=2
    )
    data = pd.concat(tables, names=["label", "bin"]).reset_index()
    return fig, data


def _reliability_panel(top: plt.Axes, bottom: plt.Axes, table: pd.DataFrame) -> None:
    low, width = 100 * table["low"], 100 * (table["high"] - table["low"])
    accuracy, confidence = 100 * table["accuracy"], 100 * table["confidence"]
    top.bar(low, accuracy, width, align="edge", color=ACCURACY, ec="white", lw=0.5)
    top.bar(
        low,
        confidence - accuracy,
        width,
        bottom=accuracy,
        align="edge",
        fill=False,
        ec=VERMILION,
        hatch="////",
        lw=0.6,
    )
    middle = low + width / 2
    top.vlines(middle, 100 * table["ci_low"], 100 * table["ci_high"], color=INK, lw=1)
    top.plot([0, 100], [0, 100], "--", color=INK, lw=1)
    top.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy (%)")
    share = 100 * table["count"] / table["count"].sum()
    bottom.bar(low, share, width, align="edge", color=FAINT, ec="white", lw=0.5)
    bottom.set(ylabel="images (%)", xlabel="confidence (%)")
    for ax in (top, bottom):
        if not ax.get_subplotspec().is_first_col():
            ax.set_ylabel("")
    bottom.tick_params(labelbottom=True)


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


@_styled
def confusion_matrix(
    labels: ArrayLike,
    predictions: ArrayLike,
    class_names: Sequence[str],
    top: int = 12,
) -> tuple[Figure, pd.DataFrame]:
    """What is taken for what, in percent of each true class's images.

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

    diagonal = np.eye(len(table), table.shape[1], dtype=bool)
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
        tint = "white" if share[i, j] > 75 else INK
        ax.text(j, i, value, ha="center", va="center", fontsize=9, color=tint)
    ax.set_xticks(range(len(columns)), map(_short, columns), rotation=45, ha="right")
    ax.set_yticks(range(len(names)), map(_short, names))
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


@_styled
def confusion_pairs(
    labels: ArrayLike,
    predictions: ArrayLike,
    class_names: Sequence[str],
    top: int = 12,
) -> tuple[Figure, pd.DataFrame]:
    """The most frequent mistakes, in percent of the true class, 95 % Wilson intervals.

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
    _intervals(ax, np.arange(len(data)), data, "share", VERMILION)
    for y, row in enumerate(data.itertuples()):
        _beside(ax, y, f"{row.images} of {row.of}")
    ax.set_yticks(
        range(len(data)),
        data["true"].map(_short) + " → " + data["predicted"].map(_short),
    )
    ax.set(xlabel="share of the true class (%)", ylim=(len(data) - 0.5, -0.5))
    ax.set_xlim(left=0)
    ax.grid(False, axis="y")
    return fig, data


@_styled
def per_class_accuracy(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Accuracy class by class, best first, 95 % intervals, their mean a dashed line.

    Of more than 60 classes, the best 20 and the worst 20.

    Args:
        frame: rows of `metrics.per_class`: class_name, n, top1, ci_low, ci_high.
    """
    _require(frame, ["class_name", "n", "top1", "ci_low", "ci_high"])
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
    _intervals(ax, y, ranked, "top1", BLUE)
    if left_out:
        ax.axhspan(19.75, 20.75, color="#f0f0f0", lw=0)
        ax.text(
            50,
            20.25,
            f"{left_out} classes between",
            ha="center",
            va="center",
            fontsize=9,
        )
    ax.set_yticks(y, ranked["class_name"].map(_short), fontsize=9)
    ax.set(xlim=(-2, 102), ylim=(y[-1] + 0.7, -0.7))
    ax.set_xlabel(f"top-1 accuracy (%), dashed: mean {mean:.1f}")
    ax.grid(False, axis="y")
    return fig, ranked.reset_index(drop=True)


def _intervals(
    ax: plt.Axes, y: np.ndarray, frame: pd.DataFrame, value: str, shade: str
) -> None:
    """Dots with horizontal intervals, fractions drawn in percent."""
    ax.hlines(y, 100 * frame["ci_low"], 100 * frame["ci_high"], color=FAINT, lw=2)
    ax.plot(100 * frame[value], y, "o", color=shade, markersize=5.5)


@_styled
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
        panel: a column whose every value gets axes of its own, or "" for one.
        log: logarithmic x axis.
        across, at: dashed lines to compare with, a value of y and a value of x.
    """
    _require(frame, [x, y, hue, *filter(None, [panel])])
    panels = list(frame.groupby(panel, sort=False)) if panel else [("", frame)]
    levels = frame[hue].unique()
    colours = _colours(hue, levels)
    fig, axes = plt.subplots(
        1,
        len(panels),
        squeeze=False,
        sharey=True,
        figsize=(max(WIDTH, 1.0 + 2.3 * len(panels)), 3.6),
    )
    for ax, (title, part) in zip(axes.flat, panels, strict=True):
        for number, level in enumerate(levels):
            line = part[part[hue] == level].sort_values(x)
            sign = MARKERS[number % len(MARKERS)] if len(line) <= 15 else ""
            shade = colours[level]
            ax.plot(line[x], 100 * line[y], color=shade, marker=sign, label=level)
            if {"ci_low", "ci_high"} <= set(line):
                low, high = 100 * line["ci_low"], 100 * line["ci_high"]
                ax.fill_between(line[x], low, high, color=shade, alpha=0.13, lw=0)
        if across is not None:
            ax.axhline(100 * across, color=INK, lw=1, ls="--", zorder=1)
        if at is not None:
            ax.axvline(at, color=INK, lw=1, ls="--", zorder=1)
        ax.set(title=f"{panel} {title}".strip(), xlabel=xlabel)
        if log:
            ax.set_xscale("log")
            points = sorted(set(frame[x]))
            if len(points) <= 15:
                ax.set_xticks(points, [f"{point:g}" for point in points])
                ax.minorticks_off()
    axes[0, 0].set_ylabel(ylabel)
    if len(levels) > 1:
        keys = axes[0, 0].get_legend_handles_labels()
        fig.legend(*keys, loc="outside lower center", ncols=min(4, len(levels)))
    return fig, frame.reset_index(drop=True)


@_styled
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
    left.imshow(_picture(image))
    left.axis("off")
    left.set_anchor("N")  # beside the heaviest templates
    left.set_title(textwrap.fill(title, 26), loc="center")
    right.barh(range(len(shown)), shown, color=METHOD_COLOURS["autoclip"], height=0.7)
    right.axvline(100 / len(ranked), color=INK, lw=1, ls="--")
    labels = [_short(template, 32) for template in shown.index]
    right.set_yticks(range(len(shown)), labels, fontsize=9)
    right.set(ylim=(len(shown) - 0.4, -0.6), xlabel="weight (%), dashed: uniform")
    if len(shown) < len(ranked):
        right.set_ylabel(f"heaviest {len(shown)} of {len(ranked)}")
    right.grid(False, axis="y")
    data = ranked.rename_axis("template").rename("weight").reset_index()
    return fig, data


@_styled
def weight_map(weights: pd.DataFrame, top: int = 24) -> tuple[Figure, pd.DataFrame]:
    """Mean weight of templates, down, for groups of images, across.

    Cells say how many times its uniform weight a template has; a frame marks the
    heaviest of each group. Of more than `top` templates, those that are heaviest for
    any group.

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
    for (i, j), value in np.ndenumerate(cells):
        tint = "white" if value > 0.65 * edge else INK
        ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color=tint)
    for j, i in enumerate(cells.argmax(axis=0)):
        box = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec=VERMILION, lw=2)
        ax.add_patch(box)
    ax.set_xticks(range(shown.shape[1]), shown.columns, rotation=45, ha="right")
    ax.set_yticks(range(len(shown)), [_short(text, 34) for text in shown.index])
    ax.tick_params(labelsize=9, length=0)
    ax.grid(False)
    sns.despine(ax=ax, left=True, bottom=True)
    size = 1.2 + 0.42 * shown.shape[1]
    fig.set_size_inches(max(WIDTH, 2.2 + size), 1.4 + 0.24 * len(shown))
    data = weights.rename_axis("group").reset_index()
    return fig, data.melt("group", var_name="template", value_name="weight")


@_styled
def view_rows(
    pictures: Sequence[Any], frame: pd.DataFrame
) -> tuple[Figure, pd.DataFrame]:
    """Views of one image, a row per recipe; a frame marks those that are trusted.

    Args:
        pictures: one per row of the frame (PIL or uint8 [H, W, 3]).
        frame: recipe, view (0 is the image as it is), prediction, entropy in nats and
            kept (bool), as many rows for every recipe, in the order in which to draw.
    """
    _require(frame, ["recipe", "view", "prediction", "entropy", "kept"])
    groups = [group for _, group in frame.groupby("recipe", sort=False)]
    columns = len(groups[0])
    if len(pictures) != len(frame) or any(len(group) != columns for group in groups):
        raise ValueError("a picture for each row, and as many rows for every recipe")
    side = 7.6 / columns
    fig, axes = plt.subplots(
        len(groups),
        columns,
        squeeze=False,
        figsize=(side * columns + 0.4, (side + 0.42) * len(groups)),
    )
    for ax, picture, row in zip(axes.flat, pictures, frame.itertuples(), strict=True):
        ax.imshow(ImageOps.pad(_picture(picture), (128, 128), color="white"))
        name = _short(row.prediction, int(13.5 * side))
        ax.set_title(f"{name}\n{row.entropy:.2f}", fontsize=9, loc="center")
        if row.view == 0:
            ax.set_xlabel("original", fontsize=9)
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set(visible=row.kept, color=VERMILION, linewidth=3)
    for ax, group in zip(axes[:, 0], groups, strict=True):
        name = group["recipe"].iloc[0].replace("_", "\n")  # rows are an inch high
        ax.set_ylabel(name, fontsize=10)
    return fig, frame.reset_index(drop=True)


@_styled
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
    token, place = np.indices(gradient.shape).reshape(2, -1)
    columns = {"token": token, "coordinate": place}
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


@_styled
def before_and_after(
    image: Any, frame: pd.DataFrame, title: str = ""
) -> tuple[Figure, pd.DataFrame]:
    """A picture, and the probabilities of some classes by several methods.

    Args:
        image: the picture (PIL or uint8 [H, W, 3]).
        frame: class_name, method and probability, classes from top to bottom.
        title: above the picture, say its true class.
    """
    _require(frame, ["class_name", "method", "probability"])
    names, methods = frame["class_name"].unique(), frame["method"].unique()
    height = 0.8 / len(methods)
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 1.2 + 0.42 * max(len(names), 4)), width_ratios=[1, 1.8]
    )
    left.imshow(_picture(image))
    left.axis("off")
    left.set_title(textwrap.fill(title, 18), fontsize=10, loc="center")
    place = {name: row for row, name in enumerate(names)}
    for number, method in enumerate(methods):
        part = frame[frame["method"] == method]
        y = part["class_name"].map(place) + (number - (len(methods) - 1) / 2) * height
        width = 100 * part["probability"]
        right.barh(y, width, height, color=colour(method), label=method)
    right.set_yticks(range(len(names)), map(_short, names))
    right.set(ylim=(len(names) - 0.5, -0.5), xlabel="probability (%)")
    right.grid(False, axis="y")
    fig.legend(loc="outside lower center", ncols=min(4, len(methods)))
    return fig, frame.reset_index(drop=True)


@_styled
def difference_map(
    frame: pd.DataFrame, across: Sequence[str] = ("dataset",)
) -> tuple[Figure, pd.DataFrame]:
    """Accuracy gained or lost against a baseline: methods down, `across` across.

    A cell holds the difference in points over its 95 % interval. Bold: differs from
    zero at 5 % after Holm's correction.

    Args:
        frame: rows of `compare.compare`, in the order in which to draw.
        across: columns that name the cell's column, a line of its label each.
    """
    columns = ["method", "baseline", "difference", "ci_low", "ci_high", "p_holm"]
    _require(frame, [*across, *columns])
    heads = frame[list(across)].astype(str).agg("\n".join, axis=1)
    x = {head: i for i, head in enumerate(heads.unique())}
    y = {method: i for i, method in enumerate(frame["method"].unique())}
    cells = np.full((len(y), len(x)), np.nan)
    cells[frame["method"].map(y), heads.map(x)] = 100 * frame["difference"]
    edge = max(1.0, np.nanmax(np.abs(cells)))
    palette = sns.blend_palette([VERMILION, "white", BLUE], as_cmap=True)
    lines = ["\n".join(textwrap.fill(part, 11) for part in h.split("\n")) for h in x]
    margin = 0.3 + 0.09 * max(map(len, y))
    height = 0.9 + 0.16 * max(text.count("\n") for text in lines) + 0.46 * len(y)
    fig, ax = plt.subplots(figsize=(margin + max(2.4, 0.92 * len(x)), height))
    ax.imshow(cells, cmap=palette, aspect="auto", vmin=-1.5 * edge, vmax=1.5 * edge)
    for head, row in zip(heads, frame.itertuples(), strict=True):
        low, high = 100 * row.ci_low, 100 * row.ci_high
        weight = "bold" if row.p_holm < 0.05 else "normal"
        place = x[head], y[row.method]
        text: dict[str, Any] = {"ha": "center", "color": INK}
        points = f"{100 * row.difference:+.1f}"
        ax.text(*place, points, va="bottom", fontsize=10, fontweight=weight, **text)
        interval = f"[{low:.1f}, {high:.1f}]"
        ax.text(*place, interval, va="top", fontsize=8, **text)
    ax.set_xticks(range(len(x)), lines)
    ax.set_yticks(range(len(y)), y)
    ax.set_xticks(np.arange(len(x) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(y) + 1) - 0.5, minor=True)
    ax.tick_params(which="both", length=0, top=False, bottom=False)
    ax.xaxis.tick_top()
    ax.grid(False)
    ax.grid(True, which="minor", color="white")
    sns.despine(ax=ax, left=True, bottom=True)
    baseline = frame["baseline"].iloc[0]
    ax.set_xlabel(f"points against {baseline}\nbold: Holm-corrected p < 0.05")
    return fig, frame.reset_index(drop=True)


@_styled
def accuracy_and_calibration(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Accuracy across, calibration error up: right and low is better.

    Args:
        frame: a row per method: method, top1, its interval ci_low and ci_high, ece.
    """
    _require(frame, ["method", "top1", "ci_low", "ci_high", "ece"])
    fig, ax = plt.subplots(figsize=(WIDTH, 4.2))
    for number, row in enumerate(frame.itertuples()):
        middle, ends = 100 * row.top1, 100 * np.array([row.ci_low, row.ci_high])
        ax.errorbar(
            middle,
            100 * row.ece,
            xerr=np.abs(ends - middle)[:, None],
            fmt=MARKERS[number % len(MARKERS)],
            color=colour(row.method),
            markersize=8,
            elinewidth=1,
            label=row.method,
        )
    ax.set(xlabel="top-1 accuracy (%)", ylabel="expected calibration error (%)")
    ax.set_ylim(bottom=0)
    fig.legend(loc="outside right upper")
    return fig, frame.reset_index(drop=True)


@_styled
def gain_by_seconds(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Accuracy gained against what an image costs, on a logarithmic axis.

    Args:
        frame: a row per method: method, seconds (per image), difference, ci_low,
            ci_high (fractions).
    """
    _require(frame, ["method", "seconds", "difference", "ci_low", "ci_high"])
    fig, ax = plt.subplots(figsize=(WIDTH, 4.4))
    ax.axhline(0, color=INK, lw=1)
    for number, row in enumerate(frame.itertuples()):
        middle, ends = 100 * row.difference, 100 * np.array([row.ci_low, row.ci_high])
        ax.errorbar(
            1000 * row.seconds,
            middle,
            yerr=np.abs(ends - middle)[:, None],
            fmt=MARKERS[number % len(MARKERS)],
            color=colour(row.method),
            markersize=8,
            elinewidth=1,
            label=row.method,
        )
    ax.set(xlabel="milliseconds per image", ylabel="points gained", xscale="log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    fig.legend(loc="outside right upper")
    return fig, frame.reset_index(drop=True)


@_styled
def seconds_by_stage(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Seconds per image, a bar per method, its stages end to end.

    Args:
        frame: method, stage and seconds, in the order in which to draw.
    """
    _require(frame, ["method", "stage", "seconds"])
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
        _beside(ax, y, f"{total:,.1f}")
    ax.set_yticks(range(len(methods)), methods)
    ax.set(ylim=(len(methods) - 0.5, -0.6), xlabel="milliseconds per image")
    ax.grid(False, axis="y")
    fig.legend(loc="outside lower center", ncols=min(3, len(stages)))
    return fig, frame.reset_index(drop=True)


@_styled
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
        ax.imshow(ImageOps.pad(_picture(image), (256, 256), color="white"))
        ax.axis("off")
        place = np.add(top, (side + 0.12, 0))
        plain: dict[str, Any] = {"va": "top", "fontsize": 9.5}
        plain |= {"parse_math": False}  # "$" is a dollar
        x, y = place / size
        fig.text(x, y, bold, fontweight="bold", **plain)
        place -= (0, line * (bold.count("\n") + 1) + 0.02)
        under = "\n".join(rest)
        x, y = place / size
        fig.text(x, y, under, linespacing=1.2, **plain)
    data = pd.DataFrame({"card": range(len(texts)), "text": map("\n".join, texts)})
    return fig, data


@_styled
def waterfall(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """What each step from one method to another costs or buys, a panel per data set.

    Args:
        frame: a row per step, in order: dataset, step, accuracy after it, and its
            difference, ci_low, ci_high; the first step of a data set has none (NaN).
    """
    _require(frame, ["dataset", "step", "top1", "difference", "ci_low", "ci_high"])
    panels = list(frame.groupby("dataset", sort=False))
    columns = min(3, len(panels))
    rows, steps = math.ceil(len(panels) / columns), frame["step"].nunique()
    fig, axes = plt.subplots(
        rows,
        columns,
        squeeze=False,
        sharey=True,
        figsize=(max(WIDTH, 2.0 + 2.1 * columns), 0.7 + rows * (0.5 + 0.3 * steps)),
    )
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, (name, part) in zip(axes.flat, panels, strict=False):
        values = 100 * part[["top1", "difference", "ci_low", "ci_high"]].to_numpy()
        for y, (after, step, low, high) in enumerate(values):
            if np.isnan(step):
                ax.barh(y, after, height=0.62, color=FAINT)
            else:
                before, shade = after - step, BLUE if step >= 0 else VERMILION
                ax.barh(y, step, left=before, height=0.62, color=shade)
                ax.plot([before + low, before + high], [y, y], color=INK, lw=1.2)
                ax.plot([before, before], [y - 1, y], color=INK, lw=0.7, ls=":")
            text = f"{after:.1f} %" if np.isnan(step) else f"{step:+.1f}"
            end = max(after, 0 if np.isnan(step) else before + max(high, 0, step))
            ax.text(end + 1.5, y, text, va="center", fontsize=10)
        ax.set_title(name)
        ax.set_yticks(range(len(part)), part["step"])
        ax.set_ylim(len(part) - 0.4, -0.6)
        ax.set_xlim(0, 118)
        ax.set_xticks([0, 50, 100])
        ax.grid(False, axis="y")
    for ax in axes[-1]:
        ax.set_xlabel("top-1 accuracy (%)")
    return fig, frame.reset_index(drop=True)


@_styled
def modality_gap(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Features of two kinds in the plane; a line joins the two means.

    Args:
        frame: a row per feature: panel, kind (two of them), x and y.
    """
    _require(frame, ["panel", "kind", "x", "y"])
    panels, kinds = list(frame.groupby("panel", sort=False)), frame["kind"].unique()
    if len(kinds) != 2:
        raise ValueError(f"two kinds of features, not {list(kinds)}")
    fig, axes = plt.subplots(
        1, len(panels), squeeze=False, figsize=(3.4 * len(panels), 3.9)
    )
    for ax, (title, part) in zip(axes.flat, panels, strict=True):
        for kind, shade in zip(kinds, (BLUE, VERMILION), strict=True):
            some = part[part["kind"] == kind]
            style = {"color": shade, "alpha": 0.35, "ms": 4, "mew": 0, "label": kind}
            ax.plot(some["x"], some["y"], "o", **style)
        means = part.groupby("kind", sort=False)[["x", "y"]].mean().loc[kinds]
        ax.plot(means["x"], means["y"], color=INK, lw=1.5, zorder=3)
        for (x, y), shade in zip(means.to_numpy(), (BLUE, VERMILION), strict=True):
            ax.plot(x, y, "o", color=shade, ms=10, mec="white", mew=1.5, zorder=4)
        ax.set(title=title, xlabel="first component")
        ax.set_aspect("equal", "datalim")
    axes[0, 0].set_ylabel("second component")
    keys = axes[0, 0].get_legend_handles_labels()
    legend = fig.legend(*keys, loc="outside lower center", ncols=2, markerscale=2)
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    return fig, frame.reset_index(drop=True)


def save(folder: str | Path, name: str, fig: Figure, data: pd.DataFrame) -> Path:
    """Write `<folder>/figures/<name>.png` and, beside it, the `.csv` of its numbers."""
    path = _named(Path(folder) / "figures", name, ".png")
    with replacing(path) as temporary, plt.rc_context():
        mpl.rcdefaults()  # a user's settings may ask for other sizes and for LaTeX
        # No software version inside: the same figure gives the same bytes.
        fig.savefig(temporary, format="png", metadata={"Software": None})
    write_csv(path.with_suffix(".csv"), data)
    return path


def save_table(folder: str | Path, name: str, frame: pd.DataFrame) -> Path:
    """Write `<folder>/tables/<name>.csv`."""
    return write_csv(_named(Path(folder) / "tables", name, ".csv"), frame)


def _named(folder: Path, name: str, suffix: str) -> Path:
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"name {name!r} must be a plain file name, as in '02_votes'")
    return folder / f"{name}{suffix}"
