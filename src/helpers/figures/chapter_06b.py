"""What chapter 06b draws: wordings one by one, and what moves a gain."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from helpers.figures.style import (
    INK,
    MARKERS,
    WIDTH,
    colour,
    label_rows,
    require,
    short,
    styled,
)
from helpers.results.compare import DECIDED


@styled
def wordings(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Accuracy of each method with each wording, with 95 % intervals.

    Args:
        frame: wording, method, top1, ci_low, ci_high, in the order in which to draw.
    """
    require(frame, ["wording", "method", "top1", "ci_low", "ci_high"])
    rows = {text: y for y, text in enumerate(frame["wording"].unique())}
    methods = frame["method"].unique()
    fig, ax = plt.subplots(figsize=(WIDTH, 1.1 + 0.26 * len(rows)))
    for number, method in enumerate(methods):
        part = frame[frame["method"] == method]
        y = part["wording"].map(rows) + 0.3 * (number / max(1, len(methods) - 1) - 0.5)
        shade = colour(method)
        ax.hlines(y, 100 * part["ci_low"], 100 * part["ci_high"], color=shade, lw=1.6)
        ax.plot(100 * part["top1"], y, MARKERS[number], color=shade, label=method)
    label_rows(ax, [short(text, 40) for text in rows], fontsize=9)
    ax.set_xlabel("top-1 accuracy (%)")
    fig.legend(loc="outside lower center", ncols=len(methods))
    return fig, frame.reset_index(drop=True)


@styled
def causes(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """How far each cause moves what it acts on, with 95 % intervals.

    Filled: `compare.corrected` finds a change.

    Args:
        frame: cause, subject, difference, ci_low, ci_high, verdict.
    """
    require(frame, ["cause", "subject", "difference", "ci_low", "ci_high", "verdict"])
    labels: list[str] = []
    fig, ax = plt.subplots(figsize=(WIDTH, 0.9))
    ax.axvline(0, color=INK, lw=1)
    for cause, group in frame.groupby("cause", sort=False):
        labels.append(cause)
        for row in group.itertuples():
            y = len(labels)
            labels.append(row.subject)
            ax.plot([100 * row.ci_low, 100 * row.ci_high], [y, y], color=INK, lw=1.8)
            inside = INK if row.verdict in DECIDED else "white"
            look = {"color": INK, "markersize": 6, "markeredgewidth": 1.5}
            ax.plot(100 * row.difference, y, "o", markerfacecolor=inside, **look)
    fig.set_figheight(0.9 + 0.2 * len(labels))
    label_rows(ax, labels)
    causes = set(frame["cause"])
    for tick in ax.get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text() in causes else "normal")
    ax.set_xlabel("change (points)\nfilled: a change, after correction")
    return fig, frame.reset_index(drop=True)
