"""How good are the estimates of `estimates`? Trials on a study's labelled ledgers.

Rows of the ledgers are drawn into hundreds of small data sets, the trials: whole sets,
their slices (a severity, a kind of corruption), random samples, class subsets, with the
logits restricted to these classes or not, and mixtures of two sets. On each trial,
every estimator says how accurate each method is; the labels say how accurate it was.

What an estimator learns elsewhere (temperature, threshold, line, weights) comes from
the data sets that the trial takes no image from. Labels of a trial are never used,
except by the row that says what a few labels would give.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from helpers.data.dataset import Dataset
from helpers.results import estimates, predictions
from helpers.results.estimates import Fit, log_odds

METHODS = (
    *("zero_shot_photo", "ensemble_80", "ensemble_waffle", "cupl", "dclip"),
    *("autoclip_80", "vote", "vote_mean", "zero", "mta", "tps", "tpt", "tpt_revote"),
)
"""Methods that need the image alone; the first is the one to be improved upon."""
VIEWS = "vote_mean"  # its probabilities are the mean over an image's views
SLICES = ("severity", "corruption", "style")  # facts by which sets are cut
FEWEST = 30  # images of a trial
LARGEST_POOL = 600  # images of a data set
SIZES = (50, 100, 200, 400)
CLASSES = (8, 16, 32)
DRAWS = 4  # random trials of a kind
LABELS = 20  # of the row that uses some
COMBINATION, AVERAGE = "combination", "accuracy elsewhere"
ZERO_SHOT = "always zero-shot"
MIXTURES = "mixtures"
TEMPERATURES = np.geomspace(0.05, 10, 40, dtype=np.float32)


@dataclass(frozen=True)
class Pool:
    """Ledgers of a study on the same images, data set after data set.

    K models: first the M methods of the backbone, then those of a second backbone.
    """

    methods: tuple[str, ...]  # M names, without the recipe of their views
    logits: np.ndarray  # float32 [K, N, C]
    labels: np.ndarray  # int64 [N]
    sets: np.ndarray  # names of data sets [N]
    slices: Mapping[str, np.ndarray]  # name of a slice -> positions

    @property
    def own(self) -> np.ndarray:
        """Logits [M, N, C] of the methods of the backbone."""
        return self.logits[: len(self.methods)]


@dataclass(frozen=True)
class Trial:
    """A small data set: some images of a pool, and the classes to choose from."""

    name: str
    kind: str
    sets: tuple[str, ...]  # that the images come from
    positions: np.ndarray
    classes: np.ndarray | None = None  # None: all


def read(
    folder: str | Path,
    datasets: Sequence[Dataset],
    backbone: str,
    second: str = "",
    methods: Sequence[str] = METHODS,
) -> Pool:
    """The ledgers of `methods` that a study has on all data sets, on common images.

    Args:
        folder: the study's output folder.
        datasets: three at least, of the same classes; no picture is opened.
        second: another backbone, whose ledgers give a second opinion where they hold
            the same images.

    Raises:
        ValueError: too few data sets, methods or common images.
    """
    if len(datasets) < 3:
        raise ValueError(
            f"leaving one data set out takes three, not {len(datasets)}: "
            "list more in shifts"
        )
    if len({dataset.class_names for dataset in datasets}) > 1:
        raise ValueError("trials need data sets of the same classes")
    found = _ledgers(folder, datasets, backbone, methods)
    if len(found) < 3 or methods[0] not in found:
        raise ValueError(
            f"ledgers of {methods[0]} and two more methods of {backbone} are needed on "
            f"all data sets; there are {', '.join(found) or 'none'}"
        )
    others = _ledgers(folder, datasets, second, methods) if second else {}
    parts, labels, sets, start = [], [], [], 0
    slices: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(0)
    for dataset in datasets:
        ours = [_logits(folder, dataset, backbone, name) for name in found.values()]
        held = set(dataset.ids).intersection(*(frame.index for frame in ours))
        if len(held) < FEWEST:
            raise ValueError(
                f"{len(held)} images of {dataset.name} have predictions of all of "
                f"{', '.join(found)}: at least {FEWEST} are needed"
            )
        ids = sorted(rng.permutation(sorted(held))[:LARGEST_POOL])
        theirs = [_logits(folder, dataset, second, name) for name in others.values()]
        frames = ours + theirs
        parts.append([frame.reindex(ids) for frame in frames])
        positions = pd.Index(dataset.ids).get_indexer(ids)
        labels.append(dataset.labels[positions])
        sets += [dataset.name] * len(ids)
        slices |= _slices(dataset, positions, start)
        start += len(ids)
    whole = [all(part[k].notna().all() for part in parts) for k in range(len(parts[0]))]
    stacks = [
        np.concatenate([np.stack(part[k].to_list()) for part in parts])
        for k in np.flatnonzero(whole)
    ]
    logits = np.stack(stacks).astype(np.float32)
    return Pool(tuple(found), logits, np.concatenate(labels), np.array(sets), slices)


def _ledgers(
    folder: str | Path,
    datasets: Sequence[Dataset],
    backbone: str,
    methods: Sequence[str],
) -> dict[str, str]:
    """Method -> its ledger on all data sets, of several recipes the first by name."""
    at = Path(folder) / "predictions"
    there = [
        {f.stem for f in (at / d.name / backbone).glob("*.parquet")} for d in datasets
    ]
    common = sorted(set.intersection(*there))
    fitting = {m: [n for n in common if n.partition("-")[0] == m] for m in methods}
    return {method: names[0] for method, names in fitting.items() if names}


def _logits(
    folder: str | Path, dataset: Dataset, backbone: str, name: str
) -> pd.Series:
    frame = predictions.read(
        predictions.ledger_path(folder, dataset.name, backbone, name)
    )
    return frame.set_index("image_id")["logits"]


def _slices(
    dataset: Dataset, positions: np.ndarray, start: int
) -> dict[str, np.ndarray]:
    """Images that share a fact; `positions` are those in the data set."""
    if dataset.facts is None:
        return {}
    facts, found = dataset.facts.iloc[positions], {}
    for column in SLICES:
        values = facts[column].to_numpy() if column in facts else np.array([])
        for value in pd.unique(values):
            at = np.flatnonzero(values == value)
            if FEWEST <= len(at) < len(positions):
                found[f"{dataset.name}: {column} {value}"] = start + at
    return found


def draw(pool: Pool, seed: int = 0) -> list[Trial]:
    """The trials of a pool; the same seed draws the same."""
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys(pool.sets))
    of = {name: np.flatnonzero(pool.sets == name) for name in names}
    found = [Trial(name, "whole set", (name,), of[name]) for name in names]
    for name, at in pool.slices.items():
        found.append(Trial(name, "slice", (name.partition(":")[0],), at))
    for name in names:
        for size in (size for size in SIZES if size < 0.8 * len(of[name])):
            for k in range(DRAWS):
                at = rng.permutation(of[name])[:size]
                found.append(Trial(f"{name}: {size}, {k}", "sample", (name,), at))
        found += _class_subsets(pool, name, of[name], rng)
    for one, other in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
        for size in SIZES[1:]:
            first = int(size * rng.uniform(0.2, 0.8))
            halves = rng.permutation(of[one])[:first], rng.permutation(of[other])
            at = np.concatenate([halves[0], halves[1][: size - first]])
            name = f"{one} + {other}: {size}"
            found.append(Trial(name, MIXTURES, (one, other), at))
    return found


def _class_subsets(
    pool: Pool, name: str, at: np.ndarray, rng: np.random.Generator
) -> Iterator[Trial]:
    """Images of some classes, with the names of all classes and with theirs alone."""
    for count in CLASSES:
        for k in range(DRAWS):
            chosen = np.sort(rng.permutation(pool.logits.shape[-1])[:count])
            some = at[np.isin(pool.labels[at], chosen)]
            if FEWEST <= len(some) < len(at):
                text = f"{name}: {count} classes, {k}"
                yield Trial(text, "classes, all names", (name,), some)
                yield Trial(f"{text}, own", "classes, own names", (name,), some, chosen)


@dataclass(frozen=True)
class Observation:
    """A trial's logits and what can be computed of them once for all folds."""

    trial: Trial
    logits: np.ndarray  # [M, n, C']
    confidence: np.ndarray  # [M, n]
    certainty: np.ndarray  # [M, n]
    correct: np.ndarray  # booleans [M, n]
    agreements: np.ndarray  # [K, K]
    features: np.ndarray  # [M, F - 1], log-odds
    pairs: np.ndarray  # [M, M], log-odds of agreement
    single: dict[str, np.ndarray]  # [M], log-odds, regressed upon one by one

    @property
    def accuracy(self) -> np.ndarray:
        return self.correct.mean(axis=1)

    @property
    def pure(self) -> bool:
        return len(self.trial.sets) == 1


