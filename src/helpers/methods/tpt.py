"""Test-time prompt tuning: one image's views tune the words before the class name.

Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models, Shu et
al. 2022, arXiv 2209.07511, section 3, in the form of the released code
(github.com/azshue/TPT). For one image with unit view features f_v, view 0 the original
image, logit scale s, and class features t_c(p) that depend on a context p [M, W]:

    z_vc = s <f_v, t_c(p)>          S = the int(rho V) views of lowest entropy
    L(p) = H(mean_{v in S} softmax(z_v))        H(q) = -sum_c q_c ln q_c
    p <- AdamW step on L            prediction argmax_c <f_0, t_c(p)>

Every image starts again from the same context, with an empty optimiser. Its first step

    p <- p (1 - lr wd) - lr g / (|g| + eps)         g = dL/dp

is then a step of length lr along the sign of each coordinate of g: the size of the
gradient does not matter. Further steps keep S, as the released code does.

Images that start from one context share the first class features and their graph. So
the gradient of an image is a vector-Jacobian product, g = J^T dL/dt, and only the
prediction needs its own pass through the text tower. If the Jacobian J is given, the
gradients of many images are one matrix product. The release runs the text tower forward
and back for each image.

Deviations: the release computes in float16 with a loss scaler, which may skip a step;
here everything is float32. If int(rho V) is 0, the release leaves the context as it is;
here it is an error.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods import selection
from helpers.methods.registry import method

FIRST_STEPS = 32  # images whose first step, through a shared graph, is taken together
BETAS = (0.9, 0.999)
EPSILON = 1e-8

TextFeatures = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


class Tuned(NamedTuple):
    """The result of tuning contexts."""

    context: Tensor  # [B, M, W] after the last step
    gradient: Tensor  # [B, M, W] of the first step
    selected: Tensor  # int64 [B, K], the confident views
    losses: Tensor  # [B, steps], each before its step
    logits: Tensor  # [B, steps, C] of view 0, likewise


@method(
    "tpt",
    "TPT",
    "tuned prompts",
    paper="arXiv 2209.07511",
    chapter="02",
    colour="#d55e00",
    published=("TPT",),
    headline=True,
)
@method("tpt_matched", "TPT, step matched")
def tpt(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    context: Tensor,
    **tuning: Any,
) -> Tensor:
    """Logits [B, C] of view 0 with the context tuned on all views [B, V, D].

    `tune` explains the arguments; `tuning` are its keyword arguments.
    """
    tuned = tune(views, text_features, logit_scale, context, **tuning).context
    batch = tuning.get("batch", 1)
    return original_logits(views, text_features, logit_scale, tuned, batch)


def path(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    context: Tensor,
    steps: int = 1,
    **tuning: Any,
) -> Tensor:
    """Logits [B, 1 + steps, C] of view 0 before tuning and after each of the steps.

    Row k is what `tpt` gives for k steps, so that one tuning serves all step counts.
    """
    side = text_features, logit_scale
    tuned = tune(views, *side, context, steps=steps, **tuning)
    batch = tuning.get("batch", 1)
    last = original_logits(views, *side, tuned.context, batch)
    return torch.cat([tuned.logits, last[:, None]], dim=1)


@method("tpt_revote", "TPT, re-voted")
def revote(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    context: Tensor,
    rho: float = 0.1,
    **tuning: Any,
) -> Tensor:
    """ln of the confident views' mean probability [B, C], after TPT's step.

    The views are selected again with the tuned context. The public repository
    LuCazzola/TTA_DL-Project predicts in this way, but accumulates gradients and batch
    statistics over images; here images are independent.
    """
    tuned = tune(views, text_features, logit_scale, context, rho=rho, **tuning).context
    batch = tuning.get("batch", 1)
    after = view_logits(views, text_features, logit_scale, tuned, batch)
    return confident_marginal(after, rho)


def confident_marginal(logits: Tensor, rho: float = 0.1) -> Tensor:
    """ln of the mean probability [B, C] of the confident ones of views [B, V, C]."""
    keep = selection.keep_count(logits.shape[1], rho)
    trusted = selection.take(logits, selection.confident(logits, keep))
    return selection.log_marginal(trusted)


def tpt_linear(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    context: Tensor,
    jacobian: Tensor,
    **tuning: Any,
) -> Tensor:
    """Logits [B, C] after TPT's step, with class features linear in the context.

    This is the first-order form of TPT: t(p + step) is replaced by t(p) + J step,
    normalised, so that no image needs the text tower.

    Args:
        context: one for all images, [M, W].
        jacobian: of `text_features` at `context`, [C, D, M, W].

        Others as in `tune`.

    Raises:
        ValueError: more than one step.
    """
    if tuning.get("steps", 1) != 1:
        raise ValueError("tpt_linear takes one step: the Jacobian holds at its start")
    tuned = tune(
        views, text_features, logit_scale, context, jacobian=jacobian, **tuning
    ).context
    with torch.no_grad():
        start = text_features(context)
    rows = jacobian.flatten(2).flatten(0, 1)  # [C D, M W]
    logits = []
    pairs = zip(views[:, 0].split(FIRST_STEPS), tuned.split(FIRST_STEPS), strict=True)
    for original, at in pairs:
        moved = ((at - context).flatten(1) @ rows.T).unflatten(1, start.shape)
        features = F.normalize(start + moved, dim=-1)
        logits.append(
            class_logits(original[:, None].to(at.dtype), features, logit_scale)
        )
    return torch.cat(logits)[:, 0]


def tune(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    context: Tensor,
    rho: float = 0.1,
    steps: int = 1,
    learning_rate: float = 5e-3,
    weight_decay: float = 1e-2,
    loss: Loss | None = None,
    jacobian: Tensor | None = None,
    batch: int = 1,
) -> Tuned:
    """The context of each image after `steps` AdamW steps on its own views.

    Args:
        views: unit features [B, V, D] of any float type, view 0 the original image.
        text_features: contexts [..., M, W] -> unit class features [..., C, D].
        context: where tuning starts, [M, W] for all images or [B, M, W]; float32.
        loss: (logits [b, K, C] of the confident views, class features [b, C, D]) ->
            [b], by default TPT's marginal entropy.
        jacobian: d class features / d context at a shared `context`, [C, D, M, W];
            saves the backward passes of the first step.
        batch: images encoded together by the text tower; changes memory
            (`PromptTower.peak_bytes`) and rounding.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    _check(views, context, steps, batch, jacobian)
    keep = selection.keep_count(views.shape[1], rho)
    loss = loss or (lambda logits, class_features: selection.marginal_entropy(logits))
    shared, size = None, batch
    if context.ndim == 2:
        shared = _shared_features(text_features, context, jacobian, batch)
        size = FIRST_STEPS if steps == 1 else batch
        context = context.expand(len(views), -1, -1)
    parts = []
    for part, at in zip(views.split(size), context.split(size), strict=True):
        at, part = at.detach(), part.to(at.dtype)
        if not part.isfinite().all():
            raise ValueError("views hold NaN or infinite features")
        mean = square = torch.zeros_like(at)
        gradients, losses, originals = [], [], []
        for step in range(1, steps + 1):
            first = shared if step == 1 else None
            features, pull_back = first or _own_features(text_features, at)
            if step == 1:
                logits = class_logits(part, features, logit_scale)
                selected = selection.confident(logits, keep)
                trusted = selection.take(part, selected)
            value, cotangent = _loss_gradient(trusted, features, logit_scale, loss)
            gradient = pull_back(cotangent)
            at, mean, square = adamw_step(
                at, gradient, mean, square, step, learning_rate, weight_decay
            )
            gradients.append(gradient)
            losses.append(value)
            originals.append(class_logits(part[:, :1], features, logit_scale)[:, 0])
        stacked = (torch.stack(each, dim=1) for each in (losses, originals))
        parts.append(Tuned(at, gradients[0], selected, *stacked))
    return Tuned(*map(torch.cat, zip(*parts, strict=True)))


