"""How accurate is each method on these images? Estimates that need no labels.

Every function works on logits or probabilities [N, C]; only `packaged` reads a file.
In the papers' words, the source is labelled data from elsewhere and the target the
images at hand.

    AC          average confidence of the target
    DoC         source accuracy - (source AC - target AC)
                Guillory et al. 2021, arXiv 2107.03315
    ATC         share of the target whose score reaches a threshold; in the source, the
                share below the threshold is the error
                Garg et al. 2022, arXiv 2201.04234
    ALine       the line through the agreements of pairs of models, target against
                source on probit axes, is taken for the line of accuracies
                Baek et al. 2022, arXiv 2206.13089
    dispersity  nuclear norm of the probabilities over its greatest value
                Deng et al. 2023, arXiv 2302.01094
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import entr, expit, logit, softmax
from scipy.stats import norm, t

EDGE = 0.005  # shares are kept this far from 0 and 1, where logit and probit end
PENALTIES = (0.001, 0.01, 0.1, 1.0, 1000.0)  # the last leaves no weight
LEVEL = 0.95  # of every interval


def probabilities(logits: ArrayLike, temperature: ArrayLike = 1.0) -> np.ndarray:
    """softmax(logits / temperature), float32 [..., N, C]; a temperature per [...].

    Raises ValueError for logits that are not finite, of no image or of fewer than two
    classes.
    """
    logits = np.asarray(logits, dtype=np.float32)
    if logits.ndim < 2 or logits.shape[-2] < 1 or logits.shape[-1] < 2:
        raise ValueError(
            "logits must be [images, classes], one image and two classes at least, "
            f"not {list(logits.shape)}"
        )
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite: leave out images without a prediction")
    temperature = np.asarray(temperature, dtype=np.float32)
    return softmax(logits / temperature[..., None, None], axis=-1)


def average_confidence(p: np.ndarray) -> np.ndarray:
    """Mean largest probability of p [..., N, C]: [...]."""
    return p.max(axis=-1).mean(axis=-1)


def certainty(p: np.ndarray) -> np.ndarray:
    """1 - entropy / ln C of each image, of p [..., N, C]: [..., N].

    It is 1 for one-hot probabilities and 0 for equal ones, whatever the number of
    classes C. For one C it orders images as ATC's negative entropy does.
    """
    return 1 - entr(p).sum(axis=-1) / np.log(p.shape[-1])


def difference_of_confidences(
    confidence: ArrayLike, source_confidence: ArrayLike, source_accuracy: ArrayLike
) -> np.ndarray:
    """Accuracy of the target: the source's less what confidence has lost, in 0..1."""
    lost = np.asarray(source_confidence) - np.asarray(confidence)
    return np.clip(np.asarray(source_accuracy) - lost, 0, 1)


def atc_threshold(scores: ArrayLike, correct: ArrayLike) -> float:
    """The threshold below which as many source images lie as are wrong (ATC).

    Args:
        scores: [N], greater where the method is surer.
        correct: booleans [N].

    Returns:
        A score of the source, or infinity where all images are wrong. Among equal
        scores no threshold may be exact; then it is the nearest, the lower of two.
    """
    scores, wrong = np.sort(scores), int((~np.asarray(correct, dtype=bool)).sum())
    thresholds = np.append(np.unique(scores), np.inf)
    below = np.searchsorted(scores, thresholds)
    return float(thresholds[np.abs(below - wrong).argmin()])


def atc(scores: ArrayLike, threshold: ArrayLike) -> np.ndarray:
    """Accuracy of the target: the share of scores [..., N] not below (ATC)."""
    return 1 - (np.asarray(scores) < np.asarray(threshold)[..., None]).mean(axis=-1)


def nuclear_norm(p: np.ndarray) -> np.ndarray:
    """Sum of singular values of p [..., N, C] over sqrt(min(N, C) N): [...] in (0, 1].

    It is 1 where all images are sure and the classes are predicted equally often.
    """
    images, classes = p.shape[-2:]
    greatest = np.sqrt(min(images, classes) * images)
    # Singular values squared, from the smaller of the two Gram matrices.
    other = np.swapaxes(p, -1, -2)
    gram = (p @ other if images < classes else other @ p).astype(np.float64)
    values = np.linalg.eigvalsh(gram).clip(min=0)
    return np.sqrt(values).sum(axis=-1) / greatest


