"""TDA: sure images vote for their class, unsure ones against classes they exclude.

Efficient Test-Time Adaptation of Vision-Language Models, Karmanov et al. 2024, arXiv
2403.18293; code kdiAAA/TDA. For the image f with logits z, p = softmax(z), entropy H
in nats and predicted class y = argmax z, the image first joins two small caches:

    positive cache of y: the 3 images of lowest H so far, with the class y
    negative cache of y: the 2 of lowest H among those with 0.2 < H / log2 C < 0.5,
        with the mask m = 1[0.03 < p < 1] of the classes that it does not exclude

and is then classified with all that they hold, itself included:

    logits = z + alpha+ sum_i exp(-beta+ (1 - f f_i)) onehot(y_i)
               - alpha- sum_j exp(-beta- (1 - f f_j)) m_j

alpha+ 2, beta+ 5, alpha- 0.117, beta- 1: the authors' file for ImageNet, which is also
that for ImageNet-A. Their other files differ from set to set; here one serves all.

H is divided by log2 C though it is in nats, so that the band is 29 to 72 % of the
highest entropy: kept as released. The authors take the mean of the surest tenth of 64
views for the image on ImageNet's variants; here it is one feature.
Deviation: where there is one class, no image is unsure, and nothing is divided by 0.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.methods import cache, online, selection
from helpers.methods.cache import Cache
from helpers.methods.registry import method


class State(NamedTuple):
    class_features: Tensor  # [C, D]
    logit_scale: float
    positive: Cache
    negative: Cache  # its values bool [O, C, K, C] are the masks
    positive_weight: float
    positive_sharpness: float
    negative_weight: float
    negative_sharpness: float
    band: tuple[float, float]
    masked: tuple[float, float]


@method(
    "tda",
    "TDA",
    "memory",
    paper="arXiv 2403.18293",
    chapter="06",
    colour="#5f0f40",
    published=("TDA",),
    headline=True,
)
def start(
    class_features: Tensor,
    logit_scale: float,
    orders: int = 1,
    positive_capacity: int = 3,
    positive_weight: float = 2.0,
    positive_sharpness: float = 5.0,
    negative_capacity: int = 2,
    negative_weight: float = 0.117,
    negative_sharpness: float = 1.0,
    band: tuple[float, float] = (0.2, 0.5),
    masked: tuple[float, float] = (0.03, 1.0),
) -> State:
    """Empty caches for class features [C, D]; weights are alpha, sharpnesses beta."""
    known = online.check_start(class_features, logit_scale, orders)
    positive = cache.empty(known, orders, positive_capacity)
    negative = cache.empty(known, orders, negative_capacity, len(known), torch.bool)
    weights = positive_weight, positive_sharpness, negative_weight, negative_sharpness
    return State(known, logit_scale, positive, negative, *weights, band, masked)


def step(state: State, features: Tensor) -> tuple[State, Tensor]:
    """The state after unit features [O, T, D], and their logits float32 [O, T, C]."""
    orders, count, _, width = state.positive.keys.shape
    online.check_features(features, orders, width)
    slots = sum(c.entropies.shape[2] for c in (state.positive, state.negative))
    numbers = orders * (count * (slots + 1) + online.PIECE)
    return online.in_pieces(_piece, state, features, numbers)


def _piece(state: State, features: Tensor) -> tuple[State, Tensor]:
    logits = state.logit_scale * features @ state.class_features.T
    entropies, classes = selection.entropy(logits), logits.argmax(dim=2)
    nothing = features.new_zeros(*classes.shape, 0)
    sure, positive = cache.push(state.positive, classes, entropies, features, nothing)
    unsure, negative = push_negative(
        state.negative, logits, classes, entropies, entropies, features, state
    )
    made = logits + state.positive_weight * votes(sure, features, state)
    made = made - state.negative_weight * vetoes(unsure, features, state)
    return state._replace(positive=positive, negative=negative), made


def push_negative(
    negative: Cache,
    logits: Tensor,
    classes: Tensor,
    entropies: Tensor,
    order: Tensor,
    features: Tensor,
    state: State,
) -> tuple[cache.Shown, Cache]:
    """`cache.push` of the images whose entropy is in the band, by `order` [O, T]."""
    low, high = (bound * math.log2(logits.shape[2]) for bound in state.band)
    unsure = (low < entropies) & (entropies < high)
    p = logits.softmax(dim=2)
    mask = (state.masked[0] < p) & (p < state.masked[1])
    order = torch.where(unsure, order, torch.inf)
    return cache.push(negative, classes, order, features, mask)


def votes(sure: cache.Shown, features: Tensor, state: State) -> Tensor:
    """Affinities to the images of each class, summed: [O, T, C]."""
    close, _ = cache.affinity(sure, features, state.positive_sharpness)
    return close.sum(dim=2).mT


def vetoes(unsure: cache.Shown, features: Tensor, state: State) -> Tensor:
    """Affinities to the masks of the unsure images, summed: [O, T, C]."""
    close, _ = cache.affinity(unsure, features, state.negative_sharpness)
    return close.flatten(1, 2).mT @ unsure.values.flatten(1, 2).float()
