"""What chapter 06b varies, one thing at a time, and how a gain responds.

The same pictures are seen at every dose, so that gains are paired from dose to dose. A
gain is +1 for an image that a method rescues, -1 for one that it breaks, and else 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from helpers import store
from helpers.chapters.adaptation import Method, Text, answers, first_view
from helpers.data import embedded
from helpers.data.dataset import Dataset
from helpers.methods import selection, tpt
from helpers.models.clip import Backbone
from helpers.results import compare, findings

GOLDEN = math.pi * (3 - math.sqrt(5))  # directions that differ from scene to scene
ALONE = {"clutter": 0, "occluded": False, "light": "", "quality": ""}


def resized(
    name: str, positions: Sequence[int], size: float, offset: float = 0.0
) -> Dataset:
    """Scenes whose object has this size, so far from the middle of the picture.

    Both are shares of the picture's side: the object's box is `size` wide. Each scene
    has a direction of its own, the same at every offset.
    """
    changes = [
        {
            "scale": size / 2,
            "x": 0.5 + offset * math.cos(GOLDEN * i),
            "y": 0.5 + offset * math.sin(GOLDEN * i),
        }
        for i in positions
    ]
    return embedded.redrawn(
        name, positions, changes, f"size {size:g}, {offset:g} off centre"
    )


def corrupted(positions: Sequence[int], severity: int) -> Dataset:
    """Scenes of picto-c, each with its own kind of corruption, so severe (1 to 5)."""
    changes = [{"severity": severity}] * len(positions)
    return embedded.redrawn("picto-c", positions, changes, f"severity {severity}")


def sketched(name: str, positions: Sequence[int]) -> Dataset:
    """Scenes as sketches, which show the object alone."""
    changes = [{"style": "sketch", **ALONE}] * len(positions)
    return embedded.redrawn(name, positions, changes, "sketched")


def correct(logits: Tensor, labels: ArrayLike) -> np.ndarray:
    """Whether each image's prediction is its label: bool [N] of logits [N, C]."""
    return logits.argmax(dim=-1).cpu().numpy() == np.asarray(labels)


