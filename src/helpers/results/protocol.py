"""What a study tests, fixed before it is run, and how it sums up.

Methods: the registry names the headline methods (`headline`), one variant each with
the settings of its paper. All other ledgers are exploratory: they have intervals and no
verdict in the synthesis.

Outcomes: top-1 accuracy against one prompt, "a photo of a {}.", and against the
ensemble of 80 prompts, on the same images.

Tests: of each outcome one family for `compare.corrected`, each headline method on each
data set with each backbone, its lowest seed. A comparison of two methods in a chapter
is exploratory, and corrected with the others of its table.

Summary: the macro average, in which every data set counts the same, with the interval
of `macro`. No number pools the images of several data sets.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from helpers.methods.registry import ENSEMBLE, ONE, ledgers
from helpers.results import compare, metrics
from helpers.results.synthesis import Scores, baseline, seeds, shared

OUTCOMES = {"gain": ONE, "over": ENSEMBLE}
"""Columns of the leader board, and what an outcome is held against."""


def architectures(backbones: Iterable[str]) -> dict[str, list[str]]:
    """Checkpoints by architecture: picto-rn-2 is a second training of picto-rn.

    A number at the end tells a checkpoint only where the name without it is a backbone.
    """
    names = list(dict.fromkeys(backbones))
    found: dict[str, list[str]] = {}
    for name in names:
        plain = re.sub(r"-\d+$", "", name)
        found.setdefault(plain if plain in names else name, []).append(name)
    return found


def gained(
    scores: Scores, checkpoints: Sequence[str], method: str, others: Sequence[str]
) -> dict[str, np.ndarray]:
    """What a method gains over a baseline on each image of each data set.

    `others` are names of one and the same baseline, see `synthesis.baseline`.

    Returns:
        By data set [K checkpoints, S seeds, N images]: 1 won, 0, -1 lost, NaN where a
        ledger or an image is missing. Data sets without any are left out.
    """
    found = {}
    for dataset in dict.fromkeys(key.dataset for key in scores):
        cells = {}
        for position, checkpoint in enumerate(checkpoints):
            for key in seeds(scores, dataset, checkpoint, method):
                other = baseline(scores, key, others)
                if other is not None:
                    one, plain = shared(scores[key], other)
                    gain = one["hit"].astype(float) - plain["hit"]
                    cells[position, key.seed] = gain
        numbers = sorted({seed for _, seed in cells})
        every = [(k, s) for k in range(len(checkpoints)) for s in numbers]
        if cells:
            table = pd.DataFrame(cells).T.reindex(pd.MultiIndex.from_tuples(every))
            shape = len(checkpoints), len(numbers), table.shape[1]
            found[dataset] = table.to_numpy().reshape(shape)
    return found


def macro(
    values: Sequence[np.ndarray], resamples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Mean over data sets of the checkpoints' mean, and its hierarchical bootstrap.

    A resample draws, each with replacement, as many data sets and checkpoints as there
    are; and for each data set drawn as many view seeds and images as that has. Drawn
    checkpoints are the same for all data sets, drawn images the same for all
    checkpoints and seeds (Davison and Hinkley 1997, section 3.8; Owen 2007).

    Args:
        values: of each data set [K, S, N], as in `gained`.

    Returns:
        difference, ci_low, ci_high (95 %); -1 to 1 where a data set has fewer than
        `metrics.FEWEST` images; datasets, checkpoints, seeds (the most of a data set),
        n (the fewest images of a data set).
    """
    if not values or any(np.isnan(v).all() for v in values):
        raise ValueError("a macro average needs data sets, each with a value at least")
    rng, count = np.random.default_rng(seed), len(values)
    drawn = compare.draws(rng, len(values[0]), resamples)
    which = rng.integers(count, size=(resamples, count))
    means = np.full((resamples, count), np.nan)
    for draw, dataset in np.ndindex(count, count):
        rows = which[:, draw] == dataset
        means[rows, draw] = _resampled(values[dataset], drawn[rows], rng)
    with np.errstate(invalid="ignore"):  # a draw that hits nothing
        there = np.isfinite(means)
        means = np.where(there, means, 0).sum(axis=1) / there.sum(axis=1)
    low, high = np.nanquantile(means, [0.025, 0.975])
    images = min((~np.isnan(v)).any(axis=(0, 1)).sum() for v in values)
    if images < metrics.FEWEST:
        low, high = -1.0, 1.0
    return {
        "difference": float(np.mean([_mean(v) for v in values])),
        "ci_low": float(low),
        "ci_high": float(high),
        "datasets": count,
        "checkpoints": int(
            np.any([~np.isnan(v).all(axis=(1, 2)) for v in values], axis=0).sum()
        ),
        "seeds": max(v.shape[1] for v in values),
        "n": int(images),
    }