def agreement(predictions: np.ndarray) -> np.ndarray:
    """Share of images on which two methods predict the same: [M, N] -> [M, M]."""
    return (predictions[:, None] == predictions[None]).mean(axis=-1)


def consistency(predictions: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Mean probability that an image's views give to the method's prediction.

    It flatters methods that vote over these views: no prediction can have more of it
    than that of the mean vote, which is no sign of its accuracy.

    Args:
        predictions: integers [M, N] of methods.
        views: [N, C], the mean over an image's views of their probabilities, or the
            shares of views that predict each class.

    Returns:
        [M] in 0..1.
    """
    return views[np.arange(len(views)), predictions].mean(axis=-1)


def probit(share: ArrayLike) -> np.ndarray:
    """Inverse normal distribution function; shares are kept `EDGE` from 0 and 1."""
    return norm.ppf(np.clip(share, EDGE, 1 - EDGE))


def log_odds(share: ArrayLike) -> np.ndarray:
    """ln(share / (1 - share)); shares are kept `EDGE` from 0 and 1."""
    return logit(np.clip(share, EDGE, 1 - EDGE))


def _line(source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the pairs' agreements; slope 1 where all are equal."""
    spread = source - source.mean()
    slope = float(spread @ target / (spread @ spread)) if spread.any() else 1.0
    return slope, float(target.mean() - slope * source.mean())


def aline(
    agreements: np.ndarray,
    source_agreements: np.ndarray,
    source_accuracy: np.ndarray,
    pairwise: bool = False,
) -> np.ndarray:
    """Accuracy of each model on the target, agreement-on-the-line: [M] in 0..1.

    a and b are the least-squares line of probit agreements of all pairs, target against
    source. ALine-S: probit accuracy = a * probit source accuracy + b. ALine-D
    (`pairwise`): for each pair i, j, the mean of both probit accuracies is

        probit agreement + a * (mean probit source accuracy - probit source agreement)

    which is solved for the accuracies by least squares; it takes three models.

    Args:
        agreements, source_agreements: [M, M] of `agreement`.
        source_accuracy: [M].
    """
    count = len(source_accuracy)
    if count < 3:
        raise ValueError(f"a line through agreements takes three models, not {count}")
    pairs = np.array(list(combinations(range(count), 2)))
    there, here = (
        probit(matrix[pairs[:, 0], pairs[:, 1]])
        for matrix in (source_agreements, agreements)
    )
    slope, intercept = _line(there, here)
    known = probit(source_accuracy)
    if not pairwise:
        return norm.cdf(slope * known + intercept)
    halves = np.zeros((len(pairs), count))
    np.put_along_axis(halves, pairs, 0.5, axis=1)
    wanted = here + slope * (halves @ known - there)
    return norm.cdf(np.linalg.lstsq(halves, wanted, rcond=None)[0])


def observe(
    logits: np.ndarray, second: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What the combination sees of logits [M, N, C], in log-odds.

    Args:
        second: predictions [N] of another backbone.

    Returns:
        [M, 3] average confidence, mean certainty and nuclear norm, with a second
        backbone [M, 4], the last its agreement; and [M, M], agreement of methods.
    """
    p, predictions = probabilities(logits), np.asarray(logits).argmax(axis=-1)
    seen = [average_confidence(p), certainty(p).mean(axis=-1), nuclear_norm(p)]
    if second is not None:
        seen.append((predictions == second).mean(axis=-1))
    return log_odds(np.stack(seen, axis=-1)), log_odds(agreement(predictions))


@dataclass(frozen=True)
class Fit:
    """The combination: which accuracy goes with what one sees, learned elsewhere.

    For each method it holds what is usual: the log-odds of its accuracy, of its
    features and of its agreement with every other method. What one sees on new images
    is compared with that. The difference is split into what all methods share (these
    images are harder) and what is the method's own; each has one weight per feature.

    M methods, F features. `spread` is the root mean square error, in log-odds, on a
    data set that the fit has not seen, and `sets` the number of data sets.
    """

    methods: tuple[str, ...]
    accuracy: np.ndarray  # [M]
    features: np.ndarray  # [M, F - 1]
    agreements: np.ndarray  # [M, M]
    shared: np.ndarray  # [F], weights
    own: np.ndarray  # [F]
    spread: float = np.nan
    sets: int = 0
    temperature: np.ndarray | None = None  # [M]
    threshold: np.ndarray | None = None  # [M], ATC's, of confidence
    choice: str = "estimated"  # or "usual": what the choice goes by, see `estimate`
    regret: float = np.nan  # of that choice, on data sets left out
    kept: float = np.nan  # share of the gain promised there that came true

    def predict(self, features: np.ndarray, agreements: np.ndarray) -> np.ndarray:
        """Log-odds of the accuracies [..., M] from what `observe` gives."""
        shared, own = _offsets(features - self.features, agreements - self.agreements)
        return self.accuracy + (shared @ self.shared)[..., None] + own @ self.own

    def interval(self, log_odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The accuracies between which the truth lies on 95 % of new data sets.

        From the spread and Student's t: the data sets are few, however many trials.
        """
        edge = t.ppf((1 + LEVEL) / 2, self.sets - 1) * self.spread
        return expit(log_odds - edge), expit(log_odds + edge)

    def among(self, methods: Sequence[str]) -> "Fit":
        """The fit of some of its methods, in this order."""
        unknown = [name for name in methods if name not in self.methods]
        if unknown:
            known = ", ".join(self.methods)
            raise ValueError(
                f"no fit for {', '.join(unknown)}; there is one for {known}"
            )
        at = [self.methods.index(method) for method in methods]
        columns = ("accuracy", "features", "temperature", "threshold")
        given = {key: getattr(self, key) for key in columns}
        some = {key: value[at] for key, value in given.items() if value is not None}
        pairs = self.agreements[np.ix_(at, at)]
        return replace(self, methods=tuple(methods), agreements=pairs, **some)


def _offsets(
    features: np.ndarray, agreements: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Differences from the usual: their mean over methods [..., F], and what is left.

    Args:
        features: [..., M, F - 1], agreements: [..., M, M].
    """
    others = ~np.eye(agreements.shape[-1], dtype=bool)
    agreed = (agreements * others).sum(axis=-1) / max(len(others) - 1, 1)
    seen = np.concatenate([features, agreed[..., None]], axis=-1)
    shared = seen.mean(axis=-2)
    return shared, seen - shared[..., None, :]


def fit(
    methods: Sequence[str],
    features: np.ndarray,
    agreements: np.ndarray,
    accuracy: np.ndarray,
    sets: Sequence[str],
) -> Fit:
    """Learn the combination from labelled trials on several data sets.

    Every data set counts the same, however many trials it has. Shared and own
    differences are regressed apart, each by ridge regression; a penalty is the one of
    `PENALTIES` that has the least squared error on data sets left out in turn.

    Args:
        features: [T, M, F - 1] and agreements: [T, M, M], of `observe`, for T trials.
        accuracy: [T, M].
        sets: [T], the data set of each trial; two at least.
    """
    names = np.asarray(sets)
    several = sorted(set(names))
    if len(several) < 2:
        raise ValueError(f"a fit takes trials on two data sets, not {several}")
    target = log_odds(accuracy)
    errors = np.zeros((2, len(PENALTIES)))
    for name in several:
        out = names == name
        known = features[~out], agreements[~out], target[~out], names[~out]
        for k, penalty in enumerate(PENALTIES):
            learned = _ridge(*known, penalty)
            missed = learned.predict(features[out], agreements[out]) - target[out]
            common = missed.mean(axis=1, keepdims=True)
            errors[:, k] += (common**2).mean(), ((missed - common) ** 2).mean()
    shared, own = (
        _ridge(features, agreements, target, names, PENALTIES[k])
        for k in errors.argmin(axis=1)
    )
    return replace(
        shared,
        methods=tuple(methods),
        own=own.own,
        spread=float(np.sqrt(errors.min(axis=1).sum() / len(several))),
        sets=len(several),
    )


def _ridge(
    features: np.ndarray,
    agreements: np.ndarray,
    target: np.ndarray,
    sets: np.ndarray,
    penalty: float,
) -> Fit:
    """The usual, and both kinds of weights, with this penalty."""
    _, at, count = np.unique(sets, return_inverse=True, return_counts=True)
    share = 1 / (count[at] * len(count))  # of a trial
    accuracy, seen, agreed = (
        np.tensordot(share, part, 1) for part in (target, features, agreements)
    )
    shared, own = _offsets(features - seen, agreements - agreed)
    missing = target - accuracy
    common = missing.mean(axis=1, keepdims=True)

    def weights(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Of x [T, M, F] for y [T, M]."""
        square = np.einsum("t,tmf,tmg->fg", share, x, x)
        product = np.einsum("t,tmf,tm->f", share, x, y)
        return np.linalg.solve(square + penalty * np.eye(len(square)), product)

    both = weights(shared[:, None], common), weights(own, missing - common)
    return Fit((), accuracy, seen, agreed, *both)


def estimate(
    logits: Mapping[str, ArrayLike],
    second: ArrayLike | None = None,
    fit: Fit | None = None,
) -> pd.DataFrame:
    """How accurate each method probably is on these images, from their logits alone.

    Estimated on drawn worlds, never validated on photographs: what is usual for a
    method and what a surprise means was learned on the data sets of picto and its small
    CLIPs. The interval comes from data sets of picto that the fit had not seen. Nothing
    says that photographs and other weights stay within it.

    Args:
        logits: method -> [N, C], logit scale included, on the same N images. Names as
            in `fit.methods`; a recipe of views, as in "vote-augmix", does not count.
        second: predictions [N] of another backbone, which tell methods apart best.
        fit: by default the packaged one.

    Returns:
        A row per method, in the order given: estimated, with low and high (95 %);
        usual, the accuracy on the fit's data sets; tempered, the average confidence
        with a temperature from there; atc, with a threshold from there. All fractions.
        `.attrs` has the fit's choice, regret and kept, for `recommend`.

    Raises:
        ValueError: methods that the fit does not know, or shapes that do not fit.
    """
    if not logits:
        raise ValueError("nothing to estimate: no logits of any method")
    shapes = {name: np.shape(values) for name, values in logits.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"methods must be about the same images and classes: {shapes}")
    images = next(iter(shapes.values()))[:1]
    if second is not None and np.shape(second) != images:
        raise ValueError(
            f"the second backbone's predictions must be {list(images)}, one per image, "
            f"not {list(np.shape(second))}"
        )
    fit = packaged(second is not None) if fit is None else fit
    some = fit.among([name.partition("-")[0] for name in logits])
    stacked = np.stack([np.asarray(values, np.float32) for values in logits.values()])
    seen = observe(stacked, None if second is None else np.asarray(second))
    if seen[0].shape[1] != some.features.shape[1]:
        raise ValueError(
            "a fit with a second backbone needs its predictions, another takes none: "
            "use packaged(second=True) with them and packaged() without"
        )
    guess = some.predict(*seen)
    low, high = some.interval(guess)
    columns = {"estimated": expit(guess), "low": low, "high": high}
    columns["usual"] = expit(some.accuracy)
    if some.temperature is not None and some.threshold is not None:
        soft = probabilities(stacked, some.temperature)
        columns["tempered"] = average_confidence(soft)
        columns["atc"] = atc(probabilities(stacked).max(axis=-1), some.threshold)
    frame = pd.DataFrame(columns, index=pd.Index(logits, name="method"))
    frame.attrs = {"choice": fit.choice, "regret": fit.regret, "kept": fit.kept}
    return frame


def recommend(frame: pd.DataFrame) -> dict[str, str | float]:
    """The method to use, and what to expect of it.

    Estimated on drawn worlds, never validated on photographs. The choice goes by the
    estimates, or by what is usual where that lost less on data sets left out. Whatever
    is chosen for being the greatest promises more than it keeps: so the gain is
    multiplied by the share that came true there.

    Args:
        frame: of `estimate`; the first row is the method to improve upon, zero-shot.

    Returns:
        method; gain, expected over the first row; regret, expected against the best in
        hindsight. Fractions.
    """
    known = frame[frame.attrs["choice"]]
    best = known.idxmax()
    gain = (known[best] - known.iloc[0]) * frame.attrs["kept"]
    return {"method": best, "gain": float(gain), "regret": frame.attrs["regret"]}


PACKAGED = "estimates.json"


def packaged(second: bool = False) -> Fit:
    """The fit that `tools/estimators.py` made, with a second backbone or without."""
    text = (files(__package__) / PACKAGED).read_text("utf-8")
    values = json.loads(text)["second" if second else "alone"]
    return Fit(
        **{k: np.array(v) if isinstance(v, list) else v for k, v in values.items()}
        | {"methods": tuple(values["methods"])}
    )


def as_json(fit: Fit) -> dict:
    """A fit as JSON can say it, numbers with four digits."""
    plain = {key: getattr(fit, key) for key in ("methods", "sets", "choice")}
    rest = {key: value for key, value in vars(fit).items() if key not in plain}
    return plain | {key: np.round(value, 4).tolist() for key, value in rest.items()}
