"""CLIP-Adapter on pseudo-labels: a small network behind the frozen image tower.

CLIP-Adapter: Better Vision-Language Models with Feature Adapters, Gao et al. 2021,
arXiv 2110.04544, equations 4 and 5, visual side. Of image features f, not normalised,

    f' = a r(W_2 r(W_1 f)) + (1 - a) f,    a = 0.2,   r = max(0, .)
    logit_c = s <f' / |f'|, t_c>

W_1 maps D to D / 4 and W_2 back, both without bias, and the second rectifier stays.

Deviations: the paper learns from a few labelled images; here the labels are those of a
teacher, with LaFTer's smoothing and optimiser.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.keys import key
from helpers.methods.lafter import LEARNING_RATE, SMOOTHING, WEIGHT_DECAY
from helpers.methods.registry import method
from helpers.methods.training import Step, Trained, train

REDUCTION = 4
RATIO = 0.2


class Adapter(nn.Module):
    """Image features [B, D], as the tower gives them -> logits [B, C]."""

    def __init__(
        self, class_features: Tensor, logit_scale: float, ratio: float
    ) -> None:
        super().__init__()
        width = class_features.shape[1]
        self.down = nn.Linear(width, width // REDUCTION, bias=False)
        self.up = nn.Linear(width // REDUCTION, width, bias=False)
        self.class_features: Tensor
        self.register_buffer("class_features", class_features.float())
        self.logit_scale, self.ratio = logit_scale, ratio

    def adapted(self, features: Tensor) -> Tensor:
        """Output of the two layers, non-negative [B, D]."""
        return F.relu(self.up(F.relu(self.down(features))))

    def forward(self, features: Tensor) -> Tensor:
        mixed = self.ratio * self.adapted(features) + (1 - self.ratio) * features
        return self.logit_scale * F.normalize(mixed, dim=-1) @ self.class_features.T


@method(
    "clip_adapter",
    "CLIP-Adapter",
    "self-training",
    paper="arXiv 2110.04544",
    chapter="05b",
    speaker="",
)
def clip_adapter(
    image_features: Tensor,
    labels: Tensor,
    class_features: Tensor,
    logit_scale: float,
    ratio: float = RATIO,
    epochs: int = 50,
    batch: int = 50,
    learning_rate: float = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    smoothing: float = SMOOTHING,
    seed: int = 0,
    **loop: Any,
) -> Trained:
    """An `Adapter` learned from features [N, D] and a teacher's labels int64 [N].

    The features come from `ImageTower`, not normalised; `class_features` unit [C, D].
    `loop`: as in `lafter.lafter`.
    """
    if len(image_features) != len(labels):
        raise ValueError(f"{len(image_features)} images, but {len(labels)} labels")
    features = image_features.float()
    labels = labels.to(features.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Adapter(class_features, logit_scale, ratio).to(features.device)

    def step(rows: Tensor, epoch: int) -> Step:
        logits = model(features[rows])
        loss = F.cross_entropy(logits, labels[rows], label_smoothing=smoothing)
        return Step(loss, logits, labels[rows])

    settings = {
        "method": "clip_adapter",
        "data": key(features, labels, class_features),
        "ratio": ratio,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "smoothing": smoothing,
    }
    optimizer = torch.optim.AdamW(
        model.parameters(), learning_rate, weight_decay=weight_decay
    )
    return train(
        model, optimizer, step, len(features), epochs, batch, seed, settings, **loop
    )
