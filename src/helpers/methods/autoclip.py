"""AutoCLIP: a weighting of the prompt templates for each image.

AutoCLIP: Auto-tuning Zero-Shot Classifiers for Vision-Language Models, Metzen,
Saranrittichai and Mummadi 2024, arXiv 2309.16414. With the cosines S_ic of an image and
class c in template i of K, and weights w on the simplex, class c scores

    s_c(w) = sum_i w_i S_ic

The weights are w = softmax(rho), rho starts at zero and takes one step of gradient
ascent on an aggregate A(s), large where the image looks like one of the classes. With
q = dA/ds and a_i = sum_c q_c S_ic, the gradient is w_i (a_i - sum_k w_k a_k). At
uniform weights that is (a_i - mean a) / K; softmax ignores the shift: the step is

    w = softmax(gamma a),    gamma > 0 such that entropy(w) = beta log K

No gradient has to be computed and the step size needs no unit. The aggregates are

    logsumexp   log sum_c exp(tau s_c) / tau        q = softmax(tau s)
    mean        mean of s                           q = 1 / C
    max         s of the best class                 q = one-hot of the arg-max of s
    entropy     -entropy(p) / tau, p = softmax(tau s)
                                                    q_c = p_c (log p_c + entropy(p))

the factor 1 / tau being absorbed by gamma. Choices that the paper leaves open:

- tau. The paper writes plain cosines, tau = 1, and so does its public script. Cosines
  of CLIP differ too little for that: logsumexp then ranks templates as the mean does.
  The default is the logit scale, at which softmax(tau s) is the model's posterior.
- Queries are not normalised again, in neither arm: `uniform` is the baseline that
  beta = 1 gives exactly. The usual, normalised ensemble is `zero_shot.ensemble`.
- Where templates tie for the best, the entropy cannot fall below that of their uniform
  mixture. If that is still too high, the weights are this mixture, gamma's limit.

Template i must say the same thing about every class, or its weight means nothing.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods.registry import CONTROL, method

AGGREGATIONS = ("logsumexp", "mean", "max", "entropy")
MEMORY = 2**24  # bytes of cosines held at once; more leaves the processor's cache
TIE = 1e-5  # scores closer than this, relatively, differ by rounding only
TOLERANCE = 1e-12  # nats between the entropy asked for and the one found
ROUNDS = 200  # of the root search; six or so do, unless templates almost tie


@method(
    "autoclip",
    "AutoCLIP",
    "weighted prompts",
    paper="arXiv 2309.16414",
    chapter="04",
    colour="#029e73",
    speaker="autoclip_80",
    published=("AutoCLIP",),
    headline=True,
)
@method("autoclip_sample", title="AutoCLIP", chapter="03", role=CONTROL)
def autoclip(
    image_features: Tensor,
    template_features: Tensor,
    logit_scale: float,
    *,
    beta: float = 0.85,
    aggregation: str = "logsumexp",
    tau: float | None = None,
    memory: int = MEMORY,
) -> Tensor:
    """AutoCLIP's logits [B, C], float32 (float64 for float64 features).

    Args:
        image_features: unit, [B, D], of any float type.
        template_features: unit, [K, C, D], of K templates and C classes.
        beta: entropy of the weights as a share of log K, in (0, 1].
        aggregation: of `AGGREGATIONS`.
        tau: scale of class scores in the aggregate, `logit_scale` unless given.
        memory: bytes of cosines held at once; the peak is about three times as high.

    Raises:
        ValueError: shapes that do not fit together, or an argument out of its range.
    """
    images, templates = _checked(image_features, template_features)
    logits = _uniform(images, templates)
    pull = aggregate_gradient(logits, aggregation, logit_scale if tau is None else tau)
    ties = 0
    for rows, cosines in _chunks(images, templates, memory):
        weights, gamma = match_entropy(_pulled(cosines, pull[rows]), beta)
        logits[rows] = _weighted(logits[rows], cosines, weights)
        ties += int(gamma.isinf().sum())
    _warn_of_ties(ties, len(images))
    return logit_scale * logits


def weights(
    image_features: Tensor,
    template_features: Tensor,
    logit_scale: float,
    *,
    beta: float = 0.85,
    **settings: Any,
) -> Tensor:
    """Template weights [B, K] float64 of images [B, D], arguments as in `autoclip`.

    `settings`: the keyword arguments of `template_scores`.
    """
    scores = template_scores(image_features, template_features, logit_scale, **settings)
    found, gamma = match_entropy(scores, beta)
    _warn_of_ties(int(gamma.isinf().sum()), len(found))
    return found


def template_scores(
    image_features: Tensor,
    template_features: Tensor,
    logit_scale: float,
    *,
    aggregation: str = "logsumexp",
    tau: float | None = None,
    memory: int = MEMORY,
) -> Tensor:
    """Template scores a [B, K] of each image at uniform weights.

    To weight templates by several views of an image, average the views' scores, then
    call `match_entropy` and `classify`.
    """
    images, templates = _checked(image_features, template_features)
    uniform = _uniform(images, templates)
    pull = aggregate_gradient(uniform, aggregation, logit_scale if tau is None else tau)
    scores = images.new_empty(len(images), len(templates))
    for rows, cosines in _chunks(images, templates, memory):
        scores[rows] = _pulled(cosines, pull[rows])
    return scores


def classify(
    image_features: Tensor,
    template_features: Tensor,
    weights: Tensor,
    logit_scale: float,
    *,
    memory: int = MEMORY,
) -> Tensor:
    """Logits [B, C] of images [B, D] under given template weights [B, K]."""
    images, templates = _checked(image_features, template_features)
    expected = (len(images), len(templates))
    if weights.shape != expected:
        raise ValueError(
            f"weights of shape {tuple(weights.shape)}: {expected} needed, a row per "
            "image and a column per template"
        )
    logits = _uniform(images, templates)
    for rows, cosines in _chunks(images, templates, memory):
        logits[rows] = _weighted(logits[rows], cosines, weights[rows])
    return logit_scale * logits


@method(
    "mean",
    "mean of templates",
    "prompts",
    paper="arXiv 2309.16414",
    chapter="04",
    speaker="",
)
def uniform(
    image_features: Tensor, template_features: Tensor, logit_scale: float
) -> Tensor:
    """The baseline: logits [B, C] of the mean cosine over templates."""
    return logit_scale * _uniform(*_checked(image_features, template_features))


def aggregate_gradient(scores: Tensor, aggregation: str, tau: float) -> Tensor:
    """q = dA/ds [B, C] of class scores s [B, C], for A of the table above."""
    if not tau > 0:
        raise ValueError(f"tau {tau!r}: a positive number is needed")
    if aggregation == "logsumexp":
        return (tau * scores).softmax(dim=-1)
    if aggregation == "mean":
        return torch.full_like(scores, 1 / scores.shape[-1])
    if aggregation == "max":
        best = scores.argmax(dim=-1)
        return F.one_hot(best, scores.shape[-1]).to(scores.dtype)
    if aggregation == "entropy":
        log_p = (tau * scores.double()).log_softmax(dim=-1)  # differences are small
        p = log_p.exp()
        q = p * (log_p - (p * log_p).sum(dim=-1, keepdim=True))
        return q.to(scores.dtype)
    raise ValueError(f"aggregation {aggregation!r}: choose one of {AGGREGATIONS}")


def match_entropy(scores: Tensor, beta: float = 0.85) -> tuple[Tensor, Tensor]:
    """Weights softmax(gamma scores) with entropy beta log K, and gamma.

    `scores` [..., K]; weights [..., K] and gamma [...] are float64. gamma is 0 where
    beta is 1, and infinite where so many templates tie for the best that no gamma will
    do: these then share all weight. A row with a NaN becomes NaN.

    Newton's method on the entropy, whose derivative in gamma is minus the covariance
    of the scores and the exponent under the weights; bisection wherever a step leaves
    the interval known to hold the root.
    """
    if not 0 < beta <= 1:
        raise ValueError(f"beta {beta!r}: a number in (0, 1] is needed")
    scores = scores.double()
    start = torch.zeros_like(scores)
    target = beta * math.log(scores.shape[-1])
    best = scores.amax(dim=-1, keepdim=True)
    rounding = TIE * scores.abs().amax(dim=-1, keepdim=True)
    limit = start.masked_fill(~(scores >= best - rounding), -math.inf).softmax(dim=-1)
    sharpest = torch.special.entr(limit).sum(dim=-1)

    # On scores of unit variance gamma is near 1, and the entropy of uniform weights
    # falls as gamma squared over two.
    centred = scores - scores.mean(dim=-1, keepdim=True)
    spread = centred.square().mean(dim=-1, keepdim=True).sqrt()
    spread = torch.where(spread == 0, 1.0, spread)
    unit = (scores - best) / spread
    excess = torch.special.entr(start.softmax(dim=-1)).sum(dim=-1) - target
    tied = (excess > TOLERANCE) & (sharpest > target + TOLERANCE)
    open_rows = (excess > TOLERANCE) & ~tied
    gamma = torch.where(open_rows, (2 * excess).sqrt(), 0.0)
    low, high = torch.zeros_like(gamma), torch.full_like(gamma, math.inf)
    for _ in range(ROUNDS):
        exponent = gamma[..., None] * unit
        w = exponent.softmax(dim=-1)
        excess = torch.special.entr(w).sum(dim=-1) - target
        open_rows = open_rows & (excess.abs() > TOLERANCE)
        if not open_rows.any():
            break
        low = torch.where(excess > 0, gamma, low)
        high = torch.where(excess > 0, high, gamma)
        centred = unit - (w * unit).sum(dim=-1, keepdim=True)
        newton = gamma + excess / (w * centred * exponent).sum(dim=-1)
        between = torch.where(high.isinf(), 2 * low, (low + high) / 2)
        inside = (newton > low) & (newton < high)
        gamma = torch.where(open_rows, torch.where(inside, newton, between), gamma)
    w = torch.where(tied[..., None], limit, w)
    return w, torch.where(tied, math.inf, gamma / spread[..., 0])


def _checked(images: Tensor, templates: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype, float32 at least; refuses what does not fit together."""
    if not isinstance(templates, Tensor) or templates.ndim != 3:
        raise ValueError(
            "template features must be one tensor [K, C, D], the same K templates for "
            "every class. Lists of prompts of single classes (descriptions) cannot be "
            "weighted by template: make each a template for all classes first"
        )
    if 0 in templates.shape:
        raise ValueError(
            f"template features of shape {tuple(templates.shape)}: at least one "
            "template, one class and one dimension are needed"
        )
    if images.ndim != 2 or images.shape[1] != templates.shape[2]:
        raise ValueError(
            f"image features of shape {tuple(images.shape)}: [B, "
            f"{templates.shape[2]}] is needed, the width of the template features"
        )
    dtype = torch.promote_types(images.dtype, templates.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    return images.to(dtype), templates.to(dtype)


def _uniform(images: Tensor, templates: Tensor) -> Tensor:
    """Class scores [B, C] under uniform weights, without a cosine per template."""
    return images @ templates.mean(dim=0).T


def _chunks(
    images: Tensor, templates: Tensor, memory: int
) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the batch and their cosines [b, K, C], of at most `memory` bytes.

    One image's cosines take 1 / D of what the template features do, so that there is
    nothing to gain from cutting up the classes too.
    """
    if memory < 1:
        raise ValueError(f"memory {memory!r}: a positive number of bytes is needed")
    K, C, D = templates.shape
    size = max(1, memory // (K * C * templates.element_size()))
    texts = templates.reshape(K * C, D).T
    for begin in range(0, len(images), size):
        rows = slice(begin, min(begin + size, len(images)))
        yield rows, (images[rows] @ texts).view(-1, K, C)


def _pulled(cosines: Tensor, pull: Tensor) -> Tensor:
    """Template scores a = sum_c q_c S_ic: [b, K]."""
    return (cosines * pull.unsqueeze(1)).sum(dim=-1)  # far faster than a bmm here


def _weighted(uniform: Tensor, cosines: Tensor, weights: Tensor) -> Tensor:
    """Class scores [b, C]: uniform ones and what the weights' deviation adds.

    In this form uniform weights give the uniform scores to the last bit.
    """
    deviation = (weights.double() - 1 / weights.shape[1]).to(cosines.dtype)
    return uniform + (deviation.unsqueeze(1) @ cosines).squeeze(1)


def _warn_of_ties(ties: int, images: int) -> None:
    if ties:
        warnings.warn(
            f"{ties} of {images} images: so many templates tie for the best that the "
            "entropy asked for is out of reach; they share all weight. Drop duplicates",
            stacklevel=3,
        )
