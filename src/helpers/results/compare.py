"""Is one method better than another on the same images? Paired statistics.

Two methods see the same images, so that only the images on which they disagree carry
evidence: the wins (only the method is right) and the losses (only the baseline is).
Of ledgers, images whose label is unknown are left out.

`corrected` alone says whether a difference is one: its `verdict` decides every
sentence, and what is bold, filled or starred.
"""

import math
from collections.abc import Collection, Iterable
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar as _mcnemar

from helpers.data.dataset import UNKNOWN
from helpers.results import metrics

LEVEL, POWER = 0.05, 0.8  # of every test
DECIDED = ("gains", "loses")
"""The verdicts of `corrected` that claim a difference."""


def _wins_and_losses(a: ArrayLike, b: ArrayLike) -> tuple[int, int, int]:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(
            "paired images must be two sequences of one length, at least 1, not "
            f"{list(a.shape)} and {list(b.shape)}"
        )
    if np.isnan(np.concatenate([a, b]).astype(float)).any():
        raise ValueError("paired images need labels: leave out those that have none")
    a, b = a.astype(bool), b.astype(bool)
    return int((a & ~b).sum()), int((b & ~a).sum()), a.size


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of the exact McNemar test: do wins and losses balance?

    `a` and `b` are booleans [N], correct or not; p is 1 if they never disagree.
    """
    wins, losses, n = _wins_and_losses(a, b)
    if wins + losses == 0:
        return 1.0
    # The test reads only the discordant cells; the other two may hold anything.
    table = [[n - wins - losses, wins], [losses, 0]]
    return float(_mcnemar(table, exact=True).pvalue)


def paired_difference(
    a: ArrayLike, b: ArrayLike, resamples: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Accuracy of `a` minus accuracy of `b`, with a paired bootstrap interval.

    An image contributes +1 (win), 0 or -1 (loss). Resampling images with replacement
    draws the numbers of the three from a multinomial law, which is how it is done here.
    Fewer than `metrics.FEWEST` images tell nothing: their interval is -1 to 1.
    Where the two never disagree, it is the exact one of a share of which no image is
    part, to either side (Clopper and Pearson 1934).

    Args:
        a, b: booleans [N], whether each prediction is correct.

    Returns:
        n, difference, ci_low, ci_high (95 %, fractions), wins, losses, p of `mcnemar`,
        and se, the difference's standard error if there is none.
    """
    wins, losses, n = _wins_and_losses(a, b)
    low, high = _interval(wins, losses, n, resamples, seed)
    return {
        "n": n,
        "difference": (wins - losses) / n,
        "ci_low": low,
        "ci_high": high,
        "wins": wins,
        "losses": losses,
        "p": mcnemar(a, b),
        "se": math.sqrt(wins + losses) / n,
    }


@lru_cache(maxsize=4096)  # chapters ask for the same pair several times
def _interval(
    wins: int, losses: int, n: int, resamples: int, seed: int
) -> tuple[float, float]:
    if n < metrics.FEWEST:
        return -1.0, 1.0
    if wins + losses == 0:
        most = 1 - 0.025 ** (1 / n)
        return -most, most
    shares = np.array([wins, losses, n - wins - losses]) / n
    draws = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    return float(low), float(high)


def over_orders(
    values: ArrayLike, less: ArrayLike | None = None, resamples: int = 1000
) -> dict[str, float]:
    """Mean of values [O, N] of N images in O orders of a stream, with its interval.

    Orders are a sample, as images are: another one would give other numbers. So both
    are resampled with replacement, independently of each other, and a value counts as
    often as its order times as often as its image was drawn (Owen 2007, the pigeonhole
    bootstrap, which errs to the side of wide intervals). With one order, the interval
    is about images alone.

    Args:
        values: gains of an image in an order, say hit minus hit of a baseline; NaN
            where a stream did not have the image, or not at the time in question.
        less: other values [O, N], whose mean is subtracted.

    Returns:
        difference, ci_low, ci_high (95 %); se, the standard deviation of the resampled
        means, and from it p (two-sided); spread, the standard deviation of the orders'
        means (NaN for one order); orders, and n, the images with a value.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or np.isnan(values).all():
        raise ValueError(
            f"values are {list(values.shape)}: expected [orders, images], some of them "
            "numbers"
        )
    middle, draws = _two_way(values, resamples)
    if less is not None:
        taken, other = _two_way(np.asarray(less, dtype=float), resamples)
        middle, draws = middle - taken, draws - other
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [0.025, 0.975])
    there = ~np.isnan(values)
    of_order = np.nansum(values, axis=1)[there.any(axis=1)]
    of_order = of_order / there.sum(axis=1)[there.any(axis=1)]
    several = len(of_order) > 1
    return {
        "difference": float(middle),
        "ci_low": float(low),
        "ci_high": float(high),
        "p": float(2 * norm.sf(abs(middle) / draws.std())) if draws.std() else 1.0,
        "se": float(draws.std()),
        "spread": float(of_order.std(ddof=1)) if several else math.nan,
        "orders": len(values),
        "n": int(there.any(axis=0).sum()),
    }


def _two_way(values: np.ndarray, resamples: int) -> tuple[float, np.ndarray]:
    """The mean of values [O, N] and the means of resampled ones [resamples]."""
    there = ~np.isnan(values)
    of_orders, of_images = (
        _weights(count, resamples, axis) for axis, count in enumerate(values.shape)
    )
    sums, counts = (
        ((of_images.astype(np.float32) @ part.T.astype(np.float32)) * of_orders).sum(1)
        for part in (np.nan_to_num(values), there)
    )
    with np.errstate(invalid="ignore"):  # a draw that hits nothing
        return np.nanmean(values), sums / counts


def draws(rng: np.random.Generator, count: int, resamples: int) -> np.ndarray:
    """How often each of `count` things is drawn in a bootstrap: [resamples, count]."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)