def original_logits(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    contexts: Tensor,
    batch: int = 1,
) -> Tensor:
    """Logits [B, C] of view 0 of views [B, V, D], each image with its own context."""
    return view_logits(views[:, :1], text_features, logit_scale, contexts, batch)[:, 0]


def view_logits(
    views: Tensor,
    text_features: TextFeatures,
    logit_scale: float,
    contexts: Tensor,
    batch: int = 1,
) -> Tensor:
    """Logits [B, V, C] of all views, each image with its own context."""
    logits = []
    for part, at in zip(views.split(batch), contexts.split(batch), strict=True):
        with torch.no_grad():
            features = text_features(at)
        logits.append(class_logits(part.to(at.dtype), features, logit_scale))
    return torch.cat(logits)


def adamw_step(
    at: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int,
    learning_rate: float = 5e-3,
    weight_decay: float = 1e-2,
) -> tuple[Tensor, Tensor, Tensor]:
    """AdamW's step number `step`, from 1 on: the new values and the two moments.

    Decoupled Weight Decay Regularization, Loshchilov & Hutter 2019, arXiv 1711.05101,
    algorithm 2, with PyTorch's decay lr * wd. All tensors have one shape.
    """
    first, second = BETAS
    mean = first * mean + (1 - first) * gradient
    square = second * square + (1 - second) * gradient**2
    direction = mean / (1 - first**step)
    length = (square / (1 - second**step)).sqrt() + EPSILON
    at = at * (1 - learning_rate * weight_decay) - learning_rate * direction / length
    return at, mean, square


