"""DOTA: a Gaussian of each class, moved by every image as far as CLIP believes in it.

DOTA: Distributional Test-Time Adaptation of Vision-Language Models, Han et al. 2024,
arXiv 2409.19375; code skylineeeeen/DOTA. Class c starts with mean m_c = t_c, covariance
S_c = 0.002 I and count n_c = 1. Images x with zero-shot probabilities p are learnt by

    S_c <- (n_c S_c + sum_x p_c (x - m_c)(x - m_c)^T) / (n_c + sum_x p_c)
    m_c <- (n_c m_c + sum_x p_c x) / (n_c + sum_x p_c)        n_c <- n_c + sum_x p_c

with the old m_c on both lines. L = ((1 - e) mean_c S_c + e I)^-1 with e = 1e-4 is the
same for all classes (at the very start L = I / 0.002), and an image is classified
before it is learnt, by zero-shot and Gaussian logits:

    logits_c = s x t_c + w (x L m_c - m_c L m_c / 2)
    w = min(0.005 mean_c n_c, 0.2)

The numbers are the authors' for ImageNet with ViT-B/16; they differ from set to set.

Deviations. The authors learn and invert after every image, from its surest views; here
an image is one feature, and `block` images are learnt together, 16 unless set, by the
same equations, which their code has for sets of images. So up to 15 images are not yet
learnt when one is classified. With `block=1` it is their loop. Their option to ask for
the true label of the least confident images is left out. All in float32, not float16.

The Gaussians take C D^2 numbers of each order, and an image as many multiplications,
since it moves every class: 4 MiB for 64 classes of width 128, 800 MiB for 200 of width
1024. Run few orders at a time there.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from helpers.methods import online
from helpers.methods.registry import method


class State(NamedTuple):
    class_features: Tensor  # [C, D]
    logit_scale: float
    means: Tensor  # [O, C, D]
    counts: Tensor  # [O, C]
    scatters: Tensor  # [O, C, D, D], count times covariance
    pending: Tensor  # [O, P, D], images not learnt yet, fewer than `block`
    slopes: Tensor  # [O, D, C], L m_c
    offsets: Tensor  # [O, 1, C], m_c L m_c / 2
    identity_share: float
    growth: float
    most: float
    block: int


PER_ORDER = ("means", "counts", "scatters", "pending", "slopes", "offsets")


@method(
    "dota",
    "DOTA",
    "memory",
    paper="arXiv 2409.19375",
    chapter="06",
    colour="#aa5544",
    published=("DoTA", "DOTA (own paper)"),
    headline=True,
)
def start(
    class_features: Tensor,
    logit_scale: float,
    orders: int = 1,
    variance: float = 2e-3,
    identity_share: float = 1e-4,
    growth: float = 5e-3,
    most: float = 0.2,
    block: int = 16,
) -> State:
    """Gaussians about class features [C, D]; `identity_share` is e, and the weight of
    the Gaussians grows as `growth` times the mean count, up to `most`."""
    known = online.check_start(class_features, logit_scale, orders)
    if not variance > 0 or block < 1:
        raise ValueError(f"variance {variance}, block {block}: both must be above 0")
    count, width = known.shape
    means = known.expand(orders, -1, -1)
    sphere = variance * torch.eye(width, device=known.device)
    scatters = sphere.expand(orders, count, -1, -1)
    counts, pending = known.new_ones(orders, count), known.new_zeros(orders, 0, width)
    slopes = means.mT / variance
    learned = means, counts, scatters, pending, slopes, _offsets(means, slopes)
    settings = identity_share, growth, most, block
    return State(known, logit_scale, *learned, *settings)


def step(state: State, features: Tensor) -> tuple[State, Tensor]:
    """The state after unit features [O, T, D], and their logits float32 [O, T, C]."""
    orders, _, width = state.means.shape
    online.check_features(features, orders, width)
    # one order after the other, so that its Gaussians stay in the processor's cache
    ends, made = zip(
        *(_run(_order(state, o), features[o : o + 1].float()) for o in range(orders)),
        strict=True,
    )
    joined: dict[str, Any] = {
        name: torch.cat([getattr(e, name) for e in ends]) for name in PER_ORDER
    }
    return state._replace(**joined), torch.cat(made)


def _order(state: State, order: int) -> State:
    """The state of one order, with its own copy of the scatters."""
    own = {name: getattr(state, name)[order : order + 1] for name in PER_ORDER}
    own["scatters"] = own["scatters"].clone(memory_format=torch.contiguous_format)
    return state._replace(**own)


def _run(state: State, features: Tensor) -> tuple[State, Tensor]:
    """`step` that writes into the state's scatters."""
    made = []
    while features.shape[1]:
        room = state.block - state.pending.shape[1]
        part, features = features[:, :room], features[:, room:]
        made.append(_logits(state, part))
        state = state._replace(pending=torch.cat([state.pending, part], dim=1))
        if part.shape[1] == room:
            state = _learn(state)
    return state, torch.cat(made, dim=1)


def _logits(state: State, features: Tensor) -> Tensor:
    weight = (state.growth * state.counts.mean(dim=1)).clamp(max=state.most)
    gaussian = features @ state.slopes - state.offsets
    zero_shot = state.logit_scale * features @ state.class_features.T
    return zero_shot + weight[:, None, None] * gaussian


def _learn(state: State) -> State:
    """The state with its pending images in the Gaussians; writes into `scatters`."""
    images = state.pending
    zero_shot = state.logit_scale * images @ state.class_features.T
    p = zero_shot.softmax(dim=2).mT  # [O, C, P]
    counts = state.counts + p.sum(dim=2)
    apart = p.sqrt()[..., None] * (images[:, None] - state.means[:, :, None])
    state.scatters.flatten(0, 1).baddbmm_(apart.mT.flatten(0, 1), apart.flatten(0, 1))
    means = (state.counts[..., None] * state.means + p @ images) / counts[..., None]

    classes, width = means.shape[1:]
    covariance = (1 / (classes * counts))[:, None] @ state.scatters.flatten(2)
    covariance = covariance.view(-1, width, width) * (1 - state.identity_share)
    covariance.diagonal(dim1=1, dim2=2).add_(state.identity_share)
    slopes = torch.cholesky_solve(means.mT, torch.linalg.cholesky(covariance))
    state = state._replace(means=means, counts=counts, pending=images[:, :0])
    return state._replace(slopes=slopes, offsets=_offsets(means, slopes))


def _offsets(means: Tensor, slopes: Tensor) -> Tensor:
    return (means.mT * slopes).sum(dim=1, keepdim=True) / 2
