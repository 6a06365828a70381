"""Streams: the order in which test images arrive, and what methods predict for them.

A stream is a sequence of T positions in a data set. `orders`, int64 [O, T], holds O
streams:

    shuffled         every image once, in random order, as papers report results
    by_class         one class after another
    bursts           the classes' shares change; the smaller alpha, the more abruptly
    long_tailed      a part of the images, with unequal numbers of images per class
    there_and_back   one domain, then another one, then the first again

Methods see earlier images only, so that the first 50 images of a stream are a stream of
50. Labels may decide an order and score predictions; `follow` and `in_batches`, which
run the methods, get no labels.

Randomness belongs to the image: for every (seed, order) each image has a random number
made of its id, and streams sort by these numbers. So the relative order of two images
of one class does not depend on the data set's other images or on their order.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from helpers.methods import memory
from helpers.methods.zero_shot import zero_shot
from helpers.views import image_seed

STEP = 2**22  # numbers of logits that are held at once: 16 MiB


class Online(Protocol):
    """A method that remembers: a module of `helpers.methods`."""

    def start(
        self, class_features: Tensor, logit_scale: float, orders: int, **settings: Any
    ) -> Any:
        """The state of `orders` streams before their first image."""

    def step(self, state: Any, features: Tensor) -> tuple[Any, Tensor]:
        """The state after the next images [O, T, D], and their logits [O, T, C]."""


# Orders


def shuffled(ids: Sequence[str], orders: int = 10, seed: int = 0) -> np.ndarray:
    """Every image once, in random order: int64 [orders, N]."""
    return _draw(ids, orders, seed, "order").argsort(axis=1, kind="stable")


def by_class(
    ids: Sequence[str], labels: ArrayLike, orders: int = 10, seed: int = 0
) -> np.ndarray:
    """One class after another, classes and images shuffled: int64 [orders, N]."""
    classes, member = _classes(ids, labels)
    turn = _draw(_names(classes), orders, seed, "class")[:, member]
    return _sorted(turn, _draw(ids, orders, seed, "order"))


def bursts(
    ids: Sequence[str], labels: ArrayLike, alpha: float, orders: int = 10, seed: int = 0
) -> np.ndarray:
    """Every image once, classes in bursts: int64 [orders, N].

    A stream has as many sections as there are classes. Each class distributes its
    images over the sections by proportions from a symmetric Dirichlet distribution of
    parameter `alpha`: near 0, all its images are in one section; far above 1, they are
    spread evenly. Images are shuffled within a section.

    Raises:
        ValueError: `alpha` is not a finite number above 0.
    """
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha is {alpha}, but must be a finite number above 0")
    classes, member = _classes(ids, labels)
    uniform, order = (_draw(ids, orders, seed, what) for what in ("slot", "order"))
    sections = np.empty(uniform.shape)
    for number in range(orders):
        shares = _dirichlet(alpha, _names(classes), seed, number)
        edges = np.arange(len(classes))[:, None] + shares.cumsum(axis=1)
        edges[:, -1] = np.arange(len(classes)) + 1  # despite rounding
        sections[number] = np.searchsorted(edges.ravel(), member + uniform[number])
        sections[number] -= len(classes) * member
    return _sorted(sections, order)


def long_tailed(
    ids: Sequence[str], labels: ArrayLike, ratio: float, orders: int = 10, seed: int = 0
) -> np.ndarray:
    """A part of the images, shuffled, classes of unequal size: int64 [orders, T].

    Each order ranks the classes at random. All images of the first class are kept, a
    share 1 / `ratio` of the last one, and in between a share that falls by the same
    factor from rank to rank; each class keeps at least one image. All streams are cut
    to the length of the shortest.

    Raises:
        ValueError: `ratio` is not a finite number of at least 1.
    """
    if not 1 <= ratio < np.inf:
        raise ValueError(f"ratio is {ratio}, but must be a finite number of at least 1")
    classes, member = _classes(ids, labels)
    rank = _draw(_names(classes), orders, seed, "class").argsort(axis=1).argsort(axis=1)
    shares = float(ratio) ** (-rank / max(1, len(classes) - 1))
    kept = np.rint(shares * np.bincount(member)).clip(min=1)[:, member]
    chosen, order = (_draw(ids, orders, seed, what) for what in ("chosen", "order"))
    inside = _rank_in_class(chosen, member) < kept
    order[~inside] = 2  # behind all that are kept
    length = inside.sum(axis=1).min()
    return order.argsort(axis=1, kind="stable")[:, :length]


def there_and_back(
    ids: Sequence[str], away: ArrayLike, orders: int = 10, seed: int = 0
) -> np.ndarray:
    """Half of a domain, all of another one, the first's other half: int64 [orders, N].

    `away`: bool [N], true for images of the other domain. The order of the remaining
    images does not depend on them.
    """
    away = np.asarray(away, dtype=bool)
    if away.shape != (len(ids),) or away.all() or not away.any():
        raise ValueError("away must be true of some of the images, and not of all")
    order = _draw(ids, orders, seed, "order")
    home = np.where(away, np.inf, order).argsort(axis=1).argsort(axis=1)
    part = np.where(away, 1, np.where(home < (~away).sum() // 2, 0, 2))
    return _sorted(part, order)


def variety(labels: ArrayLike, orders: np.ndarray, window: int = 50) -> np.ndarray:
    """The mean number of classes among `window` consecutive images: float [O].

    A stream shorter than `window` is one window.
    """
    arrived = np.asarray(labels)[orders]
    window = min(window, arrived.shape[1])
    whole = arrived.shape[1] // window * window
    parts = np.sort(arrived[:, :whole].reshape(len(orders), -1, window), axis=2)
    return 1 + (np.diff(parts, axis=2) != 0).sum(axis=2).mean(axis=1)


# Predictions


def follow(
    method: Online,
    features: Tensor,
    class_features: Tensor,
    logit_scale: float,
    orders: np.ndarray,
    **settings: Any,
) -> Tensor:
    """A method's predictions for each image of each stream on its arrival: [O, T].

    As many streams run together as have memories that fit into `memory.ROOM`.

    Args:
        method: has `start` and `step`, as `Online`.
        features: [N, D], or [N, V, D] where the method wants views.
        class_features: [C, D].
        orders: int64 [O, T], positions into `features`.
        settings: go to `method.start`.

    Returns:
        Classes, int64, on the CPU.
    """
    _check(features, orders)
    each = memory.state_bytes(method.start(class_features, logit_scale, 1, **settings))
    together = max(1, memory.ROOM // max(1, each))
    predicted = []
    for some in np.split(orders, range(together, len(orders), together)):
        case = features, class_features, logit_scale, some
        parts = [p.argmax(dim=-1).cpu() for p in _steps(method, *case, **settings)]
        predicted.append(torch.cat(parts, dim=1))
    return torch.cat(predicted)


def logits(
    method: Online,
    features: Tensor,
    class_features: Tensor,
    logit_scale: float,
    order: np.ndarray,
    **settings: Any,
) -> Tensor:
    """A method's logits [N, C] on one stream, `order` int64 [N], on the CPU.

    Rows are in the order of `features`, not of the stream, which must have every image
    once. Other arguments as in `follow`.
    """
    if sorted(order) != list(range(len(features))):
        raise ValueError(
            f"a stream of {len(order)} images, some of them twice or missing: a "
            f"prediction for each of {len(features)} images needs each of them once"
        )
    _check(features, order[None])
    case = features, class_features, logit_scale, order[None]
    found = torch.cat([p[0].cpu() for p in _steps(method, *case, **settings)])
    return found[torch.from_numpy(order.argsort())]


def in_batches(
    method: Any,
    features: Tensor,
    class_features: Tensor,
    logit_scale: float,
    orders: np.ndarray,
    size: int,
    **settings: Any,
) -> Tensor:
    """A transductive method's predictions for batches of `size` images: int64 [O, T].

    `method.predict(features [B, D], class_features, logit_scale) -> logits [B, C]` sees
    one batch at a time and no earlier one. The last batch may be smaller.
    """
    if size < 1:
        raise ValueError(f"batches of {size} images: 1 or more")
    _check(features, orders)
    predicted = torch.empty(orders.shape, dtype=torch.int64)
    for row, order in zip(predicted, torch.from_numpy(orders), strict=True):
        for row_part, batch in zip(row.split(size), order.split(size), strict=True):
            part = features[batch.to(features.device)]
            found = method.predict(part, class_features, logit_scale, **settings)
            row_part.copy_(found.argmax(dim=-1))
    return predicted


def _steps(
    method: Online,
    features: Tensor,
    class_features: Tensor,
    logit_scale: float,
    orders: np.ndarray,
    **settings: Any,
) -> Iterator[Tensor]:
    """Logits [O, some, C] of the streams' images, as they arrive."""
    state = method.start(class_features, logit_scale, orders=len(orders), **settings)
    wide = max(len(class_features), features[0].numel())
    some = max(1, STEP // (len(orders) * wide))
    for part in torch.from_numpy(orders).split(some, dim=1):
        state, found = method.step(state, features[part.to(features.device)])
        yield found


def _check(features: Tensor, orders: np.ndarray) -> None:
    """ValueError for empty streams, unknown positions, or features not finite."""
    if orders.ndim != 2 or 0 in orders.shape:
        raise ValueError(
            f"orders are {list(orders.shape)}: expected [streams, images], one at least"
        )
    if orders.min() < 0 or orders.max() >= len(features):
        raise ValueError(
            f"orders name images {orders.min()} to {orders.max()}, but there are "
            f"features of 0 to {len(features) - 1}"
        )
    broken = ~features.isfinite().flatten(1).all(dim=1)
    if broken.any():
        raise ValueError(f"image {int(broken.nonzero()[0])}: NaN or infinite features")


# Scores


def by_image(values: ArrayLike, orders: np.ndarray, images: int) -> np.ndarray:
    """Values [O, T] in the order of arrival as float [O, N], in the order of images.

    NaN for images that a stream does not contain.
    """
    found = np.full((len(orders), images), np.nan)
    np.put_along_axis(found, orders, np.asarray(values, dtype=float), axis=1)
    return found


def score(predicted: ArrayLike, labels: ArrayLike, orders: np.ndarray) -> np.ndarray:
    """1.0 for correct predictions [O, T], else 0.0, by image: float [O, N]."""
    labels = np.asarray(labels)
    return by_image(np.asarray(predicted) == labels[orders], orders, len(labels))


def gains(
    methods: Mapping[str, Online],
    features: Tensor,
    class_features: Tensor,
    logit_scale: float,
    orders: np.ndarray,
    labels: ArrayLike,
) -> dict[str, np.ndarray]:
    """`score` of each method minus zero-shot's: float [O, N], NaN as in `by_image`."""
    case = features, class_features, logit_scale
    plain = zero_shot(*case).argmax(dim=1).cpu().numpy() == np.asarray(labels)
    return {
        name: score(follow(method, *case, orders), labels, orders) - plain
        for name, method in methods.items()
    }


def arrival(orders: np.ndarray, images: int) -> np.ndarray:
    """The number of images before each one: float [O, N], NaN as in `by_image`."""
    return by_image(
        np.broadcast_to(np.arange(orders.shape[1]), orders.shape), orders, images
    )


def spans(length: int) -> list[tuple[int, int]]:
    """(first, end) of parts of a stream: 50 images, then as many as came before."""
    edges = [0]
    while (edge := 50 * 2 ** (len(edges) - 1)) <= length / 2:
        edges.append(edge)
    return list(pairwise([*edges, length]))


# Randomness


def _draw(ids: Sequence[str], orders: int, seed: int, purpose: str) -> np.ndarray:
    """A random number in [0, 1) for every image and order: float64 [orders, N]."""
    if orders < 1 or not len(ids):
        raise ValueError(f"{orders} streams of {len(ids)} images: 1 or more of both")
    of_image = np.array([image_seed(seed, name) for name in ids], dtype=np.uint64)
    numbers = [image_seed(number, purpose) for number in range(orders)]
    of_order = _mixed(np.array(numbers, dtype=np.uint64))
    mixed = _mixed(of_image ^ of_order[:, None])
    return (mixed >> np.uint64(11)) * 2.0**-53


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Mix the bits of uint64 numbers: the finaliser of splitmix64."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _dirichlet(alpha: float, names: Sequence[str], seed: int, order: int) -> np.ndarray:
    """Proportions [K, K], a row per class, each from Dirichlet(alpha, ..., alpha).

    By way of logarithms: gamma variates of a small alpha round to zero. With U uniform,
    gamma(alpha) is distributed as gamma(alpha + 1) U^(1 / alpha).
    """
    drawn = []
    for name in names:
        rng = np.random.default_rng([image_seed(seed, name), order])
        logs = np.log(rng.standard_gamma(alpha + 1, len(names)))
        drawn.append(logs + np.log1p(-rng.random(len(names))) / alpha)
    drawn = np.array(drawn)
    shares = np.exp(drawn - drawn.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def _classes(ids: Sequence[str], labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The classes that occur [K], and each image's position among them [N]."""
    labels = np.asarray(labels)
    if labels.shape != (len(ids),):
        raise ValueError(f"{len(ids)} ids, but labels of shape {list(labels.shape)}")
    return np.unique(labels, return_inverse=True)


def _names(classes: np.ndarray) -> list[str]:
    return [f"class {number}" for number in classes]


def _rank_in_class(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """The number of images of the same class with a lower value: int64 [O, N]."""
    sorted_rows = _sorted(np.broadcast_to(member, values.shape), values)
    starts = np.concatenate([[0], np.bincount(member).cumsum()[:-1]])
    ranks = np.arange(len(member)) - starts[member[sorted_rows]]
    found = np.empty_like(sorted_rows)
    np.put_along_axis(found, sorted_rows, ranks, axis=1)
    return found


def _sorted(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Positions that sort each row of [O, N] by `first`, equals by `then`."""
    return np.lexsort((then, first), axis=1)
