"""ZERO: confident views vote at temperature zero.

Frustratingly Easy Test-Time Adaptation of Vision-Language Models, Farina et al. 2024,
arXiv 2405.18330, algorithm 1; code FarinaMatteo/zero. The K = int(rho V) views S of
lowest entropy, measured at CLIP's own temperature, have one vote each:

    n_c = #{v in S: argmax_c' <f_v, t_c'> = c}        prediction argmax_c n_c

rho (gamma in the paper) is 0.3 as in the released code, 19 of 64 views.

A tie goes to the first rejected view, the most confident first, whose arg-max is one of
the tied classes. Does none vote for them, the first rejected view chooses by its logits
among them (where none is rejected, the most confident view). The winner gets one more
vote, as in the released code.

Deviation. Votes are integers; the code divides by the smallest step of the dtype
instead, which under fp16 leaves a temperature of 1/1024 at which close classes share a
vote.

A class's probability is its share of the votes, too coarse to be called calibrated:
name the rule beside any ECE. A class without votes gets ln of the smallest normal
float32, -87.3, instead of minus infinity, so that logits stay finite; the negative log
likelihood of a miss says little more than that it was one.
"""

import torch
from torch import Tensor

from helpers.methods import selection
from helpers.methods.registry import method


@method(
    "zero",
    "ZERO",
    "votes",
    paper="arXiv 2405.18330",
    chapter="02",
    colour="#0173b2",
    published=("ZERO",),
    headline=True,
)
def zero(
    views: Tensor, class_features: Tensor, logit_scale: float, rho: float = 0.3
) -> Tensor:
    """ln of the vote share, float32 [B, C], of unit views [B, V, D]."""
    selection.check(views, class_features)
    count = views.shape[1]
    keep = selection.keep_count(count, rho)

    def vote(views: Tensor, class_features: Tensor) -> Tensor:
        logits = logit_scale * views @ class_features.T
        order = selection.confident(logits, count)
        choices = logits.argmax(dim=-1).gather(1, order)  # [B, V], surest view first
        ones = torch.ones_like(choices[:, :keep])
        votes = torch.zeros_like(logits[:, 0], dtype=torch.int64)
        votes.scatter_add_(1, choices[:, :keep], ones)
        tied = votes == votes.amax(dim=1, keepdim=True)
        referee = order[:, keep % count, None]  # first rejected, or else the surest
        winner = _winner(tied, choices[:, keep:], selection.take(logits, referee)[:, 0])
        extra = (tied.sum(dim=1, keepdim=True) > 1).long()
        votes.scatter_add_(1, winner, extra)
        share = votes / votes.sum(dim=1, keepdim=True)
        return share.clamp(min=torch.finfo(share.dtype).tiny).log()

    return selection.in_chunks(vote, views, class_features)


def _winner(tied: Tensor, choices: Tensor, logits: Tensor) -> Tensor:
    """The class [B, 1] that wins among those `tied` [B, C].

    `choices` [B, R] are the classes of the rejected views, the surest first; `logits`
    [B, C], the referee's, decide where none of those is tied.
    """
    fallback = logits.masked_fill(~tied, -torch.inf).argmax(dim=1, keepdim=True)
    ballots = torch.cat([choices, fallback], dim=1)
    first = tied.gather(1, ballots).long().argmax(dim=1, keepdim=True)
    return ballots.gather(1, first)
