"""Shared parts of the methods that remember earlier images: checks and chunking.

The module of such a method has a state, a NamedTuple, and two functions:

    start(class_features [C, D], logit_scale, orders=1, **settings) -> state
    step(state, features [O, T, D]) -> state, logits [O, T, C]

`features` holds the unit features of the next T images of each of O independent
streams, for example one data set in O orders. `step` does not change the state it is
given. Logits do not depend, up to rounding, on how a stream is split into calls. No
label is used.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NUMBERS = 2**23
"""The most float32 numbers in a tensor of one piece of a stream: 32 MiB."""

PIECE = 128
"""The most images of a stream in one piece."""

Piece = Callable[[Any, Tensor], tuple[Any, Tensor]]


def check_start(class_features: Tensor, logit_scale: float, orders: int) -> Tensor:
    """Class features [C, D] in float32; ValueError if they cannot start a stream."""
    if class_features.ndim != 2 or 0 in class_features.shape:
        raise ValueError(
            f"class features {list(class_features.shape)}: expected [classes, width], "
            "one class at least"
        )
    broken = ~class_features.isfinite().all(dim=1)
    if broken.any():
        raise ValueError(f"class {int(broken.nonzero()[0])}: NaN or infinite features")
    if not (math.isfinite(logit_scale) and logit_scale > 0):
        raise ValueError(f"logit_scale is {logit_scale}, but must be a number above 0")
    if orders < 1:
        raise ValueError(f"{orders} orders: need one at least")
    return class_features.float()


def check_features(
    features: Tensor, orders: int, width: int, views: bool = False
) -> None:
    """ValueError unless features are [O, T, D], or with `views` [O, T, V, D]."""
    expected = f"[{orders} orders, images, {'views, ' if views else ''}width {width}]"
    shape = features.shape
    fits = features.ndim == 3 + views and shape[0] == orders and shape[-1] == width
    if not fits or 0 in shape:
        raise ValueError(f"features {list(shape)}: expected {expected}, none empty")
    broken = ~features.isfinite().flatten(2).all(dim=2)
    if broken.any():
        order, image = broken.nonzero()[0].tolist()
        raise ValueError(f"order {order}, image {image}: NaN or infinite features")


def in_pieces(
    piece: Piece, state: Any, features: Tensor, numbers: int, most: int = PIECE
) -> tuple[Any, Tensor]:
    """The state after all images and their [O, T, C], by `piece` on parts of them.

    `numbers` is the size of the largest tensor that `piece` makes for one image.
    """
    size = min(most, max(1, NUMBERS // numbers))
    made = []
    for part in features.split(size, dim=1):
        state, logits = piece(state, part.float())
        made.append(logits)
    return state, torch.cat(made, dim=1)


def mixture(log_p: Tensor, log_q: Tensor, weight: float | Tensor) -> Tensor:
    """ln of the probabilities (1 - weight) p + weight q, without ln 0."""
    weight = torch.as_tensor(weight, dtype=log_p.dtype, device=log_p.device)
    return torch.logaddexp(log_p + (1 - weight).log(), log_q + weight.log())
