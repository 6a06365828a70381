"""Voting: the mean probability of an image's views, nothing tuned.

What remains of test-time prompt tuning (Shu et al. 2022, arXiv 2209.07511) without its
step on the prompt: with the K views S of lowest entropy,

    p_v = softmax(s <f_v, t_c>)        q = mean_{v in S} p_v        prediction argmax q

Two forms differ in how they count and measure. `confident_vote` is TPT's: K = int(rho
V) of all views, 6 of 64. `reference_vote` is that of the public repository
LuCazzola/TTA_DL-Project: K = ceil(rho (V - 1)), counted on the augmentations but taken
from all views, 7 of 64, by the entropy -sum p ln(p + 1e-9). Two baselines select
nothing: `mean_vote` trusts all views, `random_vote` as many as TPT's vote keeps.

Every function returns ln q, so that softmax gives q back. The mean is taken in log
space, which keeps ln q finite where float32 probabilities round to zero.
"""

import math

from torch import Tensor

from helpers.methods import selection
from helpers.methods.registry import method

EPSILON = 1e-9


@method(
    "vote",
    "vote of views",
    "votes",
    paper="arXiv 2209.07511",
    chapter="02",
    colour="#56b4e9",
    published=(
        "VTE",
        "TTA_DL-Project: vote PreAugment",
        "TTA_DL-Project: vote AugMix",
        "TTA_DL-Project: vote AutoAugment",
    ),
    headline=True,
)
@method("vote_episodic", title="vote of views", chapter="05b")
def confident_vote(
    views: Tensor, class_features: Tensor, logit_scale: float, rho: float = 0.1
) -> Tensor:
    """ln q float32 [B, C] of unit views [B, V, D], TPT's K and entropy."""
    selection.check(views, class_features)
    keep = selection.keep_count(views.shape[1], rho)

    def vote(views: Tensor, class_features: Tensor) -> Tensor:
        logits = logit_scale * views @ class_features.T
        positions = selection.confident(logits, keep)
        return selection.log_marginal(selection.take(logits, positions))

    return selection.in_chunks(vote, views, class_features)


def reference_vote(
    views: Tensor, class_features: Tensor, logit_scale: float, rho: float = 0.1
) -> Tensor:
    """ln q float32 [B, C] of unit views [B, V, D], the reference project's form."""
    selection.check(views, class_features)
    keep = reference_keep_count(views.shape[1], rho)

    def vote(views: Tensor, class_features: Tensor) -> Tensor:
        logits = logit_scale * views @ class_features.T
        p = logits.softmax(dim=-1)
        positions = selection.lowest(-(p * (p + EPSILON).log()).sum(dim=-1), keep)
        return selection.log_marginal(selection.take(logits, positions))

    return selection.in_chunks(vote, views, class_features)


@method("vote_mean", "mean of views", headline=True)
def mean_vote(views: Tensor, class_features: Tensor, logit_scale: float) -> Tensor:
    """ln q float32 [B, C] of unit views [B, V, D], the mean over all of them."""
    selection.check(views, class_features)

    def vote(views: Tensor, class_features: Tensor) -> Tensor:
        return selection.log_marginal(logit_scale * views @ class_features.T)

    return selection.in_chunks(vote, views, class_features)


@method("vote_random", "random views", headline=True)
def random_vote(
    views: Tensor, class_features: Tensor, logit_scale: float, rho: float = 0.1
) -> Tensor:
    """ln q float32 [B, C] of unit views [B, V, D], the first K = int(rho V).

    View 0 is the image itself, and the others were drawn in this order.
    """
    selection.check(views, class_features)
    keep = selection.keep_count(views.shape[1], rho)
    return mean_vote(views[:, :keep], class_features, logit_scale)


def reference_keep_count(views: int, rho: float) -> int:
    """K = ceil(rho (V - 1)) for rho in (0, 1]; needs one augmentation at least."""
    if not 0 < rho <= 1:
        raise ValueError(f"rho is {rho}, but must lie above 0 and at most at 1")
    if views < 2:
        raise ValueError(
            f"{views} view keeps none: this form counts augmentations only, so make "
            "2 views or more, or use confident_vote with rho 1"
        )
    return math.ceil(rho * (views - 1))
