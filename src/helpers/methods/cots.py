"""CoTS: a temperature for each tuned image that restores the zero-shot confidence.

Bridging the Confidence Gap: Temperature Scaling for Calibrating Test-Time Prompt
Tuning; code yuweiliang911/CoTS. Tuning makes an image's views surer than they were. Of
the views but view 0, take the K = max(1, int(rho (V - 1))) of lowest entropy after the
tuning, A, with logits z' after and z before it:

    T = argmin_T  sum_{v in A} (max softmax(z'_v / T) - max softmax(z_v))^2

CoTS divides view 0's logits by T: no label is needed and no prediction changes.

Deviations. The code takes 50 steps of Adam on ln T from 0; here ln T comes from a grid
over [-3, 3], refined. E-CoTS, which mixes in the other views, is left out.
"""

from typing import Any

import torch
from torch import Tensor

from helpers.methods import selection
from helpers.methods.registry import method
from helpers.methods.tpt import (
    TextFeatures,
    class_logits,
    confident_marginal,
    revote,
    tpt,
    tune,
    view_logits,
)

LOG_RANGE = 3.0
GRID = 61
REFINEMENTS = 25


def cots(adapted: Tensor, before: Tensor, rho: float = 0.1) -> Tensor:
    """Logits [B, C] of view 0, over T, from those of all views [B, V, C], after and
    before the tuning."""
    surest = _surest(adapted, rho)
    after, target = (selection.take(z, surest) for z in (adapted, before))
    return adapted[:, 0] / temperatures(after, target)[:, None]


@method(
    "tpt_cots",
    title="TPT with CoTS",
    paper="code yuweiliang911/CoTS",
    published=("TPT+CoTS",),
)
def tpt_cots(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    context: Tensor,
    rho: float = 0.1,
    **tuning: Any,
) -> Tensor:
    """Logits [B, C] of view 0 of views [B, V, D]: `tpt`'s, over CoTS's temperature."""
    made = tuned_logits(views, text_features, logit_scale, context, rho=rho, **tuning)
    return cots(*made, rho=rho)


def tuned_logits(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    context: Tensor,
    **tuning: Any,
) -> tuple[Tensor, Tensor]:
    """Logits [B, V, C] of all views after and before TPT's tuning, see `tpt.tune`."""
    batch = tuning.get("batch", 1)
    tuned = tune(views, text_features, logit_scale, context, **tuning).context
    after = view_logits(views, text_features, logit_scale, tuned, batch)
    return after, _start_logits(views, text_features, logit_scale, context, batch)


def readings(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    context: Tensor,
    rho: float = 0.1,
    **tuning: Any,
) -> Tensor:
    """Logits [B, 3, C] of `READINGS`, in their order, from one tuning of each image.

    An image passes the text tower once after its tuning, not once for each method.
    """
    tuned = tune(views, text_features, logit_scale, context, rho=rho, **tuning).context
    batch = tuning.get("batch", 1)
    originals, parts = [], []
    for part, at in zip(views.split(batch), tuned.split(batch), strict=True):
        with torch.no_grad():
            classes = text_features(at)
        part = part.to(at.dtype)
        originals.append(class_logits(part[:, :1], classes, logit_scale))
        parts.append(class_logits(part, classes, logit_scale))
    after = torch.cat(parts)
    before = _start_logits(views, text_features, logit_scale, context, batch)
    read = torch.cat(originals)[:, 0], confident_marginal(after, rho)
    return torch.stack([*read, cots(after, before, rho)], dim=1)


READINGS = (tpt, revote, tpt_cots)


def _start_logits(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    context: Tensor,
    batch: int,
) -> Tensor:
    """Logits [B, V, C] of all views before the tuning."""
    if context.ndim == 3:
        return view_logits(views, text_features, logit_scale, context, batch)
    with torch.no_grad():  # in a batch, as after the tuning: rounding depends on it
        several = context.expand(min(batch, len(views)), -1, -1)
        classes = text_features(several)
    parts = [part.to(context.dtype) for part in views.split(batch)]
    return torch.cat([class_logits(x, classes[: len(x)], logit_scale) for x in parts])


@torch.no_grad()
def temperatures(after: Tensor, before: Tensor) -> Tensor:
    """T [B] of logits [B, K, C] whose confidences shall become those of `before`."""
    target = _confidence(before)

    def gap(log_t: Tensor) -> Tensor:
        made = _confidence(after * (-log_t).exp()[:, None, None])
        return (made - target).square().sum(dim=1)

    grid = torch.linspace(-LOG_RANGE, LOG_RANGE, GRID).tolist()
    gaps = torch.stack([gap(torch.full_like(target[:, 0], u)) for u in grid])
    best = after.new_tensor(grid)[gaps.argmin(dim=0)]
    reach = 2 * LOG_RANGE / (GRID - 1)
    low, high = best - reach, best + reach
    for _ in range(REFINEMENTS):  # a third of the interval goes each time
        left, right = low + (high - low) / 3, high - (high - low) / 3
        lower = gap(left) <= gap(right)
        low, high = torch.where(lower, low, left), torch.where(lower, right, high)
    return ((low + high) / 2).exp()


def _surest(adapted: Tensor, rho: float) -> Tensor:
    """Positions [B, K] of the trusted views, never view 0."""
    others = adapted.shape[1] - 1
    if not others:
        raise ValueError("1 view: CoTS needs the image and an augmentation of it")
    if not 0 < rho <= 1:
        raise ValueError(f"rho is {rho}, but must lie above 0 and at most at 1")
    return 1 + selection.confident(adapted[:, 1:], max(1, int(rho * others)))


def _confidence(logits: Tensor) -> Tensor:
    return logits.log_softmax(dim=-1).amax(dim=-1).exp()
