"""CoOp: context learned from a few labelled images per class.

Learning to Prompt for Vision-Language Models, Zhou, Yang, Loy and Liu 2022, arXiv
2109.01134, section 3.2. M free vectors v stand where a prompt has the words "a photo of
a", the same for all classes ("unified context", class name last). With text tower g,
unit image feature x of label y and logit scale s, both towers frozen:

    t_c(v) = normalise(g([v_1 ... v_M, name of c, "."]))
    loss(v) = mean over the batch of -log softmax_y(s <x, t(v)>)

Recipe of the authors' code (github.com/KaiyangZhou/CoOp): SGD with momentum 0.9 and
weight decay 5e-4 on v alone, batches of 32 with the incomplete one dropped, 50 to 200
epochs, learning rate `learning_rate(epoch, epochs)`, and the last epoch is used.

Deviations: everything in float32, where the authors use half precision. Images enter as
features of views prepared once; the authors draw a new random crop and flip for every
epoch, here an epoch draws one of an image's V views.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods.registry import method
from helpers.methods.zero_shot import zero_shot

START_STD = 0.02
LEARNING_RATE = 2e-3
WARM_UP_RATE = 1e-5
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


class Trained(NamedTuple):
    """The result of `train`."""

    context: Tensor  # float32 [M, W], of the last epoch
    losses: list[float]  # an epoch's mean cross-entropy, in nats


def random_start(tokens: int, width: int, seed: int = 0) -> Tensor:
    """A random initial context: float32 [tokens, width] from N(0, 0.02^2)."""
    if tokens < 1:
        raise ValueError(f"a context of {tokens} tokens: at least 1 is needed")
    generator = torch.Generator().manual_seed(seed)
    return START_STD * torch.randn(tokens, width, generator=generator)


def learning_rate(epoch: int, epochs: int) -> float:
    """The rate that holds for the whole of `epoch`, counted from 0.

    Epoch 0 warms up at 1e-5; from then on 0.001 (1 + cos(pi (epoch - 1) / epochs)). The
    cosine starts an epoch late and keeps its length, so that it ends just above zero.
    """
    if epoch == 0:
        return WARM_UP_RATE
    return LEARNING_RATE / 2 * (1 + math.cos(math.pi * (epoch - 1) / epochs))


@method(
    "coop",
    "CoOp",
    "learned prompts",
    paper="arXiv 2109.01134",
    chapter="02",
    colour="#cfc411",
    published=("CoOp 16-shot",),
)
@method("tpt_coop", "TPT from CoOp", "learned prompts", published=("TPT+CoOp",))
@method("tpt_coop_matched", "TPT from CoOp, step matched")
def train(
    image_features: Tensor,
    labels: Tensor,
    text_features: Callable[[Tensor], Tensor],
    logit_scale: float,
    start: Tensor,
    epochs: int = 50,
    **recipe: Any,
) -> Trained:
    """Learn a context from labelled image features.

    All tensors are on one device.

    Args:
        image_features, labels, recipe: see `descend`.
        text_features: context float32 [M, W] -> unit class features [C, D],
            differentiable.
        start: [M, W], `random_start` or embeddings of words; the authors' M is 16 or 4.
    """
    if start.ndim != 2:
        raise ValueError(f"start of shape {[*start.shape]}: needs [M, W]")
    context = start.detach().float().clone().requires_grad_()

    def logits(features: Tensor) -> Tensor:
        return zero_shot(features, text_features(context), logit_scale)

    losses = descend([context], logits, image_features, labels, epochs, **recipe)
    return Trained(context.detach(), losses)


def descend(
    parameters: Sequence[Tensor],
    logits: Callable[[Tensor], Tensor],
    image_features: Tensor,
    labels: Tensor,
    epochs: int,
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[range], Iterable[int]] = iter,
) -> list[float]:
    """Optimise `parameters` of `logits` ([B, D] -> [B, C]) in place by CoOp's recipe.

    Args:
        image_features: unit, of any float type, [N, D], or [N, V, D] for V views an
            image. The authors never train on the original image: of stored views whose
            view 0 is the original, give `views[:, 1:]`.
        labels: int64 [N].
        seed: decides the order of the images and their views.
        progress: wraps the range of epochs, for example to show a bar.

    Returns:
        Each epoch's mean loss, in nats.

    Raises:
        ValueError: shapes or labels that do not fit, or a loss that is not finite.
    """
    _check(image_features, labels, epochs, batch)
    views = image_features if image_features.ndim == 3 else image_features[:, None]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        parameters, lr=0.0, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    losses = []
    for epoch in progress(range(epochs)):
        optimizer.param_groups[0]["lr"] = learning_rate(epoch, epochs)
        spent = []
        for rows, chosen in draws(len(views), views.shape[1], batch, generator):
            loss = _loss(logits(views[rows, chosen].float()), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            spent.append(loss.item())
        losses.append(sum(spent) / len(spent))
    return losses


def draws(
    images: int, views: int, batch: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch's batches: positions of images int64 [batch], and of a view of each.

    Every image comes once, in random order. An incomplete batch is dropped unless it is
    the only one.
    """
    order = torch.randperm(images, generator=generator)
    chosen = torch.randint(views, (images,), generator=generator)
    batch = min(batch, images)
    whole = images - images % batch
    yield from zip(order[:whole].split(batch), chosen[:whole].split(batch), strict=True)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.max() >= logits.shape[-1]:
        raise ValueError(
            f"label {int(labels.max())}, but the text tower gives {logits.shape[-1]} "
            "classes: labels count from 0 in the order of its class names"
        )
    loss = F.cross_entropy(logits, labels)
    if not loss.isfinite():
        raise ValueError(
            f"the loss became {loss.item()}: features, logit scale or text features "
            "hold values that are not finite"
        )
    return loss


def _check(image_features: Tensor, labels: Tensor, epochs: int, batch: int) -> None:
    shape = [*image_features.shape]
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"image features of shape {shape}: need [N, D] or [N, V, D]")
    if labels.shape != (shape[0],) or labels.dtype != torch.int64:
        raise ValueError(
            f"labels {labels.dtype} {[*labels.shape]} for {shape[0]} images: "
            f"need torch.int64 [{shape[0]}]"
        )
    if labels.min() < 0:
        raise ValueError(f"label {int(labels.min())}: labels count from 0")
    if epochs < 2:
        raise ValueError(f"{epochs} epochs: the first only warms up, give 2 or more")
    if batch < 1:
        raise ValueError(f"batches of {batch} images: need at least 1")
