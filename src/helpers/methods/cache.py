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
    like: Tensor, orders: int, capacity: int, values: int = 0, dtype=torch.float32
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

    time = torch.arange(classes.shape[1], device=classes.device)
    arrived = arrivals[..., None] <= time  # [O, C, W, T]
    first = torch.arange(filled, device=classes.device).expand_as(old.entropies)
    rank = torch.cat([first, _not_above(old.entropies, new.entropies)], dim=2)
    rank = rank[..., None] + _preceding(old.entropies, new.entropies) @ arrived.float()
    both = Cache(*(torch.cat(pair, dim=2) for pair in zip(old, new, strict=True)))
    here = torch.cat([torch.ones_like(rank[:, :, :filled], dtype=torch.bool), arrived], 2)
    present = here & (rank < capacity) & both.entropies.isfinite()[..., None]
    return Shown(*both, present), _kept(both, rank[..., -1], present[..., -1], cache)


def affinity(shown: Shown, features: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """exp(-beta (1 - cosine)) of images [O, T, D] to who is in the cache, 0 to others,
    and the cosines: both [O, C, S, T]."""
    cosines = shown.keys.flatten(1, 2) @ features.mT
    cosines = cosines.unflatten(1, shown.keys.shape[1:3])
    return (beta * (cosines - 1)).exp() * shown.present, cosines


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
    """1 where the second, a new image, goes before the first: [O, C, F + W, W]."""
    before_old = new[:, :, None] < old[..., None]
    before_new = new[:, :, None] < new[..., None]
    tie = new[:, :, None] == new[..., None]
    before_new |= tie & torch.ones_like(tie[0, 0]).tril(-1)  # the earlier goes first
    return torch.cat([before_old, before_new], dim=2).float()


def _kept(both: Cache, rank: Tensor, present: Tensor, cache: Cache) -> Cache:
    """The cache of those present [O, C, S], in the order of their ranks."""
    capacity = cache.entropies.shape[2]
    place = torch.where(present, rank, torch.inf)
    place, order = place.sort(dim=2, stable=True)
    order, held = order[:, :, :capacity], place[:, :, :capacity].isfinite()

    def take(part: Tensor, fill: float) -> Tensor:
        extra = [1] * (part.ndim - 3)
        index = order.view(*order.shape, *extra).expand(*order.shape, *part.shape[3:])
        kept = part.gather(2, index).masked_fill(~held.view(*held.shape, *extra), fill)
        room = part.new_full((*part.shape[:2], capacity, *part.shape[3:]), fill)
        room[:, :, : kept.shape[2]] = kept
        return room

    return Cache(take(both.entropies, torch.inf), take(both.keys, 0), take(both.values, 0))
