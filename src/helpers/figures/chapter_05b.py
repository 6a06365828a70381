"""What chapter 05b draws: how sure a teacher is of its labels, and how often right."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from helpers.figures.style import BLUE, INK, VERMILION, require, styled


@styled
def sure_labels(frame: pd.DataFrame, threshold: float) -> tuple[Figure, pd.DataFrame]:
    """Images with a right and with a wrong label by the teacher's confidence.

    A panel per teacher. Dashed: the threshold, from which on a label is learned.

    Args:
        frame: a row per image: teacher, confidence (0 to 1) and right (bool).
    """
    require(frame, ["teacher", "confidence", "right"])
    panels = list(frame.groupby("teacher", sort=False))
    fig, axes = plt.subplots(
        1, len(panels), squeeze=False, sharey=True, figsize=(3.6 * len(panels), 3.6)
    )
    for ax, (teacher, part) in zip(axes.flat, panels, strict=True):
        shares = [
            100 * part.loc[part["right"] == right, "confidence"] for right in (1, 0)
        ]
        style = {"color": [BLUE, VERMILION], "label": ["right label", "wrong label"]}
        ax.hist(shares, bins=np.linspace(0, 100, 21), stacked=True, **style)
        ax.axvline(100 * threshold, color=INK, lw=1.5, ls="--")
        sure = part[part["confidence"] >= threshold]
        accurate = f",\n{sure['right'].mean():.0%} of them right" * (len(sure) > 0)
        learned = f"{len(sure):,} of {len(part):,} are learned"
        ax.set_title(f"{teacher}\n{learned}{accurate}")
        ax.set_xlabel("confidence (%)")
    axes[0, 0].set_ylabel("images of the pool")
    keys = axes[0, 0].get_legend_handles_labels()
    fig.legend(*keys, loc="outside lower center", ncols=2)
    return fig, frame.reset_index(drop=True)
