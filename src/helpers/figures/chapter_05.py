"""What chapter 05 draws: images and texts apart on the sphere."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from helpers.figures.style import BLUE, INK, VERMILION, require, styled


@styled
def modality_gap(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Features of two kinds in the plane; a line joins the two means.

    Args:
        frame: a row per feature: panel, kind (two of them), x and y.
    """
    require(frame, ["panel", "kind", "x", "y"])
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
