"""What every method that remembers earlier images starts with: checks and pieces.

A method of this kind stands in a module with a state, a NamedTuple, and two functions:

    start(class_features [C, D], logit_scale, orders=1, **settings) -> state
    step(state, features [O, T, D]) -> state, logits [O, T, C]

`features` holds the next T images, as unit features, of each of O streams that do not
know of each other: of one data set in O orders, say. `step` leaves the state that it
was given as it is. Images given at once or in pieces have the same logits but for
rounding. No label enters anywhere.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NUMBERS = 2**23
"""How many float32 numbers a tensor of one piece of a stream may hold: 32 MiB."""

PIECE = 128
"""Images of a stream that go through together where memory allows."""

Piece = Callable[[Any, Tensor], tuple[Any, Tensor]]


def check_start(class_features: Tensor, logit_scale: float, orders: int) -> Tensor:
    """Class features [C, D] in float32, after refusing what cannot start a stream."""
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
    """Refuse what are not features [O, T, D], or [O, T, V, D] with `views`."""
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
    """The state after all images, and [O, T, C]: `piece` on a bounded number of images.

    `numbers` is the size of the largest tensor that it makes for one image.
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
