"""What chapter 08 draws: accuracy estimated without labels against the true one."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from helpers.figures.style import FAINT, INK, MARKERS, require, styled
from helpers.results.trials import MIXTURES

TELLING = ("average confidence", "ATC, entropy", "combination")


@styled
def estimated_against_true(
    measured: pd.DataFrame, estimators: Sequence[str] = TELLING
) -> tuple[Figure, pd.DataFrame]:
    """Small data sets, each at its true and its estimated accuracy.

    A dot is a trial, its accuracies are means over the methods. On the dashed line the
    estimate is right. A title's number is the mean error of a single method, over the
    data sets without mixtures, each of which counts the same.

    Args:
        measured: of `trials.measure`.
        estimators: a panel each.
    """
    require(measured, ["trial", "kind", "sets", "estimator", "estimated", "true"])
    unknown = set(estimators) - set(measured["estimator"])
    if unknown:
        known = ", ".join(measured["estimator"].unique())
        raise ValueError(f"no estimator {sorted(unknown)}; there are {known}")
    table = measured[measured["estimator"].isin(estimators)]
    table = table.assign(error=(table["estimated"] - table["true"]).abs())
    keys = ["estimator", "trial", "kind", "sets"]
    data = table.groupby(keys, sort=False)[["true", "estimated", "error"]].mean()
    data = data.reset_index()
    pure = data[data["kind"] != MIXTURES]
    names = list(pure["sets"].unique())
    shades = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    fig, axes = plt.subplots(
        1,
        len(estimators),
        squeeze=False,
        sharex=True,
        sharey=True,
        figsize=(0.6 + 2.9 * len(estimators), 4.2),
    )
    for ax, name in zip(axes.flat, estimators, strict=True):
        ax.plot([0, 100], [0, 100], "--", color=INK, lw=1, zorder=1)
        here = data[data["estimator"] == name]
        mixed = here[here["kind"] == MIXTURES]
        look = {"ls": "", "ms": 5, "mew": 0.4, "mec": "white"}
        points = [(MIXTURES, "o", mixed, FAINT)] if len(mixed) else []
        points += [
            (
                label,
                MARKERS[k % len(MARKERS)],
                here[here["sets"] == label],
                shades[label],
            )
            for k, label in enumerate(names)
        ]
        for label, marker, part, shade in points:
            x, y = 100 * part["true"], 100 * part["estimated"]
            ax.plot(x, y, marker, color=shade, label=label, **look)
        rows = pure[pure["estimator"] == name]
        error = 100 * rows.groupby("sets")["error"].mean().mean()
        ax.set(title=f"{name}\noff by {error:.1f} points", xlim=(0, 100), ylim=(0, 100))
        ax.set_aspect("equal")
        ax.set_xlabel("true accuracy (%)")
    axes[0, 0].set_ylabel("estimated accuracy (%)")
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=4, markerscale=1.3)
    return fig, data