def _mean(values: np.ndarray) -> float:
    """Mean over checkpoints of [K, S, N], in which each of them counts the same."""
    run = ~np.isnan(values).all(axis=(1, 2))
    return float(np.nanmean(values[run], axis=(1, 2)).mean())


def _resampled(
    values: np.ndarray, checkpoints: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Means [R] of a data set's resampled seeds and images, for checkpoints [R, K].

    A checkpoint counts the same whatever the number of its seeds. Images whose values
    are alike in all cells are drawn together.
    """
    seeds = compare.draws(rng, values.shape[1], len(checkpoints))
    shape = len(checkpoints), *values.shape[:2]  # [R, K, S]
    images = values.reshape(-1, values.shape[2]).T
    kinds, sizes = np.unique(images, axis=0, return_counts=True)
    drawn = rng.multinomial(len(images), sizes / len(images), size=len(checkpoints))
    cells = np.nan_to_num(kinds), ~np.isnan(kinds)
    sums, counts = (
        ((drawn @ c).reshape(shape) * seeds[:, None, :]).sum(axis=2) for c in cells
    )
    with np.errstate(invalid="ignore"):  # a draw that hits nothing
        means = np.where(counts > 0, sums / counts, 0)  # [R, K]
        return (checkpoints * means).sum(axis=1) / (checkpoints * (counts > 0)).sum(
            axis=1
        )


def summary(scores: Scores, board: pd.DataFrame) -> pd.DataFrame:
    """The macro average of each headline method, outcome and architecture.

    Args:
        board: of `synthesis.leaderboard`.

    Returns:
        outcome, backbone, name, method, the entries of `macro`, and in how many tests
        of the protocol the method `gains`, `loses` and does neither (`undecided`).
    """
    rows = []
    board = board[board["headline"]]
    for (outcome, against), (backbone, names) in (
        (o, b)
        for o in OUTCOMES.items()
        for b in architectures(board["backbone"]).items()
    ):
        verdict = f"{outcome}_verdict"
        known = board[board["backbone"].isin(names) & board[verdict].ne("")]
        for (name, method), part in known.groupby(["name", "method"], sort=False):
            of_sets = gained(scores, names, method, ledgers(against))
            counts = {word: part[verdict].eq(word).sum() for word in compare.DECIDED}
            undecided = len(part) - sum(counts.values())
            about = {"outcome": against, "backbone": backbone, "name": name}
            about |= {"method": method, **macro(list(of_sets.values()))}
            rows.append({**about, **counts, "undecided": undecided})
    columns = ["outcome", "backbone", "name", "method", "difference", "ci_low"]
    columns += ["ci_high", "datasets", "checkpoints", "seeds", "n", *compare.DECIDED]
    return pd.DataFrame(rows, columns=[*columns, "undecided"])


def trainings(board: pd.DataFrame) -> pd.DataFrame:
    """Tests of the protocol that two trainings of one architecture share.

    Args:
        board: of `synthesis.leaderboard`.

    Returns:
        A row per data set, headline method and pair of checkpoints: dataset, name,
        method, backbone and other (the two); gain, gain_low, gain_high, gain_verdict of
        the one, and with the ending _other of the other.
    """
    tests, found = ["dataset", "name", "method"], ["gain", "gain_low", "gain_high"]
    found = [*found, "gain_verdict"]
    board = board[board["headline"] & board["gain_verdict"].ne("")]
    columns = [*tests, "backbone", "other", *found, *(f"{k}_other" for k in found)]
    parts = []
    for names in architectures(board["backbone"]).values():
        for one, two in combinations(sorted(names, key=len), 2):
            left, right = (board.loc[board["backbone"] == k] for k in (one, two))
            pairs = left[[*tests, *found]].merge(
                right[[*tests, *found]], on=tests, suffixes=("", "_other")
            )
            parts.append(pairs.assign(backbone=one, other=two))
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts, ignore_index=True)[columns]