def _observe(pool: Pool, trial: Trial) -> Observation:
    labels, logits = pool.labels[trial.positions], pool.logits[:, trial.positions]
    if trial.classes is not None:
        logits = logits[..., trial.classes]
        labels = np.searchsorted(trial.classes, labels)
    guesses, count = logits.argmax(axis=-1), len(pool.methods)
    agreements = estimates.agreement(guesses)
    second = guesses[count] if len(logits) > count else None
    features, pairs = estimates.observe(logits[:count], second)
    p = estimates.probabilities(logits[:count])
    ours = agreements[:count, :count]
    single = {
        "entropy": features[:, 1],
        "nuclear norm": features[:, 2],
        "agreement of methods": log_odds((ours.sum(axis=1) - 1) / (count - 1)),
    }
    if second is not None:
        single["agreement of backbones"] = features[:, 3]
    if VIEWS in pool.methods:
        views = estimates.probabilities(logits[pool.methods.index(VIEWS)])
        steady = estimates.consistency(guesses[:count], views)
        single["consistency of views"] = log_odds(steady)
    correct = guesses[:count] == labels
    return Observation(
        trial,
        logits[:count],
        p.max(axis=-1),
        estimates.certainty(p),
        correct,
        agreements,
        features,
        pairs,
        single,
    )


