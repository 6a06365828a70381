"""A-TPT: prompt tuning that increases each class's smallest angle to another class.

A-TPT: Angular Diversity Calibration Properties for Test-Time Prompt Tuning of
Vision-Language Models, Ahamed et al. 2025, arXiv 2510.26441. With unit class features
t_c of the context p and TPT's loss L:

    diversity = mean_c min_{k != c} arccos(t_c t_k)
    L_A(p) = L(p) - lambda diversity

lambda is 60 on ImageNet's variants and 100 on fine-grained sets, as in the port of
yuweiliang911/CoTS, which also keeps cosines within 0.999 of 0, away from the infinite
slope of arccos at 1. As in C-TPT, lambda acts where it turns a gradient's sign.

Deviation: one class alone has no other, so its diversity is 0 and this is TPT.
"""

from typing import Any

import torch
from torch import Tensor

from helpers.methods.ctpt import spreading
from helpers.methods.registry import method
from helpers.methods.tpt import TextFeatures, tpt

LARGEST_COSINE = 0.999


@method(
    "atpt",
    "A-TPT",
    "tuned prompts",
    paper="arXiv 2510.26441",
    chapter="02",
    speaker="",
    published=("A-TPT",),
)
def atpt(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    context: Tensor,
    spread_weight: float = 60.0,
    **tuning: Any,
) -> Tensor:
    """Logits [B, C] of view 0 of views [B, V, D]: `tpt` with A-TPT's loss."""
    loss = spreading(diversity, spread_weight)
    return tpt(views, text_features, logit_scale, context, loss=loss, **tuning)


def diversity(class_features: Tensor) -> Tensor:
    """Mean angle of unit class features [..., C, D] to their nearest other: [...]."""
    count = class_features.shape[-2]
    if count == 1:
        return class_features.new_zeros(class_features.shape[:-2])
    cosines = class_features @ class_features.mT
    cosines = cosines.clamp(min=-LARGEST_COSINE, max=LARGEST_COSINE)
    own = torch.eye(count, dtype=torch.bool, device=cosines.device)
    angles = cosines.arccos().masked_fill(own, torch.inf)
    return angles.amin(dim=-1).mean(dim=-1)
