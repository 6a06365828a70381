"""How right, how sure, and how honestly sure: metrics of logits [N, C].

Logits are numpy arrays or torch tensors of any float type, logit scale included;
probabilities p are passed as log p. Inside, everything is float64. A tie goes to the
class that comes first, as in arg-max. Images whose label is unknown, -1, are left out
of what needs labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import entr, log_softmax
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from helpers.data.dataset import UNKNOWN

BINS = 15  # of confidence
BLOCK = 4096  # images scored at once
FEWEST = 3  # images that tell an interval: of fewer, resamples are mostly all alike


def as_array(values: ArrayLike) -> np.ndarray:
    """Numpy array of an array, a list, or a torch tensor on any device.

    Tensors of floats come as float64, because numpy has no bfloat16.
    """
    if hasattr(values, "detach"):
        tensor: Any = values.detach().cpu()
        values = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    return np.asarray(values)


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = as_array(logits), as_array(labels)
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits must be [images, classes], not {list(logits.shape)}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must be [{len(logits)}], one per row of logits, "
            f"not {list(labels.shape)}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    outside = np.flatnonzero((labels < UNKNOWN) | (labels >= logits.shape[1]))
    if outside.size:
        raise ValueError(
            f"label {labels[outside[0]]} at position {outside[0]} is not in "
            f"0..{logits.shape[1] - 1}, the classes of the logits, nor {UNKNOWN}"
        )
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if broken.size:
        raise ValueError(
            f"logits of {broken.size} images are not finite, first at positions "
            f"{broken[:3].tolist()}"
        )
    return logits, labels.astype(np.int64)


def scores(logits: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    """Every per-image score; the other metrics are means of its columns.

    Args:
        logits: [N, C], finite.
        labels: integers [N] in 0..C-1, -1 where unknown.

    Returns:
        A row per image: `prediction`; `hit`; `confidence`, the largest probability;
        `nll`, minus the log
        of the label's probability, in nats; `brier`, the squared distance between
        probabilities and one-hot label, summed over the classes (Brier 1950; 0 to 2);
        `entropy` of the probabilities in nats. Where the label is unknown, hit,
        nll and brier are NaN.
    """
    logits, labels = _checked(logits, labels)
    # In blocks: 50,000 images of 1,000 classes would take 400 MB per float64 array.
    blocks = range(0, len(logits), BLOCK)
    parts = [_scores(logits[i : i + BLOCK], labels[i : i + BLOCK]) for i in blocks]
    images = pd.concat(parts, ignore_index=True)
    unknown = labels == UNKNOWN
    if unknown.any():
        of_label = ["hit", "nll", "brier"]
        images = images.astype(dict.fromkeys(of_label, float))
        images.loc[unknown, of_label] = np.nan
    return images


def _labelled(logits: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    """The rows of `scores` of images that have a label, of which there must be one."""
    images = scores(logits, labels)
    if images["hit"].isna().all():
        raise ValueError(f"none of the {len(images)} images has a label")
    return images.dropna()


def _scores(logits: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    logits = logits.astype(np.float64)
    rows = np.arange(len(logits))
    log_p = log_softmax(logits, axis=1)
    p = np.exp(log_p)
    prediction = logits.argmax(axis=1)
    return pd.DataFrame(
        {
            "prediction": prediction,
            "hit": prediction == labels,
            "confidence": p.max(axis=1),
            "nll": -log_p[rows, labels],
            "brier": (p**2).sum(axis=1) - 2 * p[rows, labels] + 1,
            "entropy": entr(p).sum(axis=1),
        }
    )


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean negative log-likelihood of the labels in nats."""
    return float(_labelled(logits, labels)["nll"].mean())


def entropy(logits: ArrayLike) -> np.ndarray:
    """Entropy of softmax(logits) in nats: [..., C] -> [...]."""
    log_p = log_softmax(as_array(logits).astype(np.float64), axis=-1)
    return entr(np.exp(log_p)).sum(axis=-1)


def reliability_bins(
    logits: ArrayLike, labels: ArrayLike, bins: int = BINS
) -> pd.DataFrame:
    """Confidence against accuracy, bin by bin.

    Bins are intervals of (0, 1] of equal width, closed on the right (Guo et al. 2017,
    arXiv 1706.04599).

    Returns:
        A row per bin: `low`, `high`, `count`, mean `confidence`, `accuracy`, and its
        95 % Wilson interval `ci_low`, `ci_high`. Empty bins have count 0 and no means.
    """
    images = _labelled(logits, labels)
    images["accuracy"] = images["hit"].astype(float)
    groups = images.groupby(confidence_bin(images["confidence"], bins))
    table = groups[["confidence", "accuracy"]].mean().assign(count=groups.size())
    table = table.reindex(range(bins))
    edges = np.linspace(0, 1, bins + 1)
    table["low"], table["high"] = edges[:-1], edges[1:]
    table["count"] = table["count"].fillna(0).astype(np.int64)
    filled = table[table["count"] > 0]
    correct = filled["count"] * filled["accuracy"]
    interval = proportion_confint(correct, filled["count"], method="wilson")
    table["ci_low"], table["ci_high"] = interval  # NaN where a bin is empty
    columns = ["low", "high", "count", "confidence", "accuracy", "ci_low", "ci_high"]
    return table[columns]