def seen(
    backbone: Backbone,
    doses: Sequence[Dataset],
    text: Text,
    methods: Mapping[str, Method],
    recipe: str,
    count: int,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Whether each method is correct at each dose: bool [doses, N] by method.

    All methods see the same `count` views of an image, see `store.view_features`.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for dataset in doses:
        views = store.view_features(backbone, dataset, recipe, count, seed)
        for name, logits, _ in answers(backbone, dataset, text, methods, views):
            found[name].append(correct(logits, dataset.labels))
    return {name: np.stack(rows) for name, rows in found.items()}


def room(views: Tensor, text: Text, labels: ArrayLike, kept: int) -> np.ndarray:
    """Where a vote has room: view 0 is wrong and one of the surest views is right.

    Bool [N] of views [N, V, D]; the `kept` views of lowest entropy count.
    """
    views = views.to(text.class_features)
    side = text.class_features, text.logit_scale
    choices = selection.ranked_choices(views, *side)[:, :kept].cpu().numpy()
    some = (choices == np.asarray(labels)[:, None]).any(axis=1)
    return some & ~correct(first_view(views, text), labels)


def responses(
    hits: Mapping[str, ArrayLike], base: ArrayLike, doses: Sequence[float], dose: str
) -> pd.DataFrame:
    """Each method's gain at each dose, a row for both.

    Args:
        hits: method -> whether it is correct, bool [doses, N].
        base: the same of what it is compared with.
        dose: the name of the column of doses.

    Returns:
        method, the dose, and the columns of `compare.paired_difference`.
    """
    rows = [
        {"method": method, dose: at} | compare.paired_difference(ours, theirs)
        for method, of_doses in hits.items()
        for at, ours, theirs in zip(doses, of_doses, np.asarray(base), strict=True)
    ]
    return pd.DataFrame(rows)


def trend(gains: ArrayLike, doses: Sequence[float]) -> dict[str, float]:
    """How much a gain changes from the lowest to the highest dose.

    Along the line of best fit through the mean gains, with doses at equal steps in
    their order: an image adds its own slope, so that the interval is paired.

    Args:
        gains: [doses, N], of the same N images at every dose.

    Returns:
        difference, ci_low, ci_high, p, se and n as in `compare.over_orders`; those of
        `_turn`, since a line hides a peak; first and last, the mean gains at the ends.

    Raises:
        ValueError: fewer than two different doses, or a row too many or too few.
    """
    gains = np.asarray(gains, dtype=float)
    if len(set(doses)) < 2 or len(gains) != len(doses):
        raise ValueError(
            f"{len(gains)} rows of gains at doses {list(doses)}: a trend needs a row "
            "for each dose, and two doses at least"
        )
    rank = np.unique(doses, return_inverse=True)[1].astype(float)
    centred = rank - rank.mean()
    weights = centred / (centred @ centred) * rank.max()
    ordered = gains[np.argsort(rank)]
    ends = {"first": ordered[0].mean(), "last": ordered[-1].mean()}
    return change(weights @ gains) | _turn(ordered, sorted(doses)) | ends


def _turn(gains: np.ndarray, doses: Sequence[float]) -> dict[str, float]:
    """Where between the ends gains [doses, N] have a peak or a trough; NaN for none.

    turn, the dose; turned, the mean gain there; turned_by, its change from the first
    dose. The 95 % intervals of the changes from both ends leave out 0.
    """
    middle = gains[1:-1].mean(axis=1)
    for sign in (1, -1):
        if len(middle):
            at = 1 + int((sign * middle).argmax())
            rises = [change(sign * (gains[at] - gains[end])) for end in (0, -1)]
            if min(rise["ci_low"] for rise in rises) > 0:
                by = sign * rises[0]["difference"]
                return {"turn": doses[at], "turned": middle[at - 1], "turned_by": by}
    return dict.fromkeys(("turn", "turned", "turned_by"), np.nan)


def change(values: ArrayLike) -> dict[str, float]:
    """Mean of a value per image, [N], with interval, p and se over images."""
    found = compare.over_orders(np.asarray(values, dtype=float)[None])
    return {k: found[k] for k in ("difference", "ci_low", "ci_high", "p", "se", "n")}


def class_sets(class_features: Tensor, count: int, alike: bool) -> Tensor:
    """For each class, itself and the `count` - 1 most (or least) similar: [C, count].

    Similar by the cosine of unit class features [C, D]. In every row classes ascend,
    so that ties in arg-max go to the lower class, as among all.
    """
    if not 2 <= count <= len(class_features):
        raise ValueError(f"{count} classes: accepted are 2 to {len(class_features)}")
    cosines = class_features @ class_features.T
    cosines = cosines if alike else -cosines
    cosines.fill_diagonal_(torch.inf)
    order = cosines.argsort(dim=1, descending=True, stable=True)
    return order[:, :count].sort(dim=1)[0]


def among(text: Text, classes: Tensor) -> Text:
    """The text side of some classes alone, int64 [count]: of text [C, ...]."""

    def features(context: Tensor) -> Tensor:
        return text.tower.features(context)[..., classes.to(context.device), :]

    rows = classes.to(text.class_features.device)
    jacobian = None if text.jacobian is None else text.jacobian[rows]
    some = {"class_features": text.class_features[rows], "jacobian": jacobian}
    return replace(text, tower=SimpleNamespace(features=features), **some)


def correct_among(
    method: Method, views: Tensor, text: Text, labels: ArrayLike, sets: Tensor
) -> np.ndarray:
    """Whether a method is correct where an image of class c may be one of sets[c].

    Args:
        views: [N, V, D].
        sets: int64 [C, count], see `class_sets`.

    Returns:
        bool [N].
    """
    views, labels = views.to(text.class_features), torch.as_tensor(labels)
    found = np.zeros(len(labels), dtype=bool)
    for label in labels.unique().tolist():
        of_class = labels == label
        logits = method(views[of_class.to(views.device)], among(text, sets[label]))
        chosen = sets[label][logits.argmax(dim=-1).cpu()]
        found[of_class.numpy()] = (chosen == label).numpy()
    return found


def spread(hits: ArrayLike, draws: int = 1000, seed: int = 0) -> dict[str, float]:
    """How much accuracy differs from wording to wording, and how much by chance.

    Under chance, an image does not care which wording is which: its hits are dealt to
    the wordings anew (Cochran's Q test, by permutation).

    Args:
        hits: bool [wordings, N].

    Returns:
        spread: standard deviation of the accuracies; by_chance: the mean of those dealt
        anew; p: the share of these that are as large.
    """
    hits = np.asarray(hits, dtype=float)
    if hits.ndim != 2 or len(hits) < 2:
        raise ValueError(f"hits are {list(hits.shape)}: expected [wordings, images]")
    rng = np.random.default_rng(seed)
    dealt = [rng.permuted(hits, axis=0).mean(axis=1).std(ddof=1) for _ in range(draws)]
    found = hits.mean(axis=1).std(ddof=1)
    as_large = np.sum(np.array(dealt) >= found - 1e-12)
    return {
        "spread": float(found),
        "by_chance": float(np.mean(dealt)),
        "p": float((1 + as_large) / (1 + draws)),
    }


class Step(NamedTuple):
    """What one step of TPT changes, image by image."""

    logits: Tensor  # [N, C] of view 0 after the step
    before: Tensor  # [N, C], ln of the kept views' mean probability before the step
    after: Tensor  # [N, C], the same after it
    cosine: Tensor  # [N], of class features before and after, mean over classes


def step(views: Tensor, text: Text, learning_rate: float) -> Step:
    """TPT's one step on each image of views [N, V, D], taken apart."""
    side = text.tower.features, text.logit_scale, text.context
    how = {"learning_rate": learning_rate, "batch": text.batch}
    views = views.to(text.class_features)
    tuned = tpt.tune(views, *side, jacobian=text.jacobian, **how)
    kept = selection.take(views, tuned.selected)
    parts = []
    images = (t.split(text.batch) for t in (views[:, 0], kept, tuned.context))
    for original, trusted, context in zip(*images, strict=True):
        with torch.no_grad():
            moved = text.tower.features(context)  # [b, C, D]
        parts.append(
            (
                text.logit_scale * (original[:, None] @ moved.mT)[:, 0],
                selection.log_marginal(
                    text.logit_scale * trusted @ text.class_features.T
                ),
                selection.log_marginal(text.logit_scale * trusted @ moved.mT),
                F.cosine_similarity(moved, text.class_features, dim=-1).mean(dim=1),
            )
        )
    return Step(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def sentence(row: Mapping[str, float | str]) -> str:
    """A change in words, from `subject`, `over`, its interval and its `verdict`.

    A change is claimed where `compare.corrected` finds one.
    """
    subject = findings.capitalised(row["subject"])
    if row["verdict"] in compare.DECIDED:
        way = "rises" if row["difference"] > 0 else "falls"
        change = f"{way} by {findings.amount(row)} {row['over']}"
        if np.isnan(row.get("turn", np.nan)):
            return f"{subject} {change}."
        ends = f"from {100 * row['first']:+.1f} to {100 * row['last']:+.1f} points"
        turn = "a peak" if row["turned_by"] > 0 else "a trough"
        there = f"{turn} of {100 * row['turned']:+.1f} at {row['turn']:g}"
        text = f"{subject} goes {ends} {row['over']}, with {there}. A straight line "
        return f"{text}{way} by {findings.amount(row)}."
    change = findings.points(row, " points")
    return f"{subject} {row['over']}: {change}, {row['verdict']}."
