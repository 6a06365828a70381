"""Views of chapter 06c: as many as a stopping rule asks for, stage by stage.

A stage is a number of views after which a rule may stop (`sequential.stages`). What a
method predicts at each stage is kept side by side, so that every rule can be applied
by picking a stage for each image.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from helpers import store
from helpers.chapters import adaptation
from helpers.chapters.adaptation import Method, Text
from helpers.data.dataset import Dataset
from helpers.methods import sequential, tpt, vote
from helpers.methods.mta import mta
from helpers.methods.tps import tps
from helpers.methods.zero import zero
from helpers.models.clip import Backbone
from helpers.results import compare

METHODS = {
    "vote": (vote.confident_vote, 0.1),
    "zero": (zero, 0.3),
    "mta": (mta, None),
    "tps": (tps, 0.1),
    "tpt": (tpt.tpt, 0.1),
}
"""Each method and the share of the views that it keeps, as in its paper."""


class Rule(NamedTuple):
    """Thresholds of `sequential.stops`."""

    gate: float
    margin: float


class Encoded(NamedTuple):
    """Views of N images in S stages; NaN, or 0 seconds, where none were encoded."""

    views: Tensor  # [N, V, D] on the backbone's device
    margins: Tensor  # float32 [N, S] on the CPU
    seconds: Tensor  # float32 [N, S], to read, draw and encode the views of a stage


def look(
    backbone: Backbone,
    dataset: Dataset,
    text: Text,
    recipe: str,
    counts: Sequence[int],
    seed: int = 0,
    rules: Sequence[Rule] | None = None,
) -> Encoded:
    """Encode all views of all images or, with rules, the chunks that a rule asks for.

    Chunks are encoded one after another, and only for the images on which some rule
    has not stopped yet; `store.chunk_features` keeps them. The first view is the image,
    whose features `store.image_features` makes in large batches.
    """
    shape, total = (len(dataset), len(counts)), counts[-1]
    margins, seconds = torch.full(shape, torch.nan), torch.zeros(shape)
    side = text.class_features, text.logit_scale
    if rules is None:
        made_by = backbone, dataset, recipe, total, seed
        views = store.view_features(*made_by).to(backbone.device)
        each = store.view_seconds_per_image(*made_by) / total
        seconds += each * torch.tensor(counts).diff(prepend=torch.tensor([0]))
        return Encoded(views, sequential.margins(views, *side, counts).cpu(), seconds)
    size = len(dataset), total, backbone.embed_dim
    views = torch.full(size, torch.nan, dtype=torch.float16, device=backbone.device)
    at = torch.arange(len(dataset))
    for stage, (start, n) in enumerate(pairwise((0, *counts))):
        if not len(at):
            break
        if n == 1:
            found = store.image_features(backbone, dataset)[:, None]
            seconds[:, 0] = store.seconds_per_image(backbone, dataset)
        else:
            span = backbone, dataset, recipe, range(start, n), at.tolist(), seed
            found, seconds[at, stage] = store.chunk_features(*span)
        views[at, start:n] = found.to(views)
        margins[at, stage] = sequential.margins(views[at, :n], *side, [n]).cpu()[:, 0]
        ends = torch.stack([sequential.stops(margins, *rule) for rule in rules])
        at = (ends.amax(dim=0) > stage).nonzero()[:, 0]
    return Encoded(views, margins, seconds)


def of_view_count(name: str, views: int) -> Method:
    """A method of `METHODS` with its share for this number of views: at least one."""
    function, rho = METHODS[name]
    share = rho and sequential.share(rho, views)
    settings = {} if share == rho else {"rho": share}
    if name == "tpt":
        return adaptation.by_tuning(function, **settings)
    return adaptation.in_feature_space(partial(function, **settings))


def stage_logits(
    backbone: Backbone,
    dataset: Dataset,
    text: Text,
    name: str,
    encoded: Encoded,
    counts: Sequence[int],
    ends: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A method's logits after each stage, or after the stages that are asked for.

    Args:
        ends: stages int64 [N, R] of each image besides the first, which costs nothing
            but zero-shot; by default all stages of all images.

    Returns:
        float32 [N, S, C] on the CPU, NaN where nothing was asked for, and what adapting
        took, seconds [N, S].
    """
    shape = len(dataset), len(counts), len(text.class_features)
    logits, seconds = torch.full(shape, torch.nan), torch.zeros(shape[:2])
    for stage, n in enumerate(counts):
        rows = torch.arange(len(dataset))
        if ends is not None and stage:
            rows = rows[(ends == stage).any(dim=1)]
        if not len(rows):
            continue
        some, seen = dataset.subset(rows.tolist()), encoded.views[rows, :n]
        run = adaptation.first_view if n == 1 else of_view_count(name, n)
        label = f"{name} on {n} views"
        ((_, found, spent),) = adaptation.answers(
            backbone, some, text, {label: run}, seen
        )
        logits[rows, stage], seconds[rows, stage] = found.float(), spent
    return logits, seconds


def pick(values: Tensor, ends: Tensor) -> Tensor:
    """Of values [N, S, ...] those of each image's stage: [N, ...]."""
    return values[torch.arange(len(values)), ends]


def macro(
    gains: Mapping[str, np.ndarray], resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean over data sets of their mean gains, and of resampled images' [resamples, P].

    Images are resampled with replacement within each data set, together for all P
    columns, so that columns can be compared draw by draw.

    Args:
        gains: data set -> float [N, P], what image n gains by way p.
    """
    rng, means, draws = np.random.default_rng(seed), [], []
    for values in gains.values():
        count = len(values)
        weights = compare.draws(rng, count, resamples)
        means.append(values.mean(axis=0))
        draws.append(weights @ values / count)
    return np.mean(means, axis=0), np.mean(draws, axis=0)


def kept(part: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
    """95 % interval of the share of a gain that is kept, from draws [resamples]."""
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw without a gain
        shares = part / whole
    shares = shares[np.isfinite(shares)]
    if not len(shares):
        return np.nan, np.nan
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def with_intervals(means: np.ndarray, draws: np.ndarray) -> pd.DataFrame:
    """difference, ci_low and ci_high (95 %) of `macro`'s columns, a row each."""
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return pd.DataFrame({"difference": means, "ci_low": low, "ci_high": high})
