"""CLIP-PR: pseudo-labels, corrected towards a known distribution of the classes.

Improving Zero-Shot Models with Label Distribution Priors, Kahana, Cohen and Hoshen
2022, arXiv 2212.00784. A new classifier h on unit image features x learns

    min  mean of -log h(x)_{zero-shot label of x}  +  alpha KL(prior || q)
    KL(prior || q) = sum_c prior_c ln(prior_c / q_c),    q = mean of h(x) over a window

with alpha = 100. h is a small network from scratch: D -> 128 -> 128 -> C, leaky
rectifiers between, no bias at the end.

The prior is an assumption: uniform unless given. (Where none is given, the released
code, github.com/jonkahana/CLIPPR, takes the true labels' histogram.)

Deviations, for a label-free and comparable form: CLIP's own preprocessing; the image
tower stays frozen (the code tunes it in a middle stage at a rate of 1e-6); the window
is a batch of 512, as four accumulated batches of 128 are, not a running mean of 300
batches, which dilutes the gradient as many times; the last epoch counts, not that of
the lowest loss on test images. A window much smaller than the classes are many cannot
match their prior; and a network from scratch needs over a thousand steps, so that a
small pool needs more epochs than the 70 of the code on CIFAR-10.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.keys import key
from helpers.methods.registry import method
from helpers.methods.training import Step, Trained, train

ALPHA = 100.0
HIDDEN = 128
WEIGHT_DECAY = 3e-4  # coupled, as Adam has it


@method(
    "clip_pr",
    "CLIP-PR",
    "self-training",
    paper="arXiv 2212.00784",
    chapter="05b",
    speaker="",
    published=("CLIP-PR",),
)
def clip_pr(
    image_features: Tensor,
    zero_shot_logits: Tensor,
    prior: Tensor | None = None,
    alpha: float = ALPHA,
    epochs: int = 60,
    batch: int = 512,
    learning_rate: float = 1e-3,
    seed: int = 0,
    **loop: Any,
) -> Trained:
    """A classifier of unit features [B, D], from those of unlabelled images [N, D].

    `zero_shot_logits` [N, C] give the labels; `prior` [C] sums to 1. `loop`: as in
    `lafter.lafter`.
    """
    classes = zero_shot_logits.shape[-1]
    prior = torch.full((classes,), 1 / classes) if prior is None else prior.float()
    if prior.shape != (classes,) or prior.min() < 0 or abs(prior.sum() - 1) > 1e-4:
        raise ValueError(f"prior must hold {classes} shares that sum to 1")
    prior = prior.to(image_features.device)
    features = image_features.float()
    labels = zero_shot_logits.argmax(dim=-1).to(features.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(features.shape[1], HIDDEN),
            nn.LeakyReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.LeakyReLU(),
            nn.Linear(HIDDEN, classes, bias=False),
        ).to(features.device)

    def step(rows: Tensor, epoch: int) -> Step:
        logits = model(features[rows])
        distance = divergence(prior, logits)
        loss = F.cross_entropy(logits, labels[rows]) + alpha * distance
        return Step(loss, logits, labels[rows], {"divergence": distance.item()})

    settings = {
        "method": "clip_pr",
        "data": key(features, labels, prior),
        "alpha": alpha,
        "learning_rate": learning_rate,
    }
    optimizer = torch.optim.Adam(
        model.parameters(), learning_rate, weight_decay=WEIGHT_DECAY
    )
    return train(
        model, optimizer, step, len(features), epochs, batch, seed, settings, **loop
    )


def divergence(prior: Tensor, logits: Tensor) -> Tensor:
    """KL(prior || mean of softmax(logits [B, C])) in nats, a scalar."""
    log_q = logits.float().log_softmax(dim=-1).logsumexp(dim=0)
    log_q = log_q - torch.tensor(float(len(logits))).log()
    return (torch.xlogy(prior, prior) - prior * log_q).sum()
