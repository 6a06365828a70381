"""Paying only where it pays: an image gets more views while its outcome is in doubt.

A method on V views costs V passes of the image encoder per image. Most images do not
need them: their class is clear after a few views. Two rules, alone or together, end
the looking early. Views come in chunks of c: after n = 1, c, 2c, ..., V of them, the
original image first, we ask how far the two best classes are apart,

    q_n = mean_{v in S_n} softmax(s <f_v, t_c>)      d_n = largest q_n - second largest

with S_n the max(1, int(rho n)) views of lowest entropy among the n, so that a later
view may displace one that was kept. At n = 1 this is zero-shot's own margin.

    gate          stop at n = 1 where d_1 >= g; the other images get all V views
    sequential    stop at the first n >= c where d_n >= m

The method, any method on views, then adapts on the n views alone; after one view,
zero-shot decides. The margin is the vote's for every method, so that nothing is adapted
before the looking has ended. g and m are chosen where all views are known, by how many
predictions they change against the full price (`try_rules`), which needs no labels.

One outcome needs no threshold: ZERO (arXiv 2405.18330) counts the votes of the K =
int(rho V) surest views, one each. After n views, r = V - n are to come. They displace r
of the K voters at most, so the K - r surest of the n views will vote in any case. Is
one class ahead of every other by more than r votes among these K - r, it wins, whatever
the rest will be: each later voter changes a lead by one at most. A lead that holds
there also holds among the int(rho n) surest, since K - r <= int(rho n) <= K; so ZERO on
the n views predicts the same class. As a lead is at most K - r, such a proof needs r <
K / 2: it saves less than rho / 2 of the views, however clear the image.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.methods import selection
from helpers.methods.registry import method
from helpers.methods.vote import confident_vote
from helpers.methods.zero_shot import zero_shot

CHUNK = 8  # views
NEVER = 2.0  # a threshold that no margin reaches
LIMITS = (*(step / 20 for step in range(1, 20)), NEVER)  # thresholds that are tried

Adapt = Callable[[Tensor], Tensor]
"""Views [b, n, D] -> logits [b, C]: a method with all that it needs besides views."""


@method("vote_adaptive", chapter="06c")
@method("zero_adaptive", chapter="06c")
@method("mta_adaptive", chapter="06c")
@method("tps_adaptive", chapter="06c")
@method("tpt_adaptive", chapter="06c")
def adaptive(
    views: Tensor,
    class_features: Tensor,
    logit_scale: float,
    adapt: Adapt,
    gate: float = NEVER,
    margin: float = NEVER,
    chunk: int = CHUNK,
) -> Tensor:
    """Logits float32 [B, C] of unit views [B, V, D], looked at as far as it pays.

    Args:
        adapt: the method; see `share` where it keeps a share of the views.
        gate: the zero-shot margin from which on an image is not adapted.
        margin: the vote's margin from which on an image gets no more views.
        chunk: views that come at a time.
    """
    counts = stages(views.shape[1], chunk)
    ends = stops(margins(views, class_features, logit_scale, counts), gate, margin)
    seen = torch.tensor(counts, device=views.device)[ends]
    return from_seen(views, class_features, logit_scale, adapt, seen)


def from_seen(
    views: Tensor,
    class_features: Tensor,
    logit_scale: float,
    adapt: Adapt,
    seen: Tensor,
) -> Tensor:
    """Logits float32 [B, C] of `adapt` on the first `seen` [B] of views [B, V, D].

    After one view these are zero-shot's. Later views are not read and may be NaN.
    """
    logits = views.new_empty((len(views), len(class_features)), dtype=torch.float32)
    for n in seen.unique().tolist():
        rows = seen == n
        if n == 1:
            found = zero_shot(views[rows, 0], class_features, logit_scale)
        else:
            found = adapt(views[rows, :n])
        logits[rows] = found.to(logits)
    return logits


def stages(views: int, chunk: int = CHUNK) -> tuple[int, ...]:
    """After how many of so many views we may stop: 1, whole chunks, all of them."""
    if views < 1 or chunk < 1:
        raise ValueError(f"{views} views in chunks of {chunk}: both are 1 or more")
    return tuple(sorted({1, *range(chunk, views, chunk), views}))


def share(rho: float, views: int) -> float:
    """rho, or where it keeps none of so few views, a share that keeps one."""
    return rho if int(rho * views) else min(1.0, 1.5 / views)


def margins(
    views: Tensor,
    class_features: Tensor,
    logit_scale: float,
    counts: Sequence[int],
    rho: float = 0.1,
) -> Tensor:
    """d_n float32 [B, S] of views [B, V, D] after n views, for each n of `counts`.

    A single class has no rival: its margin is its probability, 1.
    """
    found = []
    for n in counts:
        some = views[:, :n], class_features, logit_scale, share(rho, n)
        found.append(_lead(confident_vote(*some).exp()))
    return torch.stack(found, dim=1)


def stops(margins: Tensor, gate: float = NEVER, margin: float = NEVER) -> Tensor:
    """The stage int64 [B] at which each image stops, from its margins [B, S].

    NaN is the margin of views that were not looked at: nothing stops there.
    """
    limits = margins.new_full(margins.shape[1:], margin)
    limits[0] = gate
    clear = margins >= limits
    clear[:, -1] = True
    return clear.int().argmax(dim=1)


class Tried(NamedTuple):
    """A pair of thresholds, and what came of it on some images."""

    gate: float
    margin: float
    views: float  # that an image took on average
    unlike: float  # share of predictions that are not the full price's


def try_rules(
    margins: Tensor, predictions: Tensor, counts: Sequence[int]
) -> list[Tried]:
    """Pairs of thresholds on images whose views are all known; no label is used.

    Both are 0.05, 0.1, ..., 0.95 or `NEVER`, which twice is the full price. The first
    pair has a gate of 0, which adapts nothing.

    Args:
        margins: [N, S].
        predictions: classes int64 [N, S] of the method after each stage.
        counts: views after each stage.
    """
    pairs = [(0.0, NEVER), *product(LIMITS, LIMITS)]
    views, found = torch.tensor(counts, dtype=torch.float64), []
    for gate, margin in pairs:
        ends = stops(margins, gate, margin).cpu()
        chosen = predictions.gather(1, ends[:, None])[:, 0]
        unlike = (chosen != predictions[:, -1]).double().mean().item()
        found.append(Tried(gate, margin, views[ends].mean().item(), unlike))
    return found


def settled(choices: Tensor, views: int, rho: float = 0.3) -> Tensor:
    """Whether no further view can change ZERO's outcome, bool [B].

    Args:
        choices: the classes int64 [B, n] of the views seen so far, the surest first, as
            `selection.ranked_choices` gives them.
        views: V, how many there will be.
        rho: ZERO's.
    """
    to_come = views - choices.shape[1]
    if to_come < 0:
        raise ValueError(f"{choices.shape[1]} views were seen, more than {views}")
    voters = selection.keep_count(views, rho) - to_come
    if voters < 1:
        return torch.zeros_like(choices[:, 0], dtype=torch.bool)
    certain = choices[:, :voters]
    votes = certain.new_zeros((len(choices), int(choices.max()) + 1))
    votes.scatter_add_(1, certain, torch.ones_like(certain))
    return _lead(votes) > to_come


def _lead(scores: Tensor) -> Tensor:
    """The largest of [B, C] less the second largest, or less nothing: [B]."""
    if scores.shape[1] == 1:
        return scores[:, 0]
    first, second = scores.topk(2, dim=1).values.unbind(dim=1)
    return first - second
