"""C-TPT: prompt tuning that keeps the class features apart, for better calibration.

C-TPT: Calibrated Test-Time Prompt Tuning for Vision-Language Models via Text Feature
Dispersion, Yoon et al. 2024, arXiv 2403.14119. With unit class features t_c of the
context p, their mean m, and TPT's loss L:

    dispersion = mean_c ||t_c - m||        L_C(p) = L(p) - lambda dispersion

Prompts whose class features lie apart were found to be better calibrated. lambda is 50
on fine-grained sets and 20 on ImageNet's variants. Since TPT's one step goes by the
sign of the gradient, lambda acts where it turns a sign, and only there.

The authors' scripts make the views of ImageNet's variants with AugMix, unlike TPT's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from helpers.methods import selection
from helpers.methods.registry import method
from helpers.methods.tpt import Loss, TextFeatures, tpt


@method(
    "ctpt",
    "C-TPT",
    "tuned prompts",
    paper="arXiv 2403.14119",
    chapter="02",
    published=("C-TPT",),
    headline=True,
)
@method("ctpt_matched", "C-TPT, step matched")
def ctpt(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    context: Tensor,
    spread_weight: float = 20.0,
    **tuning: Any,
) -> Tensor:
    """Logits [B, C] of view 0 of views [B, V, D]: `tpt` with C-TPT's loss."""
    loss = spreading(dispersion, spread_weight)
    return tpt(views, text_features, logit_scale, context, loss=loss, **tuning)


def spreading(spread: Callable[[Tensor], Tensor], weight: float) -> Loss:
    """TPT's loss less `weight` times the spread of class features [..., C, D]."""

    def loss(logits: Tensor, class_features: Tensor) -> Tensor:
        return selection.marginal_entropy(logits) - weight * spread(class_features)

    return loss


def dispersion(class_features: Tensor) -> Tensor:
    """Mean distance of class features [..., C, D] from their mean: [...]."""
    apart = class_features - class_features.mean(dim=-2, keepdim=True)
    return torch.linalg.vector_norm(apart, dim=-1).mean(dim=-1)
