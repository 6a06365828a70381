"""What chapter 08 draws: accuracy estimated without labels, beside the true one."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from helpers.figures.style import (
    FAINT,
    INK,
    MARKERS,
    WIDTH,
    called,
    colour,
    label_rows,
    require,
    styled,
)
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
        style = {"ls": "", "ms": 5, "mew": 0.4, "mec": "white"}
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
            ax.plot(x, y, marker, color=shade, label=called(label), **style)
        rows = pure[pure["estimator"] == name]
        error = 100 * rows.groupby("sets")["error"].mean().mean()
        ax.set(title=f"{name}\noff by {error:.1f} points", xlim=(0, 100), ylim=(0, 100))
        ax.set_aspect("equal")
        ax.set_xlabel("true accuracy (%)")
    axes[0, 0].set_ylabel("estimated accuracy (%)")
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=3, markerscale=1.3)
    return fig, data


@styled
def estimated_gains(
    estimated: pd.Series, names: Mapping[str, str], measured: pd.DataFrame
) -> tuple[Figure, pd.DataFrame]:
    """Points that each method is estimated to gain, the most first, and the true ones.

    Args:
        estimated: gains over one prompt (fractions), by method.
        names: of the methods.
        measured: difference, ci_low and ci_high (fractions), by method; empty where
            images have no labels.
    """
    data = estimated.sort_values(ascending=False).to_frame("estimated")
    data = data.join(measured.reindex(columns=["difference", "ci_low", "ci_high"]))
    fig, ax = plt.subplots(figsize=(WIDTH, 1.1 + 0.33 * len(data)))
    ax.axvline(0, color=INK, lw=1)
    for y, row in enumerate((100 * data).itertuples()):
        shade = colour(row.Index)
        ax.plot([row.ci_low, row.ci_high], [y, y], color=shade, lw=2)
        ax.plot(row.difference, y, "D", mfc="white", mec=shade, ms=7, mew=1.6)
        ax.plot(row.estimated, y, "o", color=shade, ms=7)
    style = {"color": INK, "marker": "o", "ms": 7}
    keys = [Line2D([], [], ls="", label="estimated", **style)]
    if len(measured):
        style |= {"marker": "D", "mfc": "white", "mew": 1.6}
        keys.append(Line2D([], [], lw=2, label="measured, 95% interval", **style))
    label_rows(ax, [names[method] for method in data.index])
    ax.set_xlabel("points gained over one prompt")
    fig.legend(handles=keys, loc="outside lower center", ncols=2)
    return fig, data.reset_index(names="method")
