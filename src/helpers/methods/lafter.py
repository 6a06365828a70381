"""LaFTer: a classifier learned from texts teaches the image tower on unlabelled images.

LaFTer: Label-Free Tuning of Zero-shot Classifier using Language and Unlabeled Image
Collections, Mirza et al. 2023, arXiv 2305.18287. Two stages:

    1. of texts t about class c, with unit features u(t), learn a linear f without bias:
           min over f of  L(f(u(t) + 0.1 n), c),       n ~ N(0, I), anew at every step
    2. of unlabelled images x, with image tower v (norms as they are now), its prompted
       form v_p, and f_0 the f of stage 1:
           label(x) = argmax f_0(v(x) / |v(x)|)        plain image, no prompts
           min over f, prompts, norms of  L(f(v_p(strong view of x)), label(x))

    L is cross-entropy with labels smoothed by 0.1. The student's features are not
    normalised. A test image goes through v_p, plain, and f.

Details are those of the released code (github.com/jmiemirza/LaFTer), which differs from
the paper: the noise has standard deviation 0.1 where equation 2 has N(0, I); the noisy
feature is not normalised again; a step of stage 1 takes all texts; AdamW has a constant
rate of 5e-4 in both stages, and decays all but biases by 0.01; 50 prompts, 50 epochs,
batches of 50. It takes f_0 as frozen, while the teacher's norms move with the student.

The ablations of table 4 have no switches in the code. `ABLATIONS` gives them as
arguments of `lafter`; "w/o Cls" is read as f frozen after stage 1, "w/o Stop Grad" as
the teacher's f being the student's.

Deviations: everything in float32. Our protocol is that of the study: a fixed pool, a
test set held out of it, the last epoch; the released one (the greatest test accuracy
over epochs) is `helpers.methods.training.reported(log, column, faithful=True)`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.data.pool import Pool
from helpers.methods.registry import method
from helpers.methods.training import Step, Student, Trained, decay_groups, train

NOISE = 0.1
SMOOTHING = 0.1
LEARNING_RATE = 5e-4
WEIGHT_DECAY = 0.01

ABLATIONS: dict[str, Mapping[str, object]] = {
    "LaFTer": {},
    "w/o Aug": {"augment": False},
    "w/o Prompts": {"prompts": 0},
    "w/o Affine": {"norms": False},
    "w/o Cls": {"tune_classifier": False},
    "w/o Stop Grad": {"stop_gradient": False},
}


def labelled(texts: Sequence[Sequence[str]]) -> tuple[list[str], Tensor]:
    """All texts of all classes in one list, and the class of each, int64 [M].

    ValueError where a class has none.
    """
    silent = [str(c) for c, of_class in enumerate(texts) if not of_class]
    if silent:
        raise ValueError(
            f"{len(silent)} of {len(texts)} classes have no text: {', '.join(silent)}"
        )
    labels = [c for c, of_class in enumerate(texts) for _ in of_class]
    return [text for of_class in texts for text in of_class], torch.tensor(labels)


@method(
    "text_classifier",
    "text classifier",
    "text classifiers",
    paper="arXiv 2305.18287",
    chapter="05",
)
def text_classifier(
    text_features: Tensor,
    labels: Tensor,
    classes: int,
    steps: int = 400,
    noise: float = NOISE,
    smoothing: float = SMOOTHING,
    learning_rate: float = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    seed: int = 0,
) -> Tensor:
    """Stage 1: class weights float32 [C, D] from unit features of texts [M, D].

    `labels` int64 [M] says which class each text is about. The released code takes 400
    to 600 steps, depending on the data set. ValueError where a class has no text.
    """
    check_texts(text_features, labels, classes)
    device = text_features.device
    generator = torch.Generator().manual_seed(seed)
    width = text_features.shape[1]
    weight = torch.empty(classes, width)
    nn.init.uniform_(weight, -(width**-0.5), width**-0.5, generator)  # nn.Linear's
    weight = weight.to(device).requires_grad_()
    optimizer = torch.optim.AdamW([weight], learning_rate, weight_decay=weight_decay)
    features, labels = text_features.float(), labels.to(device)
    for _ in range(steps):
        drawn = torch.randn(features.shape, generator=generator).to(device)
        logits = (features + noise * drawn) @ weight.T
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not weight.isfinite().all():
        raise ValueError("the text features hold values that are not finite")
    return weight.detach()


@method(
    "lafter",
    "LaFTer",
    "self-training",
    paper="arXiv 2305.18287",
    chapter="05",
    colour="#cc78bc",
    published=("LaFTer",),
    headline=True,
)
@method("lafter_transductive", title="LaFTer on the test images", needs="stream")
def lafter(
    make_tower: Callable[..., nn.Module],
    weight: Tensor,
    pool: Pool,
    prompts: int = 50,
    norms: bool = True,
    tune_classifier: bool = True,
    augment: bool = True,
    stop_gradient: bool = True,
    epochs: int = 50,
    batch: int = 50,
    learning_rate: float = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    smoothing: float = SMOOTHING,
    seed: int = 0,
    **loop: Any,
) -> Trained:
    """Stage 2: a `Student` from class weights [C, D] and unlabelled images.

    If the teacher does not change (norms frozen), its labels are computed once.

    Args:
        make_tower: makes a new image tower from `prompts=`, `norms=` and `seed=`, as
            `functools.partial(helpers.models.visual.ImageTower, backbone)` does.
        loop: `evaluate`, `checkpoint`, `free` and `progress` of `training.train`.
    """
    tower = make_tower(prompts=prompts, norms=norms, seed=seed)
    student = Student(tower, weight, tune_weight=tune_classifier)
    frozen = student.weight.detach().clone()
    parameters = decay_groups(student, weight_decay)
    if not parameters:
        raise ValueError("prompts, norms and classifier are all off: nothing to tune")

    @torch.no_grad()
    def teach(images: Tensor) -> tuple[Tensor, float]:
        """Labels int64 [b], and the mean norm of the features behind them."""
        features = F.normalize(tower(images, prompted=False), dim=-1)
        teacher = frozen if stop_gradient else student.weight
        norm = features.norm(dim=-1).mean().item()
        return (features @ teacher.T).argmax(dim=-1), norm

    fixed = None
    if not norms and stop_gradient:
        fixed = torch.cat([teach(part)[0] for part in pool.images.split(batch)])

    def step(rows: Tensor, epoch: int) -> Step:
        plain = pool.images[rows]
        labels, norm = (fixed[rows], 1.0) if fixed is not None else teach(plain)
        features = tower(pool.views(rows, epoch, seed) if augment else plain)
        logits = student.classify(features)
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        own = features.detach().norm(dim=-1).mean().item()
        return Step(loss, logits, labels, {"teacher_norm": norm, "student_norm": own})

    settings = {
        "method": "lafter",
        "pool": pool.key,
        "prompts": prompts,
        "norms": norms,
        "tune_classifier": tune_classifier,
        "augment": augment,
        "stop_gradient": stop_gradient,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "smoothing": smoothing,
    }
    optimizer = torch.optim.AdamW(parameters, learning_rate)
    loop = {"additive": True, **loop}
    return train(
        student, optimizer, step, len(pool), epochs, batch, seed, settings, **loop
    )


def check_texts(text_features: Tensor, labels: Tensor, classes: int) -> None:
    """ValueError for texts that do not fit their labels, or a class without a text."""
    shape = [*text_features.shape]
    if len(shape) != 2 or labels.shape != (shape[0],) or labels.dtype != torch.int64:
        raise ValueError(
            f"text features {shape} with labels {labels.dtype} {[*labels.shape]}: need "
            "[M, D] and torch.int64 [M]"
        )
    if not len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be 0 to {classes - 1}, one for each text")
    silent = (labels.bincount(minlength=classes) == 0).nonzero().flatten().tolist()
    if silent:
        raise ValueError(
            f"{len(labels)} texts leave {len(silent)} of {classes} classes without "
            f"one: {', '.join(map(str, silent[:10]))}"
        )
