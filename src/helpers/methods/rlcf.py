"""RLCF: a second CLIP rewards the predictions for one test image at a time.

Test-Time Adaptation with CLIP Reward for Zero-Shot Generalization in Vision-Language
Models, Zhao et al. 2023, arXiv 2305.18010. Of the V views of an image, the
S = int(rho V) of lowest entropy are selected once. For each selected view v, a frozen
CLIP, the reward model, rewards the K = 3 most probable classes c (the paper samples
classes, its code takes the most probable ones):

    r(v, c) = 2.5 max(0, cos(reward feature of v, reward feature of "a photo of a c."))
    A(v, c) = r(v, c) - mean over the K of r(v, .)
    loss = mean over S and K of  A(v, c) CE(p(v), c)

`prompt` tunes the context of the prompts (AdamW, 7e-3, 3 steps), `encoder` the whole
image tower (AdamW, 1e-5, 3 steps), both with weight decay 5e-4. Each image starts from
the pretrained weights. In the paper the reward model is the larger one, so that much of
the gain is its knowledge. The control is `two_models`: the mean of both models'
zero-shot probabilities.

Deviations: the authors start `prompt` from CoOp's context, which was learned from
labels; here it starts from words. Everything is float32. There is no momentum over
images. The release tunes ResNets with BatchNorm in training mode, that is with the
statistics of an image's views; here BatchNorm keeps CLIP's running statistics.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from helpers.methods import selection, tpt
from helpers.methods.registry import method
from helpers.methods.tent import Episode
from helpers.methods.training import Student, images_at_once, logits
from helpers.methods.zero_shot import zero_shot

CLIP_SCORE = 2.5


@method(
    "rlcf", "RLCF", "second model", paper="arXiv 2305.18010", chapter="05b", speaker=""
)
@method(
    "rlcf_prompt",
    "RLCF of the prompt",
    speaker="",
    published=("RLCF prompt t=3", "RLCF (ViT-L/14 reward)"),
)
def prompt(
    views: Tensor,
    reward_views: Tensor,
    text_features: Callable[[Tensor], Tensor],
    reward_class_features: Tensor,
    logit_scale: float,
    context: Tensor,
    rho: float = 0.1,
    samples: int = 3,
    steps: int = 3,
    learning_rate: float = 7e-3,
    weight_decay: float = 5e-4,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """Logits [B, C] of view 0, with a context tuned on each image's views.

    Args:
        views: unit features [B, V, D] of the model that is tuned.
        reward_views: unit features [B, V, R] of the same views by the reward model.
        text_features: as in `tpt.tune`.
        reward_class_features: unit class features [C, R] of the reward model.
        context: where tuning starts, float32 [M, W].
        rho: share of the views that is selected.
        samples: K, classes that are rewarded in each view.
        progress: wraps the images, for example to show a bar.

    Raises:
        ValueError: `views` and `reward_views` differ in their images or views.
    """
    _check_pair(views, reward_views)
    keep = selection.keep_count(views.shape[1], rho)
    with torch.no_grad():
        start = zero_shot(views, text_features(context), logit_scale)
        entropies = selection.entropy(start)
        chosen = selection.lowest(entropies, keep)
        trusted = selection.take(views.float(), chosen)
        rewarded = selection.take(reward_views, chosen)
        scores = clip_scores(rewarded, reward_class_features)
    contexts = []
    for selected, rewards in progress(zip(trusted, scores, strict=True)):
        at = context.float()
        mean = square = torch.zeros_like(at)
        for step in range(1, steps + 1):
            with torch.enable_grad():
                leaf = at.detach().requires_grad_()
                image_logits = zero_shot(selected, text_features(leaf), logit_scale)
                loss = reward_loss(image_logits[None], rewards[None], samples).sum()
                (gradient,) = torch.autograd.grad(loss, leaf)
            at, mean, square = tpt.adamw_step(
                at, gradient, mean, square, step, learning_rate, weight_decay
            )
        contexts.append(at.detach())
    tuned = torch.stack(contexts)
    return tpt.original_logits(views, text_features, logit_scale, tuned)


@method(
    "rlcf_encoder",
    "RLCF of the encoder",
    speaker="",
    published=("RLCF encoder t=3",),
)
def encoder(
    make_tower: Callable[..., nn.Module],
    class_features: Tensor,
    logit_scale: float,
    views: Iterable[Tensor],
    reward_views: Tensor,
    reward_class_features: Tensor,
    rho: float = 0.1,
    samples: int = 3,
    steps: int = 3,
    learning_rate: float = 1e-5,
    weight_decay: float = 5e-4,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """Logits [N, C] of view 0, with the image tower tuned on each image's views.

    Args:
        make_tower: as in `lafter.lafter`.
        class_features: unit [C, D], frozen.
        views: the views of each image, uint8 [V, 3, S, S], view 0 the original image.

        Others as in `prompt`.

    Raises:
        ValueError: the views of an image and its `reward_views` differ in number, or
            the loss is not finite.
    """
    student = Student(make_tower(whole=True), class_features, logit_scale)
    adamw = partial(torch.optim.AdamW, lr=learning_rate, weight_decay=weight_decay)
    tuned = Episode(student, adamw)
    found, at_once = [], 0
    for image, reward_image in progress(zip(views, reward_views, strict=True)):
        _check_pair(image[None], reward_image[None])
        keep = selection.keep_count(len(image), rho)
        tuned.reset()
        before = logits(student, image)
        (chosen,) = selection.confident(before[None], keep)
        rewards = clip_scores(reward_image[chosen], reward_class_features)
        trusted = image[chosen.to(image.device)]
        at_once = at_once or images_at_once(student, trusted)
        for _ in range(steps):
            tuned.step(_reward_losses(student, trusted, rewards, at_once, samples))
        found.append(logits(student, image[:1]))
    return torch.cat(found)


def _reward_losses(
    student: Student, views: Tensor, scores: Tensor, at_once: int, samples: int
) -> Iterator[Tensor]:
    """Losses that add up to the mean of `reward_loss` over uint8 views [K, 3, S, S]."""
    parts = zip(views.split(at_once), scores.split(at_once), strict=True)
    for part, rewards in parts:
        loss = reward_loss(student(part)[None], rewards[None], samples).mean()
        yield len(part) / len(views) * loss


def clip_scores(views: Tensor, class_features: Tensor) -> Tensor:
    """CLIP score 2.5 max(0, cosine), [..., C], of unit features [..., R] and [C, R]."""
    return CLIP_SCORE * (views.float() @ class_features.float().T).clamp(min=0)


def reward_loss(logits: Tensor, scores: Tensor, samples: int) -> Tensor:
    """Loss [b] of logits [b, S, C] of S views, given rewards [b, S, C] of all classes.

    The `samples` most probable classes count, or all classes if there are fewer.
    """
    top = logits.detach().topk(min(samples, logits.shape[-1]), dim=-1).indices
    rewards = scores.gather(-1, top)
    centred = rewards - rewards.mean(dim=-1, keepdim=True)
    return -(centred * logits.log_softmax(dim=-1).gather(-1, top)).mean(dim=(1, 2))


@method(
    "two_models",
    "two models",
    "second model",
    paper="arXiv 2305.18010",
    chapter="05b",
    speaker="",
)
@method(
    "other_model",
    "the other model",
    "second model",
    paper="arXiv 2305.18010",
    chapter="05b",
    speaker="",
)
def two_models(logits: Tensor, others: Tensor) -> Tensor:
    """ln of the mean of two models' probabilities: [N, C] and [N, C] -> [N, C]."""
    return selection.log_marginal(torch.stack([logits, others], dim=1))


def _check_pair(views: Tensor, reward_views: Tensor) -> None:
    if views.shape[:2] != reward_views.shape[:2]:
        raise ValueError(
            f"views {[*views.shape]} and reward views {[*reward_views.shape]} are not "
            "of the same images and views"
        )
