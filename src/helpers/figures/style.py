"""The study's style: colours, type, and how a figure is saved with its numbers."""

import functools
import math
import re
import textwrap
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image

from helpers.files import replacing
from helpers.methods import registry
from helpers.results.names import named
from helpers.results.predictions import write_csv

WIDTH = 6.4  # inches: 11-point type stays legible when a page shows it at half width
INK = "#333333"
FAINT = "#bbbbbb"
BLUE, VERMILION = "#0173b2", "#d55e00"
ACCURACY = "#9ecae1"
MARKERS = "oDs^vPX<>*"


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
    """Give every later figure of the session the study's style, and nothing of the
    user's own settings."""
    mpl.rcdefaults()  # leaves the backend
    plt.rcParams.update(_style())


def styled(draw: Callable) -> Callable:
    """Draw in the study's style, whatever the session's settings."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with plt.rc_context():
            use_style()
            fig, data = draw(*args, **kwargs)
            fig.draw_without_rendering()  # ticks take the style in force at first draw
            return fig, data

    return wrapper


def colour(method: str) -> str:
    """The colour of a method as "#rrggbb", the same in every figure and run.

    A name that begins like the key of a method of the registry that has a colour gets
    that, in a shade of its own if more follows. Any other name gets a hue from its
    letters. What tables call a method has the colour of its key.
    """
    method = _key(method)
    name, known = _letters(method), colour_key(method)
    digest = zlib.crc32(name.encode())
    if not known:
        return sns.color_palette("husl", 12, desat=0.8).as_hex()[digest % 12]
    base = registry.colours()[known]
    if name == _letters(known):
        return base
    shades = sns.blend_palette(["black", base, "white"], 21).as_hex()
    return (shades[5:9] + shades[12:17])[digest % 9]


def _key(method: str) -> str:
    """The key of a method that tables call so; any other name as it is."""
    keys = {name: key for key, name in registry.names().items() if name}
    return keys.get(method, method)


def _letters(method: str) -> str:
    return "".join(sign for sign in method.casefold() if sign.isalnum())


def colour_key(method: str) -> str:
    """The longest key with a colour that the name begins with, or nothing."""
    name = _letters(_key(method))
    known = [key for key in registry.colours() if name.startswith(_letters(key))]
    return max(known, key=len, default="")


def level_colours(hue: str, levels: Sequence[str]) -> dict[str, str]:
    """A colour for each level: of methods their own, where these can be told apart.

    More than two shades of one colour, or greys, cannot.
    """
    if hue == "method":
        hues = [_hue(level) for level in levels]
        if max(map(hues.count, hues)) < 3:
            return {level: colour(level) for level in levels}
    palette = sns.color_palette("colorblind", len(levels)).as_hex()
    return dict(zip(levels, palette, strict=True))


def _hue(method: str) -> str:
    red, green, blue = mpl.colors.to_rgb(colour(method))
    grey = max(red, green, blue) - min(red, green, blue) < 0.05
    return "grey" if grey else colour_key(method) or method


def called(name: str) -> str:
    """What figures call a data set or a prediction file; any other name stays."""
    return named(registry.title(name))


def wrapped(name: str, width: int) -> str:
    """`called`, in lines of at most so many letters."""
    return textwrap.fill(called(name), width)


def short(text: str, width: int = 22) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(f"the table lacks {missing}; it has {list(frame.columns)}")
    if frame.empty:
        raise ValueError("nothing to draw: the table has no rows")


def panel_grid(
    count: int, wide: tuple[float, float], high: tuple[float, float], **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of `count` panels, at most three in a row: its axes [rows, columns].

    `wide` and `high` are inches: of what surrounds the panels, and of each panel.
    """
    rows = math.ceil(count / 3)
    columns = math.ceil(count / rows)
    size = (max(WIDTH, wide[0] + wide[1] * columns), high[0] + high[1] * rows)
    fig, axes = plt.subplots(rows, columns, squeeze=False, figsize=size, **options)
    for ax in axes.flat[count:]:
        ax.remove()
    return fig, axes


