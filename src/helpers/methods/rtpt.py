"""R-TPT: minimise the entropy of each view, then weight views by their similarity.

R-TPT: Improving Adversarial Robustness of Vision-Language Models through Test-Time
Prompt Tuning, Sheng et al. 2025, arXiv 2504.11195; code TomSheng21/R-TPT. The prompt is
tuned as in `tpt`, on the mean of the confident views' entropies in place of the entropy
of their mean. All V views vote with weights that come from their features alone:

    r_v = mean of the 20 highest cosines of view v with the other views
    a = softmax(r / 0.01)              logits = sum_v a_v z_v

`reliable_vote` is the vote without the tuning, which costs nothing.

Deviations: a view is left out of its own neighbours by position; the code drops cosines
of 1 or more, which misses views whose rounded norm is below 1. With fewer than 21 views
all others count, and a view alone is its own result.
"""

from typing import Any

import torch
from torch import Tensor

from helpers.methods import selection
from helpers.methods.tpt import TextFeatures, tune, view_logits

NEIGHBOURS = 20
TEMPERATURE = 0.01


def reliable_vote(views: Tensor, class_features: Tensor, logit_scale: float) -> Tensor:
    """Weighted logits float32 [B, C] of unit views [B, V, D], nothing tuned."""
    selection.check(views, class_features)

    def vote(views: Tensor, class_features: Tensor) -> Tensor:
        mean = torch.einsum("bv,bvd->bd", reliability(views), views)
        return logit_scale * mean @ class_features.T

    return selection.in_chunks(vote, views, class_features, views.shape[1] ** 2)


def rtpt(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    context: Tensor,
    **tuning: Any,
) -> Tensor:
    """Weighted logits [B, C] of all views under the tuned context, see `tpt.tpt`."""

    def loss(logits: Tensor, class_features: Tensor) -> Tensor:
        return selection.entropy(logits).mean(dim=1)

    tuned = tune(views, text_features, logit_scale, context, loss=loss, **tuning)
    batch = tuning.get("batch", 1)
    made = view_logits(views, text_features, logit_scale, tuned.context, batch)
    return torch.einsum("bv,bvc->bc", reliability(views).to(made.dtype), made)


def reliability(views: Tensor) -> Tensor:
    """a [B, V], at least float32, of unit views [B, V, D]."""
    views = views.to(torch.promote_types(views.dtype, torch.float32))
    cosines = views @ views.mT
    cosines.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    others = min(NEIGHBOURS, views.shape[1] - 1)
    if not others:
        return torch.ones_like(views[..., 0])
    near = cosines.topk(others, dim=2).values.mean(dim=2)
    return (near / TEMPERATURE).softmax(dim=1)
