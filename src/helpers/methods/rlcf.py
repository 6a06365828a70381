"""RLCF: another CLIP rewards this one's predictions, one test image at a time.

Test-Time Adaptation with CLIP Reward for Zero-Shot Generalization in Vision-Language
Models, Zhao et al. 2023, arXiv 2305.18010. Of an image's views v, the S = int(rho V) of
lowest entropy count, chosen once. For each, the K = 3 most probable classes c are taken
(the paper says sampled, its code takes the top) and rewarded by a frozen CLIP:

    r(v, c) = 2.5 max(0, cos(its feature of v, its feature of "a photo of a c."))
    A(v, c) = r(v, c) - mean over the K of r(v, .)
    loss = mean over S and K of  A(v, c) CE(p(v), c)

In `prompt` the context of the prompts is tuned (AdamW, 7e-3, 3 steps), in `encoder`
the whole image tower (1e-5, 3 steps), both with weight decay 5e-4, and both forget the
image afterwards. The reward's CLIP is larger in the paper, so much of the gain is its
knowledge: `two_models`, the mean of both zero-shot probabilities, is the control.

Deviations: the authors' prompt form starts from CoOp's weights, which learned from
labels; here it starts from words. Everything in float32. No momentum over images. The
release tunes a ResNet with BatchNorm in training mode, so with the statistics of an
image's views; here BatchNorm keeps CLIP's own.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from helpers.methods import selection, tpt
from helpers.methods.registry import method
from helpers.methods.training import Student, images_at_once, logits
from helpers.methods.zero_shot import zero_shot

CLIP_SCORE = 2.5


@method(
    "rlcf", "RLCF", "second model", paper="arXiv 2305.18010", chapter="05", speaker=""
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
    """Logits [B, C] of view 0 after tuning the context [M, W] on each image's views.

    `views` [B, V, D] and `reward_views` [B, V, R] are unit features of the same views
    from the two models, `reward_class_features` [C, R]; `text_features` as in `tpt`.
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
    for of_image, rewards in progress(zip(trusted, scores, strict=True)):
        at = context.float()
        mean = square = torch.zeros_like(at)
        for step in range(1, steps + 1):
            with torch.enable_grad():
                leaf = at.detach().requires_grad_()
                made = zero_shot(of_image, text_features(leaf), logit_scale)
                loss = reward_loss(made[None], rewards[None], samples).sum()
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
    """Logits [N, C] of view 0 after tuning the image tower on each image's views.

    `views`: of each image uint8 [V, 3, S, S], view 0 the image as it is; the rest as in
    `prompt`. `make_tower`: as in `lafter.lafter`.
    """
    student = Student(make_tower(whole=True), class_features, logit_scale)
    parameters = [p for p in student.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters]
    found, at_once = [], 0
    for of_image, theirs in progress(zip(views, reward_views, strict=True)):
        _check_pair(of_image[None], theirs[None])
        keep = selection.keep_count(len(of_image), rho)
        optimizer = torch.optim.AdamW(
            parameters, learning_rate, weight_decay=weight_decay
        )
        before = logits(student, of_image)
        (chosen,) = selection.confident(before[None], keep)
        scores = clip_scores(theirs[chosen], reward_class_features)
        trusted = of_image[chosen.to(of_image.device)]
        at_once = at_once or images_at_once(student, trusted)
        parts = [*zip(trusted.split(at_once), scores.split(at_once), strict=True)]
        for _ in range(steps):
            optimizer.zero_grad()
            for part, rewards in parts:
                loss = reward_loss(student(part)[None], rewards[None], samples).mean()
                (len(part) / keep * loss).backward()
            optimizer.step()
        found.append(logits(student, of_image[:1]))
        with torch.no_grad():
            for parameter, value in zip(parameters, start, strict=True):
                parameter.copy_(value)
    return torch.cat(found)


def clip_scores(views: Tensor, class_features: Tensor) -> Tensor:
    """Rewards [..., C], 2.5 max(0, cosine), of unit features [..., R] and [C, R]."""
    return CLIP_SCORE * (views.float() @ class_features.float().T).clamp(min=0)


def reward_loss(made: Tensor, scores: Tensor, samples: int) -> Tensor:
    """The loss [b] of logits [b, K, C] with rewards [b, K, C] of all classes.

    Of fewer classes than `samples`, all count.
    """
    top = made.detach().topk(min(samples, made.shape[-1]), dim=-1).indices
    rewards = scores.gather(-1, top)
    centred = rewards - rewards.mean(dim=-1, keepdim=True)
    return -(centred * made.log_softmax(dim=-1).gather(-1, top)).mean(dim=(1, 2))


@method(
    "two_models",
    "two models",
    "second model",
    paper="arXiv 2305.18010",
    chapter="05",
    speaker="",
)
@method(
    "other_model",
    "the other model",
    "second model",
    paper="arXiv 2305.18010",
    chapter="05",
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
