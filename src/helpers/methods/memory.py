"""The methods that remember images, by name, and the size of their memories."""

from typing import NamedTuple

from torch import Tensor

from helpers.methods import (
    bca,
    boost_adapter,
    dmn,
    dota,
    em_priors,
    onzeta,
    stata,
    tda,
    transclip,
    zlap,
)

ONLINE = {
    "tda": tda,
    "boost_adapter": boost_adapter,
    "dmn": dmn,
    "dota": dota,
    "bca": bca,
    "onzeta": onzeta,
}
"""Name -> module with `start` and `step`, see `online`."""

OF_VIEWS = {"boost_adapter"}
"""Online methods that take views [O, T, V, D], view 0 the original image."""

TRANSDUCTIVE = {
    "em_priors": em_priors,
    "zlap": zlap,
    "transclip": transclip,
    "stata": stata,
}
"""Name -> module with `predict(features [N, D], class_features [C, D], logit_scale)`,
logits float32 [N, C] of a set whose images are classified together."""


ROOM = 2**29  # bytes of the memories of streams that run together


def state_bytes(state: NamedTuple) -> int:
    """Bytes of a state's tensors, all orders together, without the class features."""
    total = 0
    for field, value in zip(state._fields, state, strict=True):
        if isinstance(value, Tensor) and field != "class_features":
            total += value.numel() * value.element_size()
        elif hasattr(value, "_fields"):
            total += state_bytes(value)
    return total
