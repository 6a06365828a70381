"""FixMatch without labels: confident pseudo-labels, consistent across augmentations.

FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence, Sohn et
al. 2020, arXiv 2001.07685, equation 4. Of an unlabelled batch of b images x,

    loss = 1/b sum over x of  1[max p(weak x) >= 0.95] CE(p(strong x), argmax p(weak x))

divided by b, not by how many pass. The paper has a labelled term besides, which holds
the labels in place. Here there is none, CLIP's class features are the classifier, and
its norms are tuned. Two teachers:

    given      logits of a frozen one (zero-shot, of the plain image): an anchor
    none       the student itself on the weak view, a flip, as in the paper; without an
               anchor it may drift into a few classes, and the loop says so if it does

The threshold acts on probabilities, that is on logits with their scale: cosines alone
never reach it. The log's `labelled` is the share of images that passed it.

Deviations: strong views are LaFTer's (`helpers.views.strong`) and the optimiser is
LaFTer's AdamW, so that the methods compare; no moving average of weights.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.data.pool import Pool
from helpers.keys import key
from helpers.methods.lafter import LEARNING_RATE, WEIGHT_DECAY
from helpers.methods.registry import method
from helpers.methods.training import (
    NO_LABEL,
    Step,
    Student,
    Trained,
    chances,
    decay_groups,
    train,
)
from helpers.views.strong import weak

THRESHOLD = 0.95


@method(
    "fixmatch",
    "FixMatch",
    "self-training",
    paper="arXiv 2001.07685",
    chapter="05b",
    speaker="",
)
def fixmatch(
    make_tower: Callable[..., nn.Module],
    class_features: Tensor,
    logit_scale: float,
    pool: Pool,
    teacher: Tensor | None = None,
    threshold: float = THRESHOLD,
    epochs: int = 50,
    batch: int = 50,
    learning_rate: float = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    seed: int = 0,
    **loop: Any,
) -> Trained:
    """A `Student` whose norms learned from sure pseudo-labels.

    `class_features` unit [C, D]; `teacher`: logits [N, C] of the pool's images, scaled,
    or None for the student itself. `make_tower`, `loop`: as in `lafter.lafter`.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} is no probability")
    tower = make_tower(norms=True, seed=seed)
    student = Student(tower, class_features, logit_scale)

    @torch.no_grad()
    def teach(rows: Tensor, epoch: int) -> Tensor:
        """Labels int64 [b], -1 where the teacher is not sure."""
        if teacher is None:
            flipped = chances(len(pool), seed, epoch)[rows] < 0.5
            logits = student(weak(pool.images[rows], flipped))
        else:
            logits = teacher[rows]
        confidence, labels = logits.float().softmax(dim=-1).max(dim=-1)
        return labels.masked_fill(confidence < threshold, NO_LABEL)

    def step(rows: Tensor, epoch: int) -> Step:
        labels = teach(rows, epoch)
        logits = student(pool.views(rows, epoch, seed))
        return Step(masked_cross_entropy(logits, labels), logits, labels)

    settings = {
        "method": "fixmatch",
        "pool": pool.key,
        "teacher": "itself" if teacher is None else key(teacher),
        "threshold": threshold,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
    }
    optimizer = torch.optim.AdamW(decay_groups(student, weight_decay), learning_rate)
    loop = {"additive": True, **loop}
    return train(
        student, optimizer, step, len(pool), epochs, batch, seed, settings, **loop
    )


def masked_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over labelled images and divided by the number of all."""
    total = F.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum")
    return total / len(logits)
