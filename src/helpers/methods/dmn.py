"""DMN: a class is what its remembered images look like from where the image stands.

Dual Memory Networks: A Versatile Adaptation Approach for Vision-Language Models, Zhang
et al. 2024, arXiv 2403.17589; code YBZh/DMN. The training-free form for test images,
DMN-ZS, with one feature an image. Each class remembers 50 images m_cj, those predicted
as it with the lowest entropy (see `cache`), beside its text feature t_c, for good. An
image f joins first; then, with w(m) = exp(-5.5 (1 - f m)),

    z_c = normalise(w(t_c) t_c + sum_j w(m_cj) m_cj)        q = softmax(s f z_c)
    result  ln of (p + alpha q) / (1 + alpha)               p = softmax(s f t_c)

alpha is 1, the fixed weight of the comparison TTA-VLM: the authors' code tries thirteen
on the test labels and reports the best.

Deviations: the authors take label and entropy from the surest tenth of 32 views and add
1e-8 in the logarithm; an empty place is marked as such, not by features that sum to 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from helpers.methods import cache, online, selection
from helpers.methods.cache import Cache
from helpers.methods.registry import method


class State(NamedTuple):
    class_features: Tensor  # [C, D]
    logit_scale: float
    memory: Cache
    sharpness: float
    weight: float


@method(
    "dmn",
    "DMN",
    "memory",
    paper="arXiv 2403.17589",
    chapter="06",
    colour="#2200ee",
    published=("DMN-ZS",),
    headline=True,
)
def start(
    class_features: Tensor,
    logit_scale: float,
    orders: int = 1,
    capacity: int = 50,
    sharpness: float = 5.5,
    weight: float = 1.0,
) -> State:
    """Empty memories for class features [C, D]; `weight` is alpha, above 0."""
    known = online.check_start(class_features, logit_scale, orders)
    if not weight > 0:
        raise ValueError(f"weight is {weight}, but must lie above 0")
    memory = cache.empty(known, orders, capacity)
    return State(known, logit_scale, memory, sharpness, weight)


def step(state: State, features: Tensor) -> tuple[State, Tensor]:
    """The state after unit features [O, T, D], and ln of the probabilities that they
    have, float32 [O, T, C]."""
    orders, count, capacity, width = state.memory.keys.shape
    online.check_features(features, orders, width)
    numbers = orders * count * max(width, capacity)
    return online.in_pieces(_piece, state, features, numbers)


def _piece(state: State, features: Tensor) -> tuple[State, Tensor]:
    logits = state.logit_scale * features @ state.class_features.T
    entropies, classes = selection.entropy(logits), logits.argmax(dim=2)
    nothing = features.new_zeros(*classes.shape, 0)
    shown, memory = cache.push(state.memory, classes, entropies, features, nothing)

    # The text feature of each class stands before its images and is always present.
    text = state.class_features[:, None].expand(len(features), -1, -1, -1)
    always = shown.present.new_ones(*text.shape[:3], features.shape[1])
    rows = shown._replace(
        keys=torch.cat([text, shown.keys], dim=2),
        present=torch.cat([always, shown.present], dim=2),
    )
    close, cosines = cache.affinity(rows, features, state.sharpness)
    centre = close.mT @ rows.keys  # [O, C, T, D]
    along = (close * cosines).sum(dim=2) / torch.linalg.vector_norm(centre, dim=3)
    seen = state.logit_scale * along.mT
    share = state.weight / (1 + state.weight)
    made = online.mixture(logits.log_softmax(dim=2), seen.log_softmax(dim=2), share)
    return state._replace(memory=memory), made
