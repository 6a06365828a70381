"""MTA: the mode of an image's views, found by mean shift.

On the test-time zero-shot generalization of vision-language models: Do we really need
prompt learning? Zanella and Ben Ayed 2024, arXiv 2405.02266; code MaxZanella/MTA. No
view is thrown away: each has an inlierness y_v, optimised together with the mode m.

    h_v^2 = half the mean squared distance of f_v to its nearest 0.3 (V - 1) views
    k_v(m) = exp(-|f_v - m|^2 / (2 h_v^2))        a_vu = <softmax(z_v), softmax(z_u)>
    y <- softmax_v((k_v(m) + lambda_q sum_u a_vu y_u) / lambda_y)
    m <- normalise(sum_v k_v(m) y_v f_v)          logit_c = s <m, t_c>

From y = 1 / V and m = f_0, five rounds of first y, then m, each until it moves by less
than 1e-6, five times at most. lambda_y = 0.2 and lambda_q = 4.

The mode is a weighted sum of views, m = sum_v w_v f_v. So we iterate on w [V] and ask
only for the views' inner products G: <f_v, m> = (G w)_v and |m|^2 = w^T G w. After G,
the cost does not depend on the width. Deviations: k_v y_v is scaled to a sum of 1 in
log space, so that no distance underflows; h_v^2 is at least 1e-6, so that views that
are the same give their own answer; and there is one neighbour at least, so that two to
four views work (a view alone is its own mode).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from helpers.methods import selection
from helpers.methods.registry import method

ROUNDS = 5  # of both steps, and repetitions of either step within a round
TOLERANCE = 1e-6
NEIGHBOURS = 0.3
MIN_BANDWIDTH = 1e-6  # of h^2: above the rounding of squared distances


@method(
    "mta",
    "MTA",
    "votes",
    paper="arXiv 2405.02266",
    chapter="02",
    colour="#332288",
    published=("MTA",),
    headline=True,
)
def mta(
    views: Tensor,
    class_features: Tensor,
    logit_scale: float,
    lambda_y: float = 0.2,
    lambda_q: float = 4.0,
) -> Tensor:
    """Logits float32 [B, C] of the modes of unit views [B, V, D]."""
    selection.check(views, class_features)
    if not lambda_y > 0:
        raise ValueError(f"lambda_y is {lambda_y}, but it divides: use one above 0")

    def seek(views: Tensor, class_features: Tensor) -> Tensor:
        p = (logit_scale * views @ class_features.T).softmax(dim=-1)
        weights = _mode(views @ views.mT, p @ p.mT, lambda_y, lambda_q)
        mode = torch.einsum("bv,bvd->bd", weights, views)
        return logit_scale * mode @ class_features.T

    count = views.shape[1]
    numbers = count * max(count, len(class_features))
    return selection.in_chunks(seek, views, class_features, numbers)


def _mode(gram: Tensor, affinity: Tensor, lambda_y: float, lambda_q: float) -> Tensor:
    """Weights [B, V] of the views in the mode, from products and affinity [B, V, V]."""
    squares = gram.diagonal(dim1=1, dim2=2)
    doubled = 2 * _bandwidth(gram, squares)

    def log_density(weights: Tensor) -> Tensor:
        dots = _times(gram, weights)
        square = (weights * dots).sum(dim=1, keepdim=True)
        return -(squares + square - 2 * dots).clamp(min=0) / doubled

    def length(weights: Tensor) -> Tensor:
        square = (weights * _times(gram, weights)).sum(dim=1, keepdim=True)
        return square.clamp(min=0).sqrt()

    def inlierness_step(y: Tensor, density: Tensor) -> Tensor:
        return ((density + lambda_q * _times(affinity, y)) / lambda_y).softmax(dim=1)

    def mode_step(weights: Tensor, log_y: Tensor) -> Tensor:
        mean = (log_density(weights) + log_y).softmax(dim=1)
        return mean / length(mean)

    weights = torch.zeros_like(squares)
    weights[:, 0] = 1
    y = torch.full_like(squares, 1 / squares.shape[1])
    for _ in range(ROUNDS):
        density = log_density(weights).exp()
        y = _settle(inlierness_step, y, density, lambda v: v.norm(dim=1, keepdim=True))
        weights = _settle(mode_step, weights, y.log(), length)
    return weights


def _bandwidth(gram: Tensor, squares: Tensor) -> Tensor:
    """h^2 [B, V] from inner products [B, V, V] and their diagonal."""
    count = gram.shape[1]
    distances = (squares[:, :, None] + squares[:, None] - 2 * gram).clamp(min=0)
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)  # others only
    nearest = max(1, int(NEIGHBOURS * (count - 1)))
    mean = distances.topk(nearest, largest=False).values.mean(dim=-1)
    return (mean / 2).clamp(min=MIN_BANDWIDTH)


def _settle(
    step: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    given: Tensor,
    length: Callable[[Tensor], Tensor],
) -> Tensor:
    """Repeat x [B, V] <- step(x, given); an image that has converged no longer changes.

    So an image's result does not depend on the rest of the batch.
    """
    moving = torch.ones_like(x[:, :1], dtype=torch.bool)
    for _ in range(ROUNDS):
        new = step(x, given)
        moved = length(new - x) >= TOLERANCE
        x = torch.where(moving, new, x)
        moving = moving & moved
        if not moving.any():
            break
    return x


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Symmetric [B, V, V] times [B, V]: [B, V]."""
    # as rows on the left, since torch multiplies batched columns several times slower
    return (vectors[:, None] @ matrices)[:, 0]
