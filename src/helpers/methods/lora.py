"""LoRA on pseudo-labels: low-rank changes of the image tower's attention.

LoRA: Low-Rank Adaptation of Large Language Models, Hu et al. 2021, arXiv 2106.09685,
as CLIP-LoRA has it: Low-Rank Few-Shot Adaptation of Vision-Language Models, Zanella and
Ben Ayed 2024, arXiv 2405.18541. The weights W of queries, keys and values in all blocks
become W + B A / sqrt(r), with r = 2; A and B train. The form is written out in
`helpers.models.visual.LowRank`, a few lines that need no library and no merging.

The student sees strong views (`helpers.views.strong`), CLIP's class features classify,
and a teacher's labels stand in for the true ones of CLIP-LoRA.

Deviations: the image tower alone, where CLIP-LoRA changes both; no dropout; LaFTer's
smoothing, AdamW at CLIP-LoRA's 2e-4 and constant, for as many steps as the others.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.data.pool import Pool
from helpers.keys import key
from helpers.methods.lafter import SMOOTHING, WEIGHT_DECAY
from helpers.methods.registry import method
from helpers.methods.training import Step, Student, Trained, decay_groups, train


@method(
    "lora", "LoRA", "self-training", paper="arXiv 2106.09685", chapter="05b", speaker=""
)
def lora(
    make_tower: Callable[..., nn.Module],
    class_features: Tensor,
    logit_scale: float,
    pool: Pool,
    labels: Tensor,
    rank: int = 2,
    epochs: int = 50,
    batch: int = 50,
    learning_rate: float = 2e-4,
    weight_decay: float = WEIGHT_DECAY,
    smoothing: float = SMOOTHING,
    seed: int = 0,
    **loop: Any,
) -> Trained:
    """A `Student` with low-rank attention, from a teacher's labels int64 [N].

    `class_features` unit [C, D]; `make_tower`, `loop`: as in `lafter.lafter`.
    """
    if len(pool) != len(labels):
        raise ValueError(f"{len(pool)} images, but {len(labels)} labels")
    tower = make_tower(lora_rank=rank, seed=seed)
    student = Student(tower, class_features, logit_scale)
    labels = labels.to(student.weight.device)

    def step(rows: Tensor, epoch: int) -> Step:
        logits = student(pool.views(rows, epoch, seed))
        loss = F.cross_entropy(logits, labels[rows], label_smoothing=smoothing)
        return Step(loss, logits, labels[rows])

    settings = {
        "method": "lora",
        "pool": pool.key,
        "labels": key(labels),
        "rank": rank,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "smoothing": smoothing,
    }
    optimizer = torch.optim.AdamW(decay_groups(student, weight_decay), learning_rate)
    loop = {"additive": True, **loop}
    return train(
        student, optimizer, step, len(pool), epochs, batch, seed, settings, **loop
    )
