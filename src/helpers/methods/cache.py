"""A small cache of each class: the K images of lowest entropy so far, kept in order.

The rule of TDA (arXiv 2403.18293) and DMN (arXiv 2403.17589). An image of predicted
class c and entropy h joins the cache of c while it has room; once full, it takes the
place of the image of highest entropy if h is lower than that. An image of the same
entropy does not.

So the cache holds, of the images of c up to now, the K first by (entropy, arrival).
Who is in it after image t needs no loop over images: with r_i(t) the number of images
of the same class that arrived up to t and come before i in that order,

    image i is in the cache after image t  <=>  i <= t and r_i(t) < K
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Cache(NamedTuple):
    """The cached images of each class, the surest first; entropy inf: an empty slot."""

    entropies: Tensor  # float32 [O, C, K], ascending
    keys: Tensor  # float32 [O, C, K, D], the images' features
    values: Tensor  # [O, C, K, M], what else is to be remembered


class Shown(NamedTuple):
    """All images that are in the cache at some time of a piece of T images."""

    entropies: Tensor  # float32 [O, C, S]
    keys: Tensor  # float32 [O, C, S, D]
    values: Tensor  # [O, C, S, M]
    present: Tensor  # bool [O, C, S, T]: in the cache after image t joined or did not


def empty(
    like: Tensor,
    orders: int,
    capacity: int,
    values: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Cache:
    """A cache of `capacity` images, with M = `values` values each, for the class
    features [C, D] `like`."""
    if capacity < 1:
        raise ValueError(f"a cache of {capacity} images a class: need one at least")
    shape = orders, len(like), capacity
    return Cache(
        like.new_full(shape, torch.inf),
        like.new_zeros(*shape, like.shape[1]),
        like.new_zeros(*shape, values, dtype=dtype),
    )


def push(
    cache: Cache, classes: Tensor, entropies: Tensor, keys: Tensor, values: Tensor
) -> tuple[Shown, Cache]:
    """Who is in the cache at each of the next T images, and the cache after them.

    `classes` int64 [O, T] are the images' caches, `entropies` [O, T] their order, inf
    for an image that may not join, `keys` [O, T, D] and `values` [O, T, M] what is
    kept of them.
    """
    capacity = cache.entropies.shape[2]
    filled = int(cache.entropies.isfinite().sum(dim=2).amax())
    old = Cache(*(part[:, :, :filled] for part in cache))
    new, arrivals = _by_class(old, capacity, classes, entropies, keys, values)

    both = Cache(*(torch.cat(pair, dim=2) for pair in zip(old, new, strict=True)))
    place = torch.arange(filled, device=classes.device).expand_as(old.entropies)
    rank = torch.cat([place, _not_above(old.entropies, new.entropies)], dim=2)
    images = classes.shape[1]
    since = torch.where(old.entropies.isfinite(), -1, images)  # an empty slot: never
    joins = torch.cat([since, arrivals], dim=2)
    leaves = torch.full_like(joins, images)
    if arrivals.shape[2]:
        after = rank[:, :, None] + _preceding(old.entropies, new.entropies).cumsum(2)
        full = torch.where(after < capacity, images, arrivals[..., None])
        leaves, rank = full.amin(dim=2), after[:, :, -1]
    time = torch.arange(images, device=classes.device)
    present = (joins[..., None] <= time) & (time < leaves[..., None])
    return Shown(*both, present), _kept(both, rank, present[..., -1], capacity)


def affinity(shown: Shown, features: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """exp(-beta (1 - cosine)) of images [O, T, D] to who is in the cache, 0 to others,
    and the cosines: both [O, C, S, T]."""
    cosines = shown.keys.flatten(1, 2) @ features.mT
    cosines = cosines.unflatten(1, shown.keys.shape[1:3])
    close = (cosines - 1).mul_(beta).exp_().mul_(shown.present)
    return close, cosines


def ranks(shown: Shown) -> Tensor:
    """How many of those in the cache at a time go before each: float32 [O, C, S, T]."""
    before = shown.entropies[:, :, None] < shown.entropies[..., None]
    tie = shown.entropies[:, :, None] == shown.entropies[..., None]
    before |= tie & torch.ones_like(tie[0, 0]).tril(-1)  # slots tie in arrival order
    return before.float() @ shown.present.float()


def _by_class(
    old: Cache, capacity: int, classes: Tensor, entropies: Tensor, *payload: Tensor
) -> tuple[Cache, Tensor]:
    """Those of the new images that join, sorted into [O, C, W], and when they arrive.

    W is the most that join one class. An image that finds K others before it never
    joins, and never decides about another, which then finds the same K before it.
    """
    orders, images = classes.shape
    same = classes[:, :, None] == classes[:, None]
    same &= torch.ones_like(same[0]).tril(-1)  # [O, i, j]: j arrived before i
    before = (same & (entropies[:, None] <= entropies[..., None])).sum(dim=2)
    own = classes[..., None].expand(-1, -1, old.entropies.shape[2])
    before += (old.entropies.gather(1, own) <= entropies[..., None]).sum(dim=2)
    joins = entropies.isfinite() & (before < capacity)

    place = (same & joins[:, None]).sum(dim=2)
    width = int(torch.where(joins, place + 1, 0).amax())
    count = old.entropies.shape[1]
    slot = torch.where(joins, classes * width + place, count * width)  # last: no slot

    def sort(part: Tensor, fill: float) -> Tensor:
        table = part.new_full((orders, count * width + 1, *part.shape[2:]), fill)
        index = slot.view(*slot.shape, *[1] * (part.ndim - 2)).expand_as(part)
        return table.scatter(1, index, part)[:, :-1].unflatten(1, (count, width))

    arrivals = sort(torch.arange(images, device=slot.device).expand_as(slot), images)
    parts = [sort(part, 0) for part in payload]
    return Cache(sort(entropies, torch.inf), *parts), arrivals


def _not_above(old: Tensor, new: Tensor) -> Tensor:
    """How many of the old entropies [O, C, F] are at most each new: [O, C, W]."""
    return (old[:, :, None] <= new[..., None]).sum(dim=3)


def _preceding(old: Tensor, new: Tensor) -> Tensor:
    """Whether the first, a new image, goes before the second: bool [O, C, W, F + W]."""
    before_old = new[..., None] < old[:, :, None]
    before_new = new[..., None] < new[:, :, None]
    tie = new[..., None] == new[:, :, None]
    before_new |= tie & torch.ones_like(tie[0, 0]).triu(1)  # the earlier goes first
    return torch.cat([before_old, before_new], dim=3)


def _kept(both: Cache, rank: Tensor, present: Tensor, capacity: int) -> Cache:
    """The cache of those present [O, C, S], in the order of their ranks."""
    place = torch.where(present, rank, rank.shape[2] + capacity)
    place, order = place.sort(dim=2, stable=True)
    held = place[:, :, :capacity] < capacity
    room = capacity - held.shape[2]

    def take(part: Tensor, fill: float) -> Tensor:
        extra = part.ndim - 3
        index = order[:, :, :capacity].view(*held.shape, *[1] * extra)
        kept = part.gather(2, index.expand(*held.shape, *part.shape[3:]))
        kept.masked_fill_(~held.view(*held.shape, *[1] * extra), fill)
        return F.pad(kept, [0, 0] * extra + [0, max(0, room)], value=fill)

    return Cache(
        take(both.entropies, torch.inf), take(both.keys, 0), take(both.values, 0)
    )