def confidence_bin(confidence: ArrayLike, bins: int = BINS) -> np.ndarray:
    """Which interval of equal width, closed on the right, a confidence lies in: [N]."""
    return np.digitize(
        as_array(confidence), np.linspace(0, 1, bins + 1)[1:-1], right=True
    )


def calibration_error(
    confidence: ArrayLike, accuracy: ArrayLike, bins: ArrayLike, count: ArrayLike = 1
) -> float:
    """Mean gap between confidence and accuracy over bins (Guo et al. 2017, eq. 3).

    Args:
        confidence, accuracy: [N], of images (accuracy is 0 or 1), or means of groups.
        bins: integers [N] from 0 on, the bin of each.
        count: [N], images in each group; in a resample, how often each was drawn.
    """
    gap = np.asarray(accuracy, float) - np.asarray(confidence, float)
    count = np.broadcast_to(count, gap.shape)
    return float(np.abs(np.bincount(bins, count * gap)).sum() / count.sum())


def expected_calibration_error(logits: ArrayLike, labels: ArrayLike) -> float:
    """`calibration_error` of logits, with 15 bins of equal width."""
    return calibration_of(_labelled(logits, labels))


def calibration_of(images: pd.DataFrame) -> float:
    """`calibration_error` of rows of `scores` that have a label, with 15 bins."""
    confidence = images["confidence"]
    return calibration_error(confidence, images["hit"], confidence_bin(confidence))


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Temperature T in [0.01, 100] for which logits / T have the least NLL.

    Temperature scaling (Guo et al. 2017, section 4.2). The NLL is convex in 1 / T, so
    that the search over log T meets one minimum. Logits that are always right have no
    best T: it comes back so small that their NLL is zero.
    """
    logits, labels = _checked(logits, labels)
    known = labels != UNKNOWN
    if not known.any():
        raise ValueError("no temperature without labels: none of the images has one")
    logits, labels = logits[known].astype(np.float64), labels[known]
    rows = np.arange(known.sum())

    def loss(log_t: float) -> float:
        return -log_softmax(logits / np.exp(log_t), axis=1)[rows, labels].mean()

    bounds = np.log([0.01, 100.0])
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def bootstrap_interval(correct: ArrayLike) -> tuple[float, float]:
    """Percentile bootstrap interval of an accuracy, 95 %.

    The number of correct images in a resample follows a binomial law, whose quantiles
    are what infinitely many resamples give. Where all images are correct, or none is,
    the interval has no width. That of fewer than `FEWEST` images goes from 0 to 1.

    Args:
        correct: booleans [N].
    """
    correct = as_array(correct)
    if correct.ndim != 1 or correct.size == 0 or not np.isin(correct, (0, 1)).all():
        raise ValueError("correct must be a non-empty sequence of booleans")
    if correct.size < FEWEST:
        return 0.0, 1.0
    low, high = binom.ppf([0.025, 0.975], correct.size, correct.mean()) / correct.size
    return float(low), float(high)


def summary(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """The numbers that a results table quotes, the calibration error with 15 bins.

    Keys: n, top1, ci_low, ci_high, ece, nll, brier, entropy. `n` counts
    the images that have a label: all but the entropy is about these, NaN without any.
    """
    images = scores(logits, labels)
    entropy = float(images["entropy"].mean())
    images = images.dropna()
    if images.empty:
        names = ("top1", "ci_low", "ci_high", "ece", "nll", "brier")
        return {"n": 0, **dict.fromkeys(names, np.nan), "entropy": entropy}
    low, high = bootstrap_interval(images["hit"])
    return {
        "n": len(images),
        "top1": float(images["hit"].mean()),
        "ci_low": low,
        "ci_high": high,
        "ece": calibration_of(images),
        "nll": float(images["nll"].mean()),
        "brier": float(images["brier"].mean()),
        "entropy": entropy,
    }


def confusion_counts(
    labels: ArrayLike, predictions: ArrayLike, classes: int
) -> np.ndarray:
    """Images of each label (row) by prediction (column): int64 [C, C].

    Args:
        labels, predictions: integers [N] in 0..C-1, N at least 1.
        classes: C.
    """
    labels, predictions = as_array(labels), as_array(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1 or labels.size == 0:
        raise ValueError(
            "labels and predictions must be of one length, at least 1, not "
            f"{list(labels.shape)} and {list(predictions.shape)}"
        )
    both = np.concatenate([labels, predictions])
    if both.min() < 0 or both.max() >= classes:
        raise ValueError(
            f"labels and predictions must be in 0..{classes - 1}, "
            f"not {both.min()}..{both.max()}"
        )
    cells = np.bincount(labels * classes + predictions, minlength=classes**2)
    return cells.reshape(classes, classes)


def per_class(
    labels: ArrayLike, predictions: ArrayLike, class_names: Sequence[str]
) -> pd.DataFrame:
    """Accuracy of each class that has images, in label order.

    Returns:
        A row per class: `class_name`, `n`, `top1`, and its 95 % Wilson interval
        `ci_low`, `ci_high`.
    """
    counts = confusion_counts(labels, predictions, len(class_names))
    seen = np.flatnonzero(counts.sum(axis=1))
    n, correct = counts.sum(axis=1)[seen], counts.diagonal()[seen]
    low, high = proportion_confint(correct, n, method="wilson")
    return pd.DataFrame(
        {
            "class_name": [class_names[label] for label in seen.tolist()],
            "n": n,
            "top1": correct / n,
            "ci_low": low,
            "ci_high": high,
        }
    )
