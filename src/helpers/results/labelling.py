"""Which images to label first, and whether the labels settle which method is better.

Images on which two methods predict the same tell nothing about their difference: it is

    accuracy(a) - accuracy(b) = D / N * (share of wins - share of losses among the D)

for the D of N images on which a and b disagree; a win is an image that only a gets
right. So only these D are sampled, each with the same chance, and no label is spent on
the others. This is disagreement sampling with a plain estimate; sampling in proportion
to an expected loss with weights (active testing, Kossen et al. 2021, arXiv 2103.05331)
would need a model of that loss.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from helpers.data.dataset import UNKNOWN
from helpers.results import compare, metrics


def label_first(
    logits: Mapping[str, ArrayLike], count: int = 20, seed: int = 0
) -> np.ndarray:
    """The images whose labels settle soonest which of two or three methods is better.

    The rule: of the images on which the methods do not all agree, a systematic sample.
    They are put in order of the first method's prediction, then of its confidence, and
    every k-th is taken from a random start. So each has the same chance, and the sample
    spreads over classes and over sure and unsure images. For each two of the methods,
    the images in it on which these two disagree are a fair sample of all such images.

    Args:
        logits: method -> [N, C], best candidates first.
        count: labels that can be given.
        seed: of the start and of the order.

    Returns:
        At most `count` positions in random order, so that one may stop early; fewer
        where the methods disagree on fewer images, none where they never do.
    """
    if len(logits) < 2 or count < 1:
        raise ValueError(
            f"two methods and a count of 1 at least, not {len(logits)} and {count}"
        )
    shapes = {name: list(np.shape(values)) for name, values in logits.items()}
    if len({*map(tuple, shapes.values())}) > 1:
        raise ValueError(f"methods must be about the same images and classes: {shapes}")
    first, *others = (metrics.as_array(values) for values in logits.values())
    guess = first.argmax(axis=1)
    apart = np.any([guess != other.argmax(axis=1) for other in others], axis=0)
    sure = np.sort(first, axis=1)
    order = np.lexsort((sure[:, -1] - sure[:, -2], guess))
    order = order[apart[order]]
    rng = np.random.default_rng(seed)
    if len(order) > count:
        step = len(order) / count
        start = rng.uniform(0, step)
        order = order[(start + step * np.arange(count)).astype(int)]
    return rng.permutation(order)


def settled(labels: ArrayLike, a: ArrayLike, b: ArrayLike) -> dict[str, float]:
    """Is method a better than b on these images, as far as some labels tell?

    The labelled images on which a and b disagree must be a fair sample of all such
    images: labels of `label_first` or of images picked at random, not of images picked
    by eye. Other labels are not looked at.

    Args:
        labels: integers [N], -1 where nobody has said.
        a, b: predictions [N] on all N images.

    Returns:
        difference of the accuracies on the N images, NaN where no label tells; ci_low
        and ci_high, 95 %, from the exact interval of the share of wins among wins and
        losses, so that it leaves out 0 if and only if p of McNemar's exact test is
        below 5 %; p; wins, losses; disagree, the images on which the methods differ;
        labelled, how many of them have labels; more, how many further labels of such
        images would probably (80 %) settle it if the shares stay as they are: 0 where
        it is settled, infinity where not even all would do.
    """
    labels, a, b = (np.asarray(values) for values in (labels, a, b))
    if not labels.shape == a.shape == b.shape or labels.ndim != 1 or not labels.size:
        raise ValueError(
            "labels and predictions must be of one length, at least 1, not "
            f"{list(labels.shape)}, {list(a.shape)} and {list(b.shape)}"
        )
    apart = a != b
    known = apart & (labels != UNKNOWN)
    disagree, labelled = int(apart.sum()), int(known.sum())
    share = disagree / len(labels)
    found = {"disagree": disagree, "labelled": labelled}
    if not labelled:
        unknown = {"difference": math.nan if disagree else 0.0, "p": 1.0}
        unknown |= {"ci_low": -share, "ci_high": share, "wins": 0, "losses": 0}
        return {**unknown, **found, "more": math.inf if disagree else 0}
    right = labels[known] == a[known], labels[known] == b[known]
    p = compare.mcnemar(*right)
    wins, losses = (int(r.sum()) for r in right)  # never both on one image
    decided = wins + losses
    low, high = proportion_confint(wins, decided, method="beta") if decided else (0, 1)
    factor = share * max(decided, 1) / labelled
    difference = (wins - losses) / labelled
    return {
        "difference": share * difference,
        "ci_low": factor * (2 * low - 1),
        "ci_high": factor * (2 * high - 1),
        "p": p,
        "wins": wins,
        "losses": losses,
        **found,
        "more": 0
        if p < compare.LEVEL
        else _more(labelled, disagree, decided, abs(difference)),
    }


def enough(a: ArrayLike, b: ArrayLike, gain: float) -> float:
    """How many labels of images on which a and b differ would show this gain.

    By the corrected test's rule for one comparison: in four cases out of five, if every
    such label is a win or a loss.

    Args:
        a, b: predictions [N].
        gain: accuracy of a minus that of b on the N images.

    Returns:
        A whole number, or infinity where labels of all such images would not do.
    """
    apart = np.asarray(a) != np.asarray(b)
    if not apart.any():
        return math.inf
    return 1 + _more(1, int(apart.sum()), 1, abs(gain) / apart.mean())


def _more(labelled: int, disagree: int, decided: int, difference: float) -> float:
    """Labels until a difference among disagreeing images is likely to be seen."""
    if not decided:
        return math.inf
    totals = range(labelled + 1, disagree + 1)

    def seen(total: int) -> bool:
        se = math.sqrt(decided / labelled / total)
        return compare.detectable(se, total) <= difference

    at = bisect_left(totals, True, key=seen)
    return totals[at] - labelled if at < len(totals) else math.inf