@lru_cache(maxsize=16)
def _weights(count: int, resamples: int, axis: int) -> np.ndarray:
    """How often each of `count` things is drawn: uint8 [resamples, count].

    The same for all values, so that two means of one thing are compared draw by draw.
    """
    rng = np.random.default_rng([count, axis])
    found = np.empty((resamples, count), np.uint8)
    for row in found:
        row[:] = np.bincount(rng.integers(count, size=count), minlength=count)
    return found


def paired_calibration(
    a: pd.DataFrame, b: pd.DataFrame, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Calibration error of ledger `a` minus that of `b`, with a bootstrap interval.

    The errors have 15 bins of equal width (`metrics.reliability_bins`); images are
    resampled with replacement, the same for both ledgers. Fewer than `metrics.FEWEST`
    images tell nothing: their interval is -1 to 1.

    Returns:
        ece, baseline_ece, difference, ci_low, ci_high (95 %, fractions).

    Raises:
        ValueError: two ledgers that are not about the same images, or no labels.
    """
    a, b = a.set_index("image_id"), b.set_index("image_id")
    a, b = _labelled(a, _aligned(b, a, "calibration"), "calibration")
    pair = [_calibrated(a), _calibrated(b)]
    rng, draws = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = np.bincount(rng.integers(len(a), size=len(a)), minlength=len(a))
        draws.append([metrics.calibration_error(*images, drawn) for images in pair])
    one, other = np.array(draws).T
    low, high = np.quantile(one - other, [0.025, 0.975])
    if len(a) < metrics.FEWEST:
        low, high = -1.0, 1.0
    errors = [metrics.calibration_error(*images) for images in pair]
    return {
        "ece": errors[0],
        "baseline_ece": errors[1],
        "difference": errors[0] - errors[1],
        "ci_low": float(low),
        "ci_high": float(high),
    }


def _calibrated(ledger: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence of each image, whether it is correct, and its bin: [N]."""
    confidence = ledger["confidence"].to_numpy(float)
    correct = (ledger["prediction"] == ledger["label"]).to_numpy()
    return confidence, correct, metrics.confidence_bin(confidence)


def of_means(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ci_low, ci_high (95 %) and p (two-sided) of each `difference`.

    For means of several paired differences, from their standard errors `se` by the
    normal approximation. Fewer than `metrics.FEWEST` images (`n`) tell nothing: their
    interval is -1 to 1, their p is 1. A row without a difference has no p.
    """
    difference, se, n = (table[k].astype(float) for k in ("difference", "se", "n"))
    few, edge = n < metrics.FEWEST, norm.isf(LEVEL / 2) * se
    p = pd.Series(2 * norm.sf(difference.abs() / se.where(se > 0)), table.index)
    p = p.mask(few | se.eq(0), 1.0).where(difference.notna())
    low, high = (difference - edge).mask(few, -1.0), (difference + edge).mask(few, 1.0)
    return table.assign(se=se, ci_low=low, ci_high=high, p=p)


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """A table of differences as one family of tests, with the verdict on each.

    Args:
        table: rows of `paired_difference`, `over_orders` or `of_means`. A row without
            p is not tested.

    Returns:
        The table with `p_holm`, p adjusted for the number of tests (Holm 1979);
        `detectable`, the smallest true difference that the row's test, so corrected,
        shows in four of five cases; and `verdict`: "gains" or "loses" where p_holm is
        below 5 %, else "no detectable difference (a difference of 2.1 points would
        have been seen)", and "" where nothing was tested.
    """
    p = table["p"].dropna()
    table = table.assign(p_holm=pd.Series(holm(p), p.index, dtype=float))
    # Below this p, a row would have been the next that Holm's method rejects.
    level = LEVEL / max(1, len(p) - (table["p_holm"] < LEVEL).sum())
    seen = [
        detectable(se, n, level) if tested else math.nan
        for se, n, tested in zip(
            table["se"], table["n"], table["p"].notna(), strict=True
        )
    ]
    table["detectable"] = seen
    table["verdict"] = [
        _verdict(*row)
        for row in zip(
            table["difference"], table["p_holm"], table["detectable"], strict=True
        )
    ]
    return table


def holm(p: ArrayLike) -> np.ndarray:
    """Adjusted p values [N] of p values [N] (Holm 1979).

    `multipletests` of statsmodels gives the same, and collects garbage at each call,
    which takes a second where a chapter holds many ledgers.
    """
    p = np.asarray(p, float)
    order = p.argsort(kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return adjusted.clip(max=1)


def _verdict(difference: float, p_holm: float, detectable: float) -> str:
    if math.isnan(p_holm):
        return ""
    if p_holm < LEVEL:
        return DECIDED[0] if difference > 0 else DECIDED[1]
    return undetected([detectable])


def points(middle: float, low: float, high: float, about: str = "") -> str:
    """A difference and its interval, fractions, in points: "+8.1 [+6.0, +10.2]"."""
    return f"{100 * middle:+.1f}{about} [{100 * low:+.1f}, {100 * high:+.1f}]"


def undetected(detectable: Collection[float]) -> str:
    """The verdict on one or several rows that neither gain nor lose."""
    ends = [100 * end for end in (min(detectable), max(detectable))]
    if ends[1] > 100:
        return "no detectable difference (too few images to see any)"
    seen = " to ".join(several := list(dict.fromkeys(f"{end:.1f}" for end in ends)))
    what = "differences" if len(several) > 1 else "a difference"
    return f"no detectable difference ({what} of {seen} points would have been seen)"


def detectable(se: float, n: int, level: float = LEVEL) -> float:
    """Smallest true difference in accuracy that n paired images are likely to show.

    `se` is the difference's standard error. By the normal approximation of the test,
    (z_(1-level/2) + z_POWER) se; but at least so many wins without a loss as the exact
    McNemar test needs. Above 1 where not even n wins would do.
    """
    needed = math.floor(1 - math.log2(level)) + 1  # k wins have p = 2 / 2^k
    z = norm.isf(level / 2) + norm.ppf(POWER)
    return float(max(z * se, needed / n))


def compare(ledgers: Iterable[pd.DataFrame], *, baseline: str) -> pd.DataFrame:
    """Every method against a baseline on the same images.

    Args:
        ledgers: frames of `predictions.read`.
        baseline: a method that has a ledger for each data set and backbone. A method
            is paired with the baseline of its own seed, or with the baseline's lowest
            seed if there is none.

    Returns:
        A row per data set, backbone, method and seed: `dataset, backbone, method, seed,
        baseline, top1, baseline_top1`, the entries of `paired_difference`, and the
        verdict of `corrected` for all rows of the table as one family.

    Raises:
        ValueError: no baseline, two ledgers that are not about the same images, or
            no labels.
    """
    runs: dict[tuple[str, str], dict[tuple[str, int], pd.DataFrame]] = {}
    for frame in ledgers:
        about = frame.attrs
        images = frame.set_index("image_id")[["label"]]
        images["hit"] = (frame["prediction"] == frame["label"]).to_numpy()
        methods = runs.setdefault((about["dataset"], about["backbone"]), {})
        methods[about["method"], about["seed"]] = images

    rows = []
    for (dataset, backbone), methods in sorted(runs.items()):
        baselines = {seed: f for (m, seed), f in methods.items() if m == baseline}
        if not baselines:
            raise ValueError(
                f"no ledger of the baseline {baseline!r} for {dataset}, {backbone}; "
                f"there are {sorted({method for method, _ in methods})}"
            )
        for (method, seed), images in sorted(methods.items()):
            if method == baseline:
                continue
            other = baselines.get(seed, baselines[min(baselines)])
            what = f"{method} on {dataset}, {backbone}"
            images, other = _labelled(images, _aligned(other, images, what), what)
            row = {
                "dataset": dataset,
                "backbone": backbone,
                "method": method,
                "seed": seed,
                "baseline": baseline,
                "top1": images["hit"].mean(),
                "baseline_top1": other["hit"].mean(),
            }
            rows.append(row | paired_difference(images["hit"], other["hit"]))
    if not rows:
        raise ValueError(f"nothing to compare with {baseline!r}: no other ledger")
    return corrected(pd.DataFrame(rows))


def _aligned(baseline: pd.DataFrame, images: pd.DataFrame, what: str) -> pd.DataFrame:
    """The baseline in the order of `images`; both must be about the same ones."""
    differing = baseline.index.symmetric_difference(images.index)
    if len(differing):
        raise ValueError(
            f"{what}: {len(differing)} images are in only one of the two ledgers, "
            f"first {list(differing[:3])}; run both methods on the same images"
        )
    baseline = baseline.loc[images.index]
    if not baseline["label"].equals(images["label"]):
        raise ValueError(f"{what}: labels differ from the baseline's; run both again")
    return baseline


def _labelled(
    images: pd.DataFrame, other: pd.DataFrame, what: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of two aligned frames whose label is known."""
    known = (images["label"] != UNKNOWN).to_numpy()
    if not known.any():
        raise ValueError(f"{what}: none of the {len(images)} images has a label")
    return images[known], other[known]
