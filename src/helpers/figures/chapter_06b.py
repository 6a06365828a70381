"""What chapter 06b draws: what moves a gain."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from helpers.figures.style import INK, VERMILION, WIDTH, label_rows, require, styled
from helpers.results.compare import DECIDED


@styled
def causes(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """How far each cause moves what it acts on, with 95% intervals.

    Filled: `compare.corrected` finds a change. A cross: the change from the first dose
    to a peak or trough, which the line through all doses hides.

    Args:
        frame: cause, subject, difference, ci_low, ci_high, verdict, turned_by.
    """
    columns = ["difference", "ci_low", "ci_high", "verdict", "turned_by"]
    require(frame, ["cause", "subject", *columns])
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
            style = {"color": INK, "markersize": 6, "markeredgewidth": 1.5}
            ax.plot(100 * row.difference, y, "o", markerfacecolor=inside, **style)
            ax.plot(100 * row.turned_by, y, "X", color=VERMILION, markersize=8)
    fig.set_figheight(0.9 + 0.2 * len(labels))
    label_rows(ax, labels)
    causes = set(frame["cause"])
    for tick in ax.get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text() in causes else "normal")
    label = "change (points)\nfilled: a change, after correction"
    if frame["turned_by"].notna().any():
        label += "\ncross: to a peak or trough in between"
    ax.set_xlabel(label)
    return fig, frame.reset_index(drop=True)
