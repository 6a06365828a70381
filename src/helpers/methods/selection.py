"""Which views of an image to trust: entropies, confident views, their marginal.

Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models, Shu et
al. 2022, arXiv 2209.07511, equations 3 and 4. With logits z_v of view v over C classes
and the set S of the K = int(rho V) views of lowest entropy:

    p_v = softmax(z_v)        H(p) = -sum_c p_c ln p_c
    q = mean_{v in S} p_v     marginal entropy = H(q)

The marginal entropy is the entropy of the mean probability: neither the mean of the
entropies nor the entropy of mean logits. All is computed in log space, so that sure
views give no 0 ln 0. The paper's factor 1 / (rho V) is 1 / K, as in the released code.
View 0, the original image, competes like any other.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

NUMBERS = 2**20
"""The most float32 numbers in a tensor of one chunk of images: 4 MiB."""


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats, at least float32: [..., C] -> [...]."""
    return _entropy(_log_softmax(logits))


def keep_count(views: int, fraction: float) -> int:
    """K = int(rho V): how many of `views` views a fraction rho in (0, 1] keeps."""
    if not 0 < fraction <= 1:
        raise ValueError(f"rho is {fraction}, but must lie above 0 and at most at 1")
    keep = int(fraction * views)
    if keep == 0:
        raise ValueError(
            f"rho {fraction} keeps none of {views} views: use "
            f"{math.ceil(1 / fraction)} views or more, or a rho of 1/{views} or more"
        )
    return keep


def confident(logits: Tensor, keep: int) -> Tensor:
    """Positions int64 [B, K] of the `keep` views of lowest entropy, lowest first.

    `logits`: [B, V, C]. Views that tie keep their order.
    """
    return lowest(entropy(logits), keep)


def lowest(entropies: Tensor, keep: int) -> Tensor:
    """Positions int64 [B, K] of the lowest of [B, V], ascending, ties in order."""
    if not 1 <= keep <= entropies.shape[1]:
        raise ValueError(f"cannot keep {keep} of {entropies.shape[1]} views")
    return entropies.argsort(dim=1, stable=True)[:, :keep]


def ranked_choices(views: Tensor, class_features: Tensor, logit_scale: float) -> Tensor:
    """Predicted classes int64 [B, V] of views [B, V, D], lowest entropy first."""
    check(views, class_features)

    def choose(views: Tensor, class_features: Tensor) -> Tensor:
        logits = logit_scale * views @ class_features.T
        order = confident(logits, views.shape[1])
        return logits.argmax(dim=-1).gather(1, order)

    return in_chunks(choose, views, class_features)


def log_marginal(logits: Tensor) -> Tensor:
    """ln of the mean of softmax over views: [B, K, C] -> [B, C], at least float32."""
    return _log_softmax(logits).logsumexp(dim=1) - math.log(logits.shape[1])


def marginal_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean of softmax over views, in nats: [B, K, C] -> [B]."""
    return _entropy(log_marginal(logits))


def check(views: Tensor, class_features: Tensor) -> None:
    """ValueError unless views are [B, V, D] and class features [C, D], all finite."""
    shapes = f"views {list(views.shape)}, class features {list(class_features.shape)}"
    if views.ndim != 3 or class_features.ndim != 2:
        raise ValueError(f"{shapes}: expected [images, views, width], [classes, width]")
    if views.shape[2] != class_features.shape[1]:
        raise ValueError(f"{shapes}: widths differ, take both from one backbone")
    if 0 in views.shape[1:] or not len(class_features):
        raise ValueError(f"{shapes}: need one view and one class at least")
    for what, features in {"views of image": views, "class": class_features}.items():
        start, row_size = 0, math.prod(features.shape[1:])
        for part in features.split(max(1, NUMBERS // row_size)):
            broken = ~part.isfinite().flatten(1).all(dim=1)
            if broken.any():
                row = start + int(broken.nonzero()[0])
                raise ValueError(f"{what} {row}: NaN or infinite features")
            start += len(part)


def in_chunks(
    method: Callable[[Tensor, Tensor], Tensor],
    views: Tensor,
    class_features: Tensor,
    numbers: int | None = None,
) -> Tensor:
    """`method`'s results [B, ...], computed on chunks of images in float32.

    `numbers` is the size of the largest tensor that `method` makes for one image, by
    default V C, the logits of all views.
    """
    class_features = class_features.float()
    if numbers is None:
        numbers = views.shape[1] * len(class_features)
    numbers = max(numbers, math.prod(views.shape[1:]))
    parts = views.split(max(1, NUMBERS // numbers))
    return torch.cat([method(part.float(), class_features) for part in parts])


def take(tensor: Tensor, positions: Tensor) -> Tensor:
    """Rows of [B, V, N] at positions [B, K]: [B, K, N]."""
    return tensor.take_along_dim(positions[..., None], dim=1)


def _log_softmax(logits: Tensor) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.log_softmax(dim=-1, dtype=wide)


def _entropy(log_p: Tensor) -> Tensor:
    log_p = log_p.clamp(min=torch.finfo(log_p.dtype).min)  # 0 ln 0 is 0, not NaN
    return -(log_p.exp() * log_p).sum(dim=-1)
