"""OnZeta: labels balanced as they come, and image-side classifiers learnt from them.

Online Zero-Shot Classification with CLIP, Qian and Hu 2024, arXiv 2408.13320; code
idstcv/OnZeta. Image number i = 1, 2, ... of a stream of n, with feature x and class
features W:

    t = softmax(s x W + rho)        labels, with a price for each class, 0 at first
    v = softmax(s' x w)             image-side classifiers, at first w = W
    result  ln of b v + (1 - b) t              b = 0.8 sqrt(i / n)
    rho <- max(0, rho - 20 / sqrt(i) (t - alpha / C))
    w_c <- normalise(w_c - 0.5 / sqrt(i) s' (v_c - t_c) x)

alpha is 1: every class is expected equally often. With a scale of s = 100, s' is 25, a
temperature of 0.04; here s' = s / 4 for models of other scales, too.

Two things leak into the paper's form: the balance of the classes by alpha, and the
length n. Deviation: without `length`, as a stream has it, b is 0.8 throughout, and past
a length that was too short it stays at 0.8.

Every image changes what the next one meets, so they go one by one, all orders at once:
the time is that of some 15 small operations an image, whatever the number of orders.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.methods import online
from helpers.methods.registry import method


class State(NamedTuple):
    class_features: Tensor  # [C, D]
    logit_scale: float
    classifiers: Tensor  # [O, C, D], w
    prices: Tensor  # [O, C], rho
    seen: int
    length: int | None
    weight: float
    balance: float
    classifier_rate: float
    price_rate: float


@method(
    "onzeta",
    "OnZeta",
    "memory",
    paper="arXiv 2408.13320",
    chapter="06",
    colour="#ff3366",
    published=("OnZeta",),
    headline=True,
)
def start(
    class_features: Tensor,
    logit_scale: float,
    orders: int = 1,
    length: int | None = None,
    weight: float = 0.8,
    balance: float = 1.0,
    classifier_rate: float = 0.5,
    price_rate: float = 20.0,
) -> State:
    """Classifiers at class features [C, D]; `length` is n, `balance` alpha, and
    `weight`, in [0, 1], the factor of b."""
    known = online.check_start(class_features, logit_scale, orders)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}, but must lie in [0, 1]")
    if length is not None and length < 1:
        raise ValueError(f"length is {length}: a stream has one image at least")
    classifiers, prices = (
        known.repeat(orders, 1, 1),
        known.new_zeros(orders, len(known)),
    )
    settings = length, weight, balance, classifier_rate, price_rate
    return State(known, logit_scale, classifiers, prices, 0, *settings)


@torch.no_grad()
def step(state: State, features: Tensor) -> tuple[State, Tensor]:
    """The state after unit features [O, T, D], and ln of the probabilities that they
    have, float32 [O, T, C]."""
    orders, _, width = state.classifiers.shape
    online.check_features(features, orders, width)
    features = features.float()
    texts = state.logit_scale * features @ state.class_features.T
    w, rho = state.classifiers.clone(), state.prices.clone()
    labels, seen = torch.empty_like(texts), torch.empty_like(texts)
    for number in range(features.shape[1]):
        root = math.sqrt(state.seen + number + 1)
        x = features[:, number, :, None]
        log_t = (texts[:, number] + rho).log_softmax(dim=1)
        log_v = (state.logit_scale / 4 * torch.bmm(w, x)[..., 0]).log_softmax(dim=1)
        labels[:, number], seen[:, number] = log_t, log_v
        t = log_t.exp_()
        rate = state.price_rate / root
        rho.add_(t, alpha=-rate).add_(rate * state.balance / t.shape[1]).clamp_(min=0)
        rate = state.classifier_rate / root * state.logit_scale / 4
        w.baddbmm_(log_v.exp_().sub_(t)[..., None], x.mT, alpha=-rate)
        w /= torch.linalg.vector_norm(w, dim=2, keepdim=True)
    end = state.seen + features.shape[1]
    numbers = torch.arange(state.seen + 1, end + 1, device=features.device)
    part = numbers / state.length if state.length else torch.ones_like(numbers)
    b = (state.weight * part.clamp(max=1).sqrt())[:, None]  # float32 [T, 1]
    state = state._replace(classifiers=w, prices=rho, seen=end)
    return state, online.mixture(labels, seen, b)
