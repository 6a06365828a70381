"""BCA: what a class looks like and how it is confused, both learnt from predictions.

Bayesian Test-Time Adaptation for Vision-Language Models, Zhou et al. 2025, arXiv
2503.09248. Class c has an embedding m_c, at first its text feature, and a prior row
P_c, the probabilities of all classes for images near m_c, at first 1 for c itself. An
image x is classified, then learnt by the predicted class y = argmax r:

    r = softmax(s x m) P                                  result ln r
    if max r > 0.05:  m_y <- normalise(k_y m_y + x),            k_y <- k_y + 1
    if max r > 0.65:  P_y <- (l_y P_y + r) / (l_y + 1),         l_y <- l_y + 1

k starts at 20000 and l at 1. These settings are those of the public port in
walawalagoose/TTABC, which names them the authors' own; theirs was not at hand.

Deviations: an image is one feature, not the mean of its surest views. A class whose
probability is 0 gets ln of the smallest normal float32, -87.3.

Every image changes what the next one meets, so they go one by one, all orders at once:
the time is that of some 25 small operations an image, whatever the number of orders.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from helpers.methods import online
from helpers.methods.registry import method


class State(NamedTuple):
    class_features: Tensor  # [C, D]
    logit_scale: float
    means: Tensor  # [O, C, D]
    priors: Tensor  # [O, C, C], a row each
    mean_counts: Tensor  # [O, C]
    prior_counts: Tensor  # [O, C]
    mean_threshold: float
    prior_threshold: float


@method(
    "bca",
    "BCA",
    "memory",
    paper="arXiv 2503.09248",
    chapter="06",
    colour="#778888",
    published=("BCA",),
    headline=True,
)
def start(
    class_features: Tensor,
    logit_scale: float,
    orders: int = 1,
    mean_threshold: float = 0.05,
    mean_count: float = 20000.0,
    prior_threshold: float = 0.65,
    prior_count: float = 1.0,
) -> State:
    """Embeddings at class features [C, D] that weigh `mean_count` images, and priors
    that weigh `prior_count`."""
    known = online.check_start(class_features, logit_scale, orders)
    if not (mean_count > 0 and prior_count > 0):
        raise ValueError(
            f"mean_count {mean_count}, prior_count {prior_count}: both must be above 0"
        )
    count = len(known)
    means = known.repeat(orders, 1, 1)
    priors = torch.eye(count, device=known.device).repeat(orders, 1, 1)
    counts = (
        known.new_full((orders, count), mean_count),
        known.new_full((orders, count), prior_count),
    )
    thresholds = mean_threshold, prior_threshold
    return State(known, logit_scale, means, priors, *counts, *thresholds)


@torch.no_grad()
def step(state: State, features: Tensor) -> tuple[State, Tensor]:
    """The state after unit features [O, T, D], and ln of the probabilities that they
    have, float32 [O, T, C]."""
    orders, _, width = state.means.shape
    online.check_features(features, orders, width)
    features = features.float()
    learned = ("means", "priors", "mean_counts", "prior_counts")
    state = state._replace(**{name: getattr(state, name).clone() for name in learned})
    row = torch.arange(orders, device=features.device) * state.means.shape[1]
    r = torch.stack([_image(state, x, row) for x in features.unbind(dim=1)], dim=1)
    return state, r.clamp(min=torch.finfo(r.dtype).tiny).log()


def _image(state: State, x: Tensor, row: Tensor) -> Tensor:
    """r [O, C] of the next image [O, D]; writes what it teaches into the state.

    `row` [O] is where each order's classes begin among the rows of all orders.
    """
    near = torch.bmm(state.means, x[:, :, None]).mul_(state.logit_scale).softmax(dim=1)
    r = torch.bmm(near.mT, state.priors)[:, 0]
    sure, y = r.max(dim=1, keepdim=True)
    y = row + y[:, 0]

    rows, counts = state.means.flatten(0, 1), state.mean_counts.view(-1, 1)
    old, count = rows.index_select(0, y), counts.index_select(0, y)
    mean = torch.addcmul(x, count, old)
    mean /= torch.linalg.vector_norm(mean, dim=1, keepdim=True)
    learns = sure > state.mean_threshold
    rows.index_copy_(0, y, torch.where(learns, mean, old))
    counts.index_copy_(0, y, count + learns)

    rows, counts = state.priors.flatten(0, 1), state.prior_counts.view(-1, 1)
    old, count = rows.index_select(0, y), counts.index_select(0, y)
    mean = torch.addcmul(r, count, old).div_(count + 1)
    learns = sure > state.prior_threshold
    rows.index_copy_(0, y, torch.where(learns, mean, old))
    counts.index_copy_(0, y, count + learns)
    return r
