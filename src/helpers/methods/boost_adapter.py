"""BoostAdapter: TDA whose cache an image may fill with its own views, for itself only.

BoostAdapter: Improving Vision-Language Test-Time Adaptation via Regional Bootstrapping,
Zhang et al. 2024, arXiv 2410.15430; code taolinzhang/BoostAdapter. An image, which is
view 0, joins the caches as in `tda`. Then the tenth of its views of lowest entropy,
with view 0 among the candidates, join a private copy of the positive cache, under the
classes that they predict, by the same rule but with room for 3 + delta. The result is
TDA's logits of view 0 with this copy.

The negative cache keeps the 2 latest images of a class here, not the surest two.

delta is 1, as in the authors' files for ImageNet-V2 and -Sketch; 3 for -A and -R, and
their file for ImageNet has none, which stops their code.

Deviation: on ImageNet's variants the authors classify and keep the mean of the surest
views instead of view 0, which their code uses for all other sets.

The time is that of the logits and entropies of all views, as for the votes.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from helpers.methods import cache, online, selection, tda
from helpers.methods.registry import method


class State(NamedTuple):
    caches: tda.State
    seen: int
    rho: float
    extra: int


@method(
    "boost_adapter",
    "BoostAdapter",
    "memory",
    paper="arXiv 2410.15430",
    chapter="06",
    colour="#6677ff",
    speaker="",
    published=("BoostAdapter",),
)
def start(
    class_features: Tensor,
    logit_scale: float,
    orders: int = 1,
    rho: float = 0.1,
    extra: int = 1,
    **settings: Any,
) -> State:
    """Empty caches for class features [C, D]; `extra` is delta, `rho` the share of the
    views, and the other settings those of `tda.start`."""
    if extra < 0:
        raise ValueError(f"extra is {extra}, but must not be below 0")
    return State(
        tda.start(class_features, logit_scale, orders, **settings), 0, rho, extra
    )


def step(state: State, features: Tensor) -> tuple[State, Tensor]:
    """The state after images' views [O, T, V, D], and logits float32 [O, T, C]."""
    orders, count, capacity, width = state.caches.positive.keys.shape
    online.check_features(features, orders, width, views=True)
    views = features.shape[2]
    keep = selection.keep_count(views, state.rho)
    slots = 2 * capacity * keep + 2 * count
    numbers = orders * max(views * max(count, width), count * slots)
    return online.in_pieces(_piece, state, features, numbers)


def _piece(state: State, views: Tensor) -> tuple[State, Tensor]:
    caches, images = state.caches, views[:, :, 0]
    all_logits = caches.logit_scale * views @ caches.class_features.T
    all_entropies = selection.entropy(all_logits)
    logits, entropies = all_logits[:, :, 0], all_entropies[:, :, 0]
    classes = logits.argmax(dim=2)
    nothing = images.new_zeros(*classes.shape, 0)
    sure, positive = cache.push(caches.positive, classes, entropies, images, nothing)
    count = images.shape[1]
    latest = -torch.arange(state.seen, state.seen + count, device=images.device)
    unsure, negative = tda.push_negative(
        caches.negative,
        logits,
        classes,
        entropies,
        latest.to(entropies.dtype).expand_as(entropies),
        images,
        caches,
    )
    keep = selection.keep_count(views.shape[2], state.rho)
    chosen = selection.lowest(all_entropies.flatten(0, 1), keep)
    chosen = chosen.unflatten(0, classes.shape)
    votes = _boosted(
        state,
        sure,
        images,
        views.take_along_dim(chosen[..., None], dim=2),
        all_logits.take_along_dim(chosen[..., None], dim=2).argmax(dim=3),
        all_entropies.take_along_dim(chosen, dim=2),
    )
    made = logits + caches.positive_weight * votes
    made = made - caches.negative_weight * tda.vetoes(unsure, images, caches)
    caches = caches._replace(positive=positive, negative=negative)
    return state._replace(caches=caches, seen=state.seen + count), made


def _boosted(
    state: State,
    sure: cache.Shown,
    images: Tensor,
    boosts: Tensor,
    classes: Tensor,
    entropies: Tensor,
) -> Tensor:
    """Votes [O, T, C] of each image's copy of the cache, with its `boosts` [O, T, K, D]
    of `classes` and `entropies` [O, T, K], which ascend."""
    sharpness = state.caches.positive_sharpness
    room = state.caches.positive.entropies.shape[2] + state.extra
    close, _ = cache.affinity(sure, images, sharpness)  # [O, C, S, T]
    count = close.shape[1]

    one_hot = torch.nn.functional.one_hot(classes, count).bool()  # [O, T, K, C]
    at = one_hot.permute(0, 3, 1, 2)[:, :, None]  # [O, C, 1, T, K]
    surer = entropies[:, None, None] < sure.entropies[..., None, None]
    rank = cache.ranks(sure) + (at & surer).sum(dim=4)
    votes = (close * (rank < room)).sum(dim=2).mT

    kept = classes[..., None].expand(-1, -1, -1, sure.entropies.shape[2])
    present = sure.present.permute(0, 3, 1, 2).gather(2, kept)  # [O, T, K, S]
    of_class = sure.entropies[:, None].expand(-1, classes.shape[1], -1, -1)
    rank = (present & (of_class.gather(2, kept) <= entropies[..., None])).sum(dim=3)
    same = classes[..., :, None] == classes[..., None, :]
    rank += (same & torch.ones_like(same[0, 0]).tril(-1)).sum(dim=3)
    own = (sharpness * ((boosts @ images[..., None])[..., 0] - 1)).exp()
    return votes.scatter_add(2, classes, own * (rank < room))
