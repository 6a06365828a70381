"""What chapter 06c draws: gains against what they cost, and what is left of a gain."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from helpers.figures.style import (
    INK,
    MARKERS,
    WIDTH,
    beside,
    called,
    label_rows,
    panel_grid,
    require,
    styled,
)


@styled
def gain_by_price(frame: pd.DataFrame, full: int) -> tuple[Figure, pd.DataFrame]:
    """Points gained against views per image, a panel per method and a line per rule.

    Dashed: a quarter of the full price, and no gain. Four bands could not be told
    apart: the last two rules have one.

    Args:
        frame: method, rule, views (an image's mean), difference, ci_low, ci_high
            (fractions), in the order in which to draw.
        full: views at full price.
    """
    require(frame, ["method", "rule", "views", "difference", "ci_low", "ci_high"])
    methods, rules = frame["method"].unique(), frame["rule"].unique()
    panels = len(methods) + 1  # the last one is the legend's
    shared = {"sharex": True, "sharey": True}
    fig, axes = panel_grid(panels, (1.0, 2.5), (0.6, 2.5), **shared)
    shades = sns.color_palette("colorblind", len(rules))
    for ax, method in zip(axes.flat, methods, strict=False):
        part = frame[frame["method"] == method]
        for rule, shade, sign in zip(rules, shades, MARKERS, strict=False):
            line = part[part["rule"] == rule].sort_values("views")
            low, high = 100 * line["ci_low"], 100 * line["ci_high"]
            if rule in rules[-2:]:
                ax.fill_between(line["views"], low, high, color=shade, alpha=0.1, lw=0)
            if len(line) == 1:  # no band to be seen
                ax.vlines(line["views"], low, high, color=shade)
            y = 100 * line["difference"]
            ax.plot(line["views"], y, f"{sign}-", color=shade, ms=4.5, label=rule)
        ax.axhline(0, color=INK, lw=1, ls="--", zorder=1)
        ax.axvline(full / 4, color=INK, lw=1, ls="--", zorder=1)
        ax.set(title=called(method), xlim=(0, full + 1))
    axes.flat[len(methods)].axis("off")
    axes.flat[len(methods)].legend(
        *axes.flat[0].get_legend_handles_labels(), loc="center"
    )
    for ax in axes.flat[max(0, len(methods) - axes.shape[1]) : len(methods)]:
        ax.tick_params(labelbottom=True)
    fig.supxlabel("views encoded per image", fontsize=11)
    fig.supylabel("points gained", fontsize=11)
    return fig, frame.reset_index(drop=True)


LIMITS = 0, 150
"""Percent of a gain; intervals that reach further are cut off."""


@styled
def gain_kept(frame: pd.DataFrame, aim: float) -> tuple[Figure, pd.DataFrame]:
    """The share of the full price's gain that is kept, a row per method and rule.

    On the right: the share of the full price. Dashed: the aim, and all of the gain. An
    arrow: the interval goes on beyond `LIMITS`.

    Args:
        frame: method, rule, kept, ci_low, ci_high (fractions of the gain) and price
            (fraction of the full price), in the order in which to draw.
    """
    require(frame, ["method", "rule", "kept", "ci_low", "ci_high", "price"])
    rules = list(frame["rule"].unique())
    shades = sns.color_palette("colorblind", len(rules))
    fig, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.32 * len(frame)))
    for y, row in enumerate(frame.itertuples()):
        number = rules.index(row.rule)
        ends = np.clip([100 * row.ci_low, 100 * row.ci_high], *LIMITS)
        ax.hlines(y, *ends, color=shades[number], lw=1.6)
        further = 100 * row.ci_low < LIMITS[0], 100 * row.ci_high > LIMITS[1]
        for end, arrow, beyond in zip(ends, "<>", further, strict=True):
            ax.plot(end, y, arrow * beyond, color=shades[number], markersize=7)
        label = "" if row.rule in frame["rule"].iloc[:y].to_list() else row.rule
        style = {"color": shades[number], "markersize": 6, "label": label}
        ax.plot(np.clip(100 * row.kept, *LIMITS), y, MARKERS[number], **style)
        beside(ax, y, f"{row.price:.0%}")
    for x in (100 * aim, 100):
        ax.axvline(x, color=INK, lw=1, ls="--", zorder=1)
    names = frame["method"].where(~frame["method"].duplicated(), "")
    label_rows(ax, list(map(called, names)), above=0.8)
    ax.text(1.02, 1.0, "price", transform=ax.transAxes, va="bottom", fontsize=10)
    ax.set_xlabel("share of the gain that is kept (%)")
    fig.legend(loc="outside lower center", ncols=min(3, len(rules)))
    return fig, frame.reset_index(drop=True)
