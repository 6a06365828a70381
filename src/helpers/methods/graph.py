"""Nearest-neighbour graphs of images, for methods that classify a set together."""

import torch
from torch import Tensor

from helpers.methods import online

ROWS = 2**24
"""The most cosines held at once: 64 MiB."""


def check(
    features: Tensor, class_features: Tensor, logit_scale: float
) -> tuple[Tensor, Tensor]:
    """Features [N, D] and class features [C, D] in float32, checked."""
    class_features = online.check_start(class_features, logit_scale, 1)
    if features.ndim != 2:
        raise ValueError(f"features {list(features.shape)}: expected [images, width]")
    online.check_features(features[None], 1, class_features.shape[1])
    return features.float(), class_features


def nearest(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cosines and positions, both [N, K], of the K nearest others of unit [N, D].

    K is `count`, at most N - 1. An image is not its own neighbour, but its exact copy
    is. Ties keep their order.
    """
    count = min(count, len(features) - 1)
    cosines, positions = [], []
    start = 0
    for rows in features.split(max(1, ROWS // len(features))):
        products = rows @ features.T
        own = torch.arange(len(rows), device=rows.device)
        products[own, start + own] = -torch.inf
        best = products.topk(count, dim=1)
        cosines.append(best.values)
        positions.append(best.indices)
        start += len(rows)
    return torch.cat(cosines), torch.cat(positions)


def sparse(weights: Tensor, positions: Tensor, columns: int) -> Tensor:
    """The sparse matrix [N, columns] with weights [N, K] at positions [N, K]."""
    rows = torch.arange(len(weights), device=weights.device)
    rows = rows[:, None].expand_as(positions)
    where = torch.stack([rows.flatten(), positions.flatten()])
    shape = len(weights), columns
    return matrix(where, weights.flatten(), shape)


def matrix(where: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """The sparse matrix of `values` [E] at int64 [2, E]; duplicates add up."""
    made = torch.sparse_coo_tensor(where, values, shape, check_invariants=False)
    return made.coalesce()


def symmetric(features: Tensor, count: int) -> Tensor:
    """W + W^T, sparse [N, N], with W the cosines of the `count` nearest neighbours."""
    w = sparse(*nearest(features, count), len(features))
    return (w + w.T).coalesce()