@dataclass(frozen=True)
class Source:
    """What the labelled images of some data sets give to the estimators."""

    temperature: np.ndarray  # [M]
    confidence: np.ndarray  # [M]
    accuracy: np.ndarray  # [K]
    agreements: np.ndarray  # [K, K]
    atc: np.ndarray  # [M], thresholds of confidence
    atc_entropy: np.ndarray  # [M], of certainty


class Sources:
    """The source of any of a pool's data sets; what they share is computed once."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.guesses = pool.logits.argmax(axis=-1)
        p = estimates.probabilities(pool.own)
        self.scores = p.max(axis=-1), estimates.certainty(p)
        gap = pool.own - pool.own.max(axis=-1, keepdims=True)
        at_label = gap[:, np.arange(len(pool.labels)), pool.labels]
        self.losses = np.stack(  # NLL of each temperature, method and image
            [np.log(np.exp(gap / x).sum(axis=-1)) - at_label / x for x in TEMPERATURES]
        )

    def of(self, sets: Sequence[str]) -> Source:
        """The source of equally many images of each of these data sets."""
        pool, count = self.pool, len(self.pool.methods)
        parts = [np.flatnonzero(pool.sets == name) for name in sets]
        at = np.concatenate([part[: min(map(len, parts))] for part in parts])
        guesses = self.guesses[:, at]
        correct = guesses == pool.labels[at]
        confidence, certainty = (scores[:, at] for scores in self.scores)
        best = self.losses[:, :, at].mean(axis=-1).argmin(axis=0)
        return Source(
            temperature=TEMPERATURES[best],
            confidence=confidence.mean(axis=-1),
            accuracy=correct.mean(axis=1),
            agreements=estimates.agreement(guesses),
            atc=_thresholds(confidence, correct[:count]),
            atc_entropy=_thresholds(certainty, correct[:count]),
        )


def _thresholds(scores: np.ndarray, correct: np.ndarray) -> np.ndarray:
    pairs = zip(scores, correct, strict=True)
    return np.array([estimates.atc_threshold(*pair) for pair in pairs])


def measure(pool: Pool, trials: Sequence[Trial], seed: int = 0) -> pd.DataFrame:
    """Every estimator on every trial.

    Returns:
        A row per trial, estimator and method: trial, kind, sets (joined by " + "), n,
        classes, estimator, method, estimated, true; low and high of the combination.
    """
    seen, sources = [_observe(pool, trial) for trial in trials], Sources(pool)
    rng, parts = np.random.default_rng(seed), []
    for sets in dict.fromkeys(s.trial.sets for s in seen):
        elsewhere = [n for n in dict.fromkeys(pool.sets) if n not in sets]
        if len(elsewhere) < 2:
            continue
        known = [s for s in seen if s.trial.sets[0] in elsewhere and s.pure]
        learned = sources.of(elsewhere), _fit(pool, known), _lines(known)
        parts += [_estimated(s, *learned, rng) for s in seen if s.trial.sets == sets]
    return pd.concat(parts, ignore_index=True)


def package(
    pool: Pool, trials: Sequence[Trial], measured: pd.DataFrame, without: str = ""
) -> Fit:
    """The combination learned from the data sets of a pool, for images from elsewhere.

    `measured`, of the same trials, tells what it costs to choose by the combination,
    or by what is usual, and the cheaper of the two becomes the fit's choice. Nothing
    is learned from the data set `without`.

    Raises ValueError where fewer than two data sets are left.
    """
    names = [name for name in dict.fromkeys(pool.sets) if name != without]
    known = Sources(pool).of(names)
    pure = [t for t in trials if len(t.sets) == 1 and t.sets[0] in names]
    apart = [without not in sets.split(" + ") for sets in measured["sets"]]
    rows = summary(measured[apart]).set_index("estimator").loc[[COMBINATION, AVERAGE]]
    best = rows["regret"].argmin()
    gain, promised, regret = rows[["gain", "promised", "regret"]].to_numpy()[best]
    return replace(
        _fit(pool, [_observe(pool, trial) for trial in pure]),
        temperature=known.temperature,
        threshold=known.atc,
        choice=("estimated", "usual")[best],
        regret=float(regret),
        kept=float(np.clip(gain / promised, 0, 1)) if promised else 0.0,
    )


def _fit(pool: Pool, known: Sequence[Observation]) -> Fit:
    """The combination, learned from trials of one data set each."""
    return estimates.fit(
        pool.methods,
        np.stack([s.features for s in known]),
        np.stack([s.pairs for s in known]),
        np.stack([s.accuracy for s in known]),
        [s.trial.sets[0] for s in known],
    )


def _lines(known: Sequence[Observation]) -> dict[str, Callable]:
    """Regressions of the log-odds of accuracy upon one feature, over all methods.

    Every data set counts the same.
    """
    names = pd.Series([s.trial.sets[0] for s in known])
    weight = 1 / np.sqrt(names.map(names.value_counts()).to_numpy(float))
    y = log_odds(np.stack([s.accuracy for s in known]))
    w = np.repeat(weight, y.shape[1])
    found: dict[str, Callable] = {}
    for name in known[0].single:
        x = np.concatenate([s.single[name] for s in known])
        found[name] = np.polynomial.Polynomial.fit(x, y.ravel(), 1, w=w)
    return found


def _estimated(
    seen: Observation,
    known: Source,
    combined: Fit,
    lines: Mapping[str, Callable],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """What every estimator says of every method on one trial."""
    count, truth = len(combined.methods), seen.accuracy
    soft = estimates.probabilities(seen.logits, known.temperature)
    confidence = seen.confidence.mean(axis=-1)
    shifted = known.confidence, known.accuracy[:count]
    lined = seen.agreements, known.agreements, known.accuracy
    guess = combined.predict(seen.features, seen.pairs)
    some = rng.permutation(seen.correct.shape[1])[:LABELS]
    found = {
        "average confidence": confidence,
        "tempered confidence": estimates.average_confidence(soft),
        "difference of confidences": estimates.difference_of_confidences(
            confidence, *shifted
        ),
        "ATC, confidence": estimates.atc(seen.confidence, known.atc),
        "ATC, entropy": estimates.atc(seen.certainty, known.atc_entropy),
        "ALine-S": estimates.aline(*lined)[:count],
        "ALine-D": estimates.aline(*lined, pairwise=True)[:count],
        **{name: expit(line(seen.single[name])) for name, line in lines.items()},
        COMBINATION: expit(guess),
        AVERAGE: expit(combined.accuracy),
        ZERO_SHOT: np.where(np.arange(count) == 0, 1.0, 0.0),
        f"{LABELS} labels": seen.correct[:, some].mean(axis=1),
    }
    trial, rows = seen.trial, len(found) * count
    low, high = np.full((2, len(found), count), np.nan)
    at = list(found).index(COMBINATION)
    low[at], high[at] = combined.interval(guess)
    return pd.DataFrame(
        {
            "trial": trial.name,
            "kind": trial.kind,
            "sets": " + ".join(trial.sets),
            "n": len(trial.positions),
            "classes": soft.shape[-1],
            "estimator": np.repeat(list(found), count),
            "method": np.tile(combined.methods, len(found)),
            "estimated": np.concatenate(list(found.values())),
            "true": np.tile(truth, len(found)),
            "low": low.ravel(),
            "high": high.ravel(),
        },
        index=range(rows),
    )


def scored(measured: pd.DataFrame) -> pd.DataFrame:
    """How well each estimator did on each trial, a row for each pair.

    Returns:
        trial, sets, kind, estimator; error: mean absolute error over the methods; bias:
        mean of estimated minus true; tau: Kendall's tau-b between estimated and true,
        NaN where all are equal; regret: accuracy lost by choosing the method of the
        greatest estimate, against the best in hindsight (the mean over ties); gain:
        accuracy won by the choice over the first method; promised: the gain that the
        estimates told; covered: share of methods whose accuracy lies in the interval.
        All fractions. Error and bias are NaN where nothing is estimated.
    """
    methods = list(dict.fromkeys(measured["method"]))
    about = ["trial", "sets", "kind", "estimator"]
    table = measured[about].iloc[:: len(methods)].reset_index(drop=True)
    estimated, true, low, high = (
        measured[column].to_numpy().reshape(-1, len(methods))
        for column in ("estimated", "true", "low", "high")
    )
    missed = estimated - true
    orders = [np.sign(x[:, :, None] - x[:, None]) for x in (estimated, true)]
    ties = np.sqrt(np.prod([(order**2).sum(axis=(1, 2)) for order in orders], axis=0))
    with np.errstate(invalid="ignore"):
        tau = (orders[0] * orders[1]).sum(axis=(1, 2)) / ties
    best = estimated >= estimated.max(axis=1, keepdims=True) - 1e-9
    chosen = (true * best).sum(axis=1) / best.sum(axis=1)
    covered = ((low <= true) & (true <= high)).mean(axis=1)
    table = table.assign(
        error=np.abs(missed).mean(axis=1),
        bias=missed.mean(axis=1),
        tau=tau,
        regret=true.max(axis=1) - chosen,
        gain=chosen - true[:, 0],
        promised=estimated.max(axis=1) - estimated[:, 0],
        covered=np.where(np.isnan(low).any(axis=1), np.nan, covered),
    )
    blind = table["estimator"] == ZERO_SHOT
    table.loc[blind, ["error", "bias", "tau", "promised"]] = np.nan
    return table


SCORES = ("error", "bias", "tau", "regret", "gain", "promised", "covered")


def by_set(measured: pd.DataFrame) -> pd.DataFrame:
    """Means of `scored` per estimator and data set, and over the mixtures of two.

    Returns:
        estimator, set, trials, and the columns of `SCORES`.
    """
    table = scored(measured)
    mixed = table["kind"] == MIXTURES
    table["set"] = table["sets"].mask(mixed, MIXTURES)
    groups = table.groupby(["estimator", "set"], sort=False)
    means = groups[list(SCORES)].mean()
    means.insert(0, "trials", groups.size())
    return means.reset_index()


def summary(measured: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """A row per estimator, the least regret first: means over the data sets.

    Every data set counts the same and mixtures are left out. The 95 % intervals come
    from resampling data sets; a handful of data sets makes them rough, and too narrow
    rather than too wide.

    Returns:
        estimator, sets (their number), the columns of `SCORES`, and over_average, the
        regret of `AVERAGE` less that of the estimator; error, tau, regret, gain and
        over_average with `_low` and `_high`.
    """
    table = by_set(measured)
    table = table[table["set"] != MIXTURES]
    usual = table[table["estimator"] == AVERAGE].set_index("set")["regret"]
    table = table.assign(over_average=table["set"].map(usual) - table["regret"])
    drawn = np.random.default_rng(0).integers(len(usual), size=(resamples, len(usual)))
    rows = []
    for estimator, part in table.groupby("estimator", sort=False):
        row: dict[str, object] = {"estimator": estimator, "sets": len(part)}
        for score in (*SCORES, "over_average"):
            values = part[score].to_numpy()
            row[score] = values.mean()
            if score not in ("bias", "promised", "covered"):
                ends = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
                row[f"{score}_low"], row[f"{score}_high"] = ends
        rows.append(row)
    return pd.DataFrame(rows).sort_values("regret", kind="stable", ignore_index=True)
