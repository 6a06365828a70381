"""A small cache of each class: the K images of lowest entropy so far, kept in order.

The rule of TDA (arXiv 2403.18293) and DMN (arXiv 2403.17589). An image of predicted
class c and entropy h joins the cache of c if it has room. In a full cache it replaces
the image of highest entropy if h is lower; an image of the same entropy does not.

So the cache holds the K first images of c up to now in the order (entropy, arrival),
and its content after image t needs no loop over images. With r_i(t) the number of
images of the same class that arrived up to t and precede i in that order,

    image i is in the cache after image t  <=>  i <= t and r_i(t) < K

Why own code: the released codes loop over images in Python, one data set order at a
time; here an image costs a share of a few tensor operations.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Cache(NamedTuple):
    """The cached images of each class, lowest entropy first; inf: an empty slot."""

    entropies: Tensor  # float32 [O, C, K], ascending
    keys: Tensor  # float32 [O, C, K, D], the images' features
    values: Tensor  # [O, C, K, M], M further values of each image


class Shown(NamedTuple):
    """All images that are in the cache at any time during a piece of T images."""

    entropies: Tensor  # float32 [O, C, S]
    keys: Tensor  # float32 [O, C, S, D]
    values: Tensor  # [O, C, S, M]
    present: Tensor  # bool [O, C, S, T]: in the cache after image t


def empty(
    like: Tensor,
    orders: int,
    capacity: int,
    values: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Cache:
    """An empty cache of `capacity` images a class, with M = `values` values each.

    `like`: class features [C, D]. ValueError for a capacity below 1.
    """
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
    """The cache's content at each of the next T images, and the cache after them.

    Args:
        classes: int64 [O, T], whose cache each image may join.
        entropies: [O, T], the order; inf for an image that may not join.
        keys, values: [O, T, D] and [O, T, M], stored for each image.
    """
    capacity = cache.entropies.shape[2]
    filled = int(cache.entropies.isfinite().sum(dim=2).amax())
    old = Cache(*(part[:, :, :filled] for part in cache))
    new, arrivals = _by_class(old, capacity, classes, entropies, keys, values)

    both = Cache(*(torch.cat(pair, dim=2) for pair in zip(old, new, strict=True)))
    position = torch.arange(filled, device=classes.device).expand_as(old.entropies)
    not_above = (old.entropies[:, :, None] <= new.entropies[..., None]).sum(dim=3)
    rank = torch.cat([position, not_above], dim=2)
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
    """Affinities exp(-beta (1 - cosine)) of images [O, T, D] to the cached images, 0 to
    those not in the cache at the time, and the cosines: both [O, C, S, T]."""
    cosines = shown.keys.flatten(1, 2) @ features.mT
    cosines = cosines.unflatten(1, shown.keys.shape[1:3])
    close = (cosines - 1).mul_(beta).exp_().mul_(shown.present)
    return close, cosines


def ranks(shown: Shown) -> Tensor:
    """How many cached images precede each one at a time: float32 [O, C, S, T]."""
    before = shown.entropies[:, :, None] < shown.entropies[..., None]
    tie = shown.entropies[:, :, None] == shown.entropies[..., None]
    before |= tie & torch.ones_like(tie[0, 0]).tril(-1)  # slots tie in arrival order
    return before.float() @ shown.present.float()


def _by_class(
    old: Cache, capacity: int, classes: Tensor, entropies: Tensor, *payload: Tensor
) -> tuple[Cache, Tensor]:
    """The new images that join, sorted into [O, C, W], and their arrival times.

    W is the most that join one class. An image preceded by K others never joins, nor
    does it matter to later images, which the same K precede.
    """
    orders, images = classes.shape
    same = classes[:, :, None] == classes[:, None]
    same &= torch.ones_like(same[0]).tril(-1)  # [O, i, j]: j arrived before i
    before = (same & (entropies[:, None] <= entropies[..., None])).sum(dim=2)
    own = classes[..., None].expand(-1, -1, old.entropies.shape[2])
    before += (old.entropies.gather(1, own) <= entropies[..., None]).sum(dim=2)
    joins = entropies.isfinite() & (before < capacity)

    position = (same & joins[:, None]).sum(dim=2)
    width = int(torch.where(joins, position + 1, 0).amax())
    count = old.entropies.shape[1]
    # The last slot takes the images that do not join.
    slot = torch.where(joins, classes * width + position, count * width)

    def sort(part: Tensor, fill: float) -> Tensor:
        table = part.new_full((orders, count * width + 1, *part.shape[2:]), fill)
        index = slot.view(*slot.shape, *[1] * (part.ndim - 2)).expand_as(part)
        return table.scatter(1, index, part)[:, :-1].unflatten(1, (count, width))

    arrivals = sort(torch.arange(images, device=slot.device).expand_as(slot), images)
    parts = [sort(part, 0) for part in payload]
    return Cache(sort(entropies, torch.inf), *parts), arrivals


def _preceding(old: Tensor, new: Tensor) -> Tensor:
    """Whether a new image precedes another, old or new: bool [O, C, W, F + W]."""
    before_old = new[..., None] < old[:, :, None]
    before_new = new[..., None] < new[:, :, None]
    tie = new[..., None] == new[:, :, None]
    before_new |= tie & torch.ones_like(tie[0, 0]).triu(1)  # the earlier goes first
    return torch.cat([before_old, before_new], dim=3)


def _kept(both: Cache, rank: Tensor, present: Tensor, capacity: int) -> Cache:
    """The cache of the images present [O, C, S], ordered by rank."""
    position = torch.where(present, rank, rank.shape[2] + capacity)
    position, order = position.sort(dim=2, stable=True)
    held = position[:, :, :capacity] < capacity
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
