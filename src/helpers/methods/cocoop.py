"""CoCoOp: a learned context that each image shifts.

Conditional Prompt Learning for Vision-Language Models, Zhou, Yang, Loy and Liu 2022,
arXiv 2203.05557, section 3.2. CoOp's context v suits the classes it was learned on; a
small net h, learned along with it, adds the same vector to all M tokens of an image x:

    v_m(x) = v_m + h(x)        h(x) = W_2 relu(W_1 x + b_1) + b_2
    logit_c(x) = s <x, t_c(v(x))>

x is the unit image feature, [D]; the hidden layer has D / 16 units. The recipe is
CoOp's (`helpers.methods.coop`) with batches of one image and 10 epochs, from the words
"a photo of a". Every image has its own prompts: C runs of the text tower an image.

Two conventions exist for what h reads. CoCoOp trains and predicts on the unit feature.
The released code of TPT (Shu et al. 2022, arXiv 2209.07511) feeds the same net the
feature as the image tower gives it, not normalised, before it tunes v(x) further.
`normalised` tells which.

Deviations: float32, and prepared views, as in CoOp.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods import coop
from helpers.methods.registry import method


class CoCoOp(NamedTuple):
    """The learned context and the net that shifts it, all float32."""

    context: Tensor  # [M, W]
    hidden_weight: Tensor  # W_1 [D / 16, D]
    hidden_bias: Tensor  # b_1 [D / 16]
    shift_weight: Tensor  # W_2 [W, D / 16]
    shift_bias: Tensor  # b_2 [W]


class Trained(NamedTuple):
    """The result of `train`."""

    model: CoCoOp
    losses: list[float]  # an epoch's mean cross-entropy, in nats


def initial(start: Tensor, embed_dim: int, seed: int = 0) -> CoCoOp:
    """An untrained model: the context `start` [M, W] and a net as PyTorch draws one.

    Weights and biases are uniform within 1 / sqrt(inputs). That leaves |b_2| up to
    4 / sqrt(D), far above a token embedding's 0.01, so that the model does not begin
    as the words do.
    """
    if start.ndim != 2:
        raise ValueError(f"start of shape {[*start.shape]}: needs [M, W]")
    width, hidden = start.shape[1], embed_dim // 16
    if not hidden:
        raise ValueError(f"features of width {embed_dim}: the net needs 16 or more")
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, inputs: int) -> Tensor:
        drawn = torch.rand(*shape, generator=generator)
        return ((2 * drawn - 1) / inputs**0.5).to(start.device)

    return CoCoOp(
        context=start.detach().float().clone(),
        hidden_weight=uniform(hidden, embed_dim, inputs=embed_dim),
        hidden_bias=uniform(hidden, inputs=embed_dim),
        shift_weight=uniform(width, hidden, inputs=hidden),
        shift_bias=uniform(width, inputs=hidden),
    )


def contexts(model: CoCoOp, image_features: Tensor, normalised: bool = True) -> Tensor:
    """The context of each image: float32 [B, M, W] of features [B, D].

    `normalised=True` reads the features' directions, whatever their norms are.
    `normalised=False` reads them as they are and wants those of the image tower itself
    (`backbone.model.encode_image`); unit features, as the store holds, are refused.
    """
    features = image_features.float()
    if normalised:
        features = F.normalize(features, dim=-1)
    elif ((features.norm(dim=-1) - 1).abs() < 1e-3).all():
        raise ValueError(
            "normalised=False was given unit features, with which it means the same as "
            "normalised=True: give the features as the image tower leaves them"
        )
    hidden = F.relu(F.linear(features, model.hidden_weight, model.hidden_bias))
    shift = F.linear(hidden, model.shift_weight, model.shift_bias)
    return model.context + shift[:, None]


def logits(
    model: CoCoOp,
    image_features: Tensor,
    text_features: Callable[[Tensor], Tensor],
    logit_scale: float,
    normalised: bool = True,
    chunk: int = 16,
) -> Tensor:
    """Logits float32 [B, C] of image features [B, D], each with prompts of its own.

    `text_features`: contexts [b, M, W] -> unit class features [b, C, D], for `chunk`
    images at a time. The cosine always takes the features' directions; `normalised` is
    about what the net reads, see `contexts`.
    """
    parts = []
    for features in image_features.split(chunk):
        classes = text_features(contexts(model, features, normalised))  # [b, C, D]
        directions = F.normalize(features.float(), dim=-1)
        parts.append(logit_scale * torch.einsum("bd,bcd->bc", directions, classes))
    return torch.cat(parts)


@method(
    "cocoop",
    "CoCoOp",
    "learned prompts",
    paper="arXiv 2203.05557",
    chapter="02",
    speaker="",
    published=("CoCoOp 16-shot",),
)
@method(
    "tpt_cocoop",
    title="TPT from CoCoOp",
    family="learned prompts",
    published=("TPT+CoCoOp",),
)
@method("tpt_cocoop_matched", title="TPT from CoCoOp, step matched")
def train(
    image_features: Tensor,
    labels: Tensor,
    text_features: Callable[[Tensor], Tensor],
    logit_scale: float,
    start: Tensor,
    epochs: int = 10,
    batch: int = 1,
    seed: int = 0,
    **recipe: Any,
) -> Trained:
    """Learn context and net from labelled image features.

    `start` [M, W]; `text_features` as in `logits`; `seed` decides the net's first
    weights, too; the others are those of `coop.descend`.
    """
    model = initial(start, image_features.shape[-1], seed)
    for tensor in model:
        tensor.requires_grad_()

    def batch_logits(features: Tensor) -> Tensor:
        return logits(model, features, text_features, logit_scale)

    losses = coop.descend(
        model, batch_logits, image_features, labels, epochs, batch, seed, **recipe
    )
    return Trained(CoCoOp(*(tensor.detach() for tensor in model)), losses)