def beside(ax: plt.Axes, y: float, text: str) -> None:
    """Text to the right of the axes, at the height of the row y."""
    across = ax.get_yaxis_transform()
    ax.text(1.02, y, text, transform=across, va="center", fontsize=10)


def label_rows(
    ax: plt.Axes,
    labels: Sequence[str],
    above: float = 0.5,
    below: float = 0.5,
    **style: Any,
) -> None:
    """Rows 0, 1, … from top to bottom with their labels, and some room at the ends."""
    ax.set_yticks(range(len(labels)), labels, **style)
    ax.set_ylim(len(labels) - 1 + below, -above)
    ax.grid(False, axis="y")


def label_cells(
    ax: plt.Axes, columns: Sequence[str], rows: Sequence[str], **style: Any
) -> None:
    """Names of a heat map's columns and rows, without ticks, grid and frame.

    `style` is that of the columns' names.
    """
    ax.set_xticks(range(len(columns)), columns, **style)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.grid(False)
    sns.despine(ax=ax, left=True, bottom=True)


def gains_and_losses(ax: plt.Axes, cells: np.ndarray, limit: float) -> None:
    """A heat map of cells [rows, columns]: gains blue, losses red, zero white."""
    palette = sns.blend_palette([VERMILION, "white", BLUE], as_cmap=True)
    ax.imshow(cells, cmap=palette, aspect="auto", vmin=-limit, vmax=limit)


def two_lines(
    ax: plt.Axes, x: int, y: int, upper: str, lower: str, bold: bool, size: float = 10
) -> None:
    """In a heat map's cell a number, bold or not, and what belongs to it in small."""
    weight = "bold" if bold else "normal"
    ax.text(x, y, upper, ha="center", va="bottom", fontsize=size, fontweight=weight)
    ax.text(x, y, lower, ha="center", va="top", fontsize=8)


def number_in_cell(
    ax: plt.Axes, x: int, y: int, text: str, size: float, dark: bool, **style: Any
) -> None:
    """A number in a heat map's cell, white where the cell is dark."""
    style |= {"fontsize": size, "color": "white" if dark else INK}
    ax.text(x, y, text, ha="center", va="center", **style)


def logarithmic(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5, 10, …, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def as_picture(image: Any, side: int = 256) -> Image.Image:
    """RGB picture of a PIL image or a uint8 array [H, W] or [H, W, 3]."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image))
    image = image.convert("RGB")
    image.thumbnail((side, side))
    return image


def intervals(
    ax: plt.Axes, y: np.ndarray, frame: pd.DataFrame, value: str, shade: str
) -> None:
    """Dots with horizontal intervals, fractions drawn in percent."""
    ax.hlines(y, 100 * frame["ci_low"], 100 * frame["ci_high"], color=FAINT, lw=2)
    ax.plot(100 * frame[value], y, "o", color=shade, markersize=5.5)


def save(folder: str | Path, name: str, fig: Figure, data: pd.DataFrame) -> Path:
    """Write `<folder>/figures/<name>.png` and, beside it, the `.csv` of its numbers."""
    path = _file(Path(folder) / "figures", name, ".png")
    with replacing(path) as temporary, plt.rc_context():
        mpl.rcdefaults()  # a user's settings may ask for other sizes and for LaTeX
        # No software version inside: the same figure gives the same bytes.
        fig.savefig(temporary, format="png", metadata={"Software": None})
    write_csv(path.with_suffix(".csv"), data)
    return path


def save_table(folder: str | Path, name: str, frame: pd.DataFrame) -> Path:
    """Write `<folder>/tables/<name>.csv`."""
    return write_csv(_file(Path(folder) / "tables", name, ".csv"), frame)


def _file(folder: Path, name: str, suffix: str) -> Path:
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"name {name!r} must be a plain file name, as in '02_votes'")
    return folder / f"{name}{suffix}"