def class_logits(views: Tensor, class_features: Tensor, logit_scale: float) -> Tensor:
    """[b, V, D] and [b, C, D] or [C, D] -> [b, V, C]."""
    return logit_scale * views @ class_features.mT


def _loss_gradient(
    trusted: Tensor, features: Tensor, logit_scale: float, loss: Loss
) -> tuple[Tensor, Tensor]:
    """Losses [b], and d loss / d class features [b, C, D], of views [b, K, D]."""
    with torch.enable_grad():
        features = features.expand(len(trusted), -1, -1).requires_grad_()
        values = loss(class_logits(trusted, features, logit_scale), features)
        (gradient,) = torch.autograd.grad(values.sum(), features)
    return values.detach(), gradient


FeaturesAndPullback = tuple[Tensor, Callable[[Tensor], Tensor]]
"""Class features without a graph, and the vector-Jacobian product that takes the loss's
gradient with respect to the features back to the context."""


def _own_features(text_features: TextFeatures, contexts: Tensor) -> FeaturesAndPullback:
    """Features [b, C, D] of contexts [b, M, W]; `pull_back` can be used once."""
    with torch.enable_grad():
        leaf = contexts.detach().requires_grad_()
        features = text_features(leaf)
    return features.detach(), lambda g: torch.autograd.grad(features, leaf, g)[0]


def _shared_features(
    text_features: TextFeatures, context: Tensor, jacobian: Tensor | None, batch: int
) -> FeaturesAndPullback:
    """Features [C, D] of one context [M, W]; `pull_back` takes [b, C, D] for any b."""
    if jacobian is not None:
        rows = jacobian.flatten(2).flatten(0, 1)  # [C D, M W]
        with torch.no_grad():
            features = text_features(context)
        return features, lambda g: (g.flatten(1) @ rows).unflatten(1, context.shape)

    with torch.enable_grad():
        leaf = context.detach().requires_grad_()
        features = text_features(leaf)

    def pull_back(cotangents: Tensor) -> Tensor:
        def few(cotangents: Tensor) -> Tensor:
            return torch.autograd.grad(
                features, leaf, cotangents, retain_graph=True, is_grads_batched=True
            )[0]

        return torch.cat([few(some) for some in cotangents.split(batch)])

    return features.detach(), pull_back


def _check(
    views: Tensor, context: Tensor, steps: int, batch: int, jacobian: Tensor | None
) -> None:
    if views.ndim != 3 or not len(views):
        raise ValueError(f"views of shape {list(views.shape)}: expected [B, V, D]")
    if not (context.ndim == 2 or (context.ndim == 3 and len(context) == len(views))):
        raise ValueError(
            f"context of shape {list(context.shape)}: expected [M, W], or one for each "
            f"image, [{len(views)}, M, W]"
        )
    if not context.isfinite().all():
        raise ValueError("context holds NaN or infinite numbers")
    if context.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"context in {context.dtype}: AdamW's eps of {EPSILON} needs float32"
        )
    if steps < 1 or batch < 1:
        raise ValueError(f"steps {steps} and batch {batch} must be 1 or more")
    if jacobian is not None and (
        context.ndim != 2 or jacobian.shape[2:] != context.shape
    ):
        raise ValueError(
            f"jacobian of shape {list(jacobian.shape)} for a context of shape "
            f"{list(context.shape)}: it serves one context [M, W], as [C, D, M, W]"
        )
