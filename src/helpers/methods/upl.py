"""UPL: prompt learning on the zero-shot classifier's own most confident images.

Unsupervised Prompt Learning for Vision-Language Models, Huang, Chu and Wei 2022, arXiv
2204.03649. With zero-shot probabilities p(c | x) of unlabelled images x:

    the label of x is argmax_c p(c | x), its confidence max_c p(c | x)
    of each class keep the 16 most confident images that bear it as their label
    learn a context on them as CoOp does on labelled ones (see `helpers.methods.coop`)

There is no threshold, and a class that is never predicted gets no image. The recipe is
CoOp's: 16 tokens from N(0, 0.02^2), SGD, 50 epochs, batches of 32, random crops and
flips. The paper's numbers average the logits of 16 seeds, each a call of `upl`.

Deviations: as CoOp's here, float32 and views drawn once. UPL*, which averages the
probabilities of 8 backbones before it selects, is left out.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.keys import key
from helpers.methods import coop
from helpers.methods.registry import method
from helpers.methods.training import NO_LABEL, Step, Trained, chances, train
from helpers.methods.zero_shot import zero_shot

TOKENS = 16  # of the context


class Prompted(nn.Module):
    """Unit image features [B, D] -> logits [B, C] under a learned context [M, W]."""

    def __init__(
        self,
        text_features: Callable[[Tensor], Tensor],
        logit_scale: float,
        start: Tensor,
    ) -> None:
        super().__init__()
        self.context = nn.Parameter(start.detach().float().clone())
        self._text_features, self._logit_scale = text_features, logit_scale

    def forward(self, features: Tensor) -> Tensor:
        class_features = self._text_features(self.context)
        return zero_shot(features, class_features, self._logit_scale)


def confident_images(logits: Tensor, per_class: int = 16) -> Tensor:
    """Positions int64 [M], ascending, of the images to train on, from logits [N, C].

    Images of equal confidence keep their order.
    """
    if per_class < 1:
        raise ValueError(f"{per_class} images per class: 1 or more")
    confidence, labels = logits.float().softmax(dim=-1).max(dim=-1)
    ranked = confidence.argsort(descending=True, stable=True)
    kept = [ranked[labels[ranked] == c][:per_class] for c in labels.unique()]
    return torch.cat(kept).sort().values


@method(
    "upl",
    "UPL",
    "self-training",
    paper="arXiv 2204.03649",
    chapter="05b",
    published=("UPL",),
)
def upl(
    image_features: Tensor,
    zero_shot_logits: Tensor,
    text_features: Callable[[Tensor], Tensor],
    logit_scale: float,
    start: Tensor,
    per_class: int = 16,
    epochs: int = 50,
    batch: int = 32,
    seed: int = 0,
    **loop: Any,
) -> Trained:
    """A `Prompted` context, learned from unlabelled images' features.

    The model takes unit features. `labels` of the result are -1 for images not kept.

    Args:
        image_features, text_features, start: as in `coop.train`.
        zero_shot_logits: [N, C] of the original images.
        loop: as in `lafter.lafter`.
    """
    if len(image_features) != len(zero_shot_logits):
        count, others = len(image_features), len(zero_shot_logits)
        raise ValueError(f"{count} images, but logits of {others}")
    kept = confident_images(zero_shot_logits, per_class)
    labels = zero_shot_logits[kept].argmax(dim=-1).to(start.device)
    views = image_features if image_features.ndim == 3 else image_features[:, None]
    views = views[kept]
    model = Prompted(text_features, logit_scale, start)

    def step(rows: Tensor, epoch: int) -> Step:
        drawn = (chances(len(kept), seed, epoch) * views.shape[1]).long()
        logits = model(views[rows, drawn[rows]].to(start.device).float())
        return Step(F.cross_entropy(logits, labels[rows]), logits, labels[rows])

    settings = {"method": "upl", "data": key(views, kept, labels), "epochs": epochs}
    optimizer = torch.optim.SGD(
        model.parameters(), 0.0, coop.MOMENTUM, weight_decay=coop.WEIGHT_DECAY
    )
    loop = {"rate": lambda epoch: coop.learning_rate(epoch, epochs), **loop}
    trained = train(
        model, optimizer, step, len(kept), epochs, batch, seed, settings, **loop
    )
    taught = torch.full((epochs, len(image_features)), NO_LABEL)
    taught[:, kept] = trained.labels
    return Trained(trained.model, trained.log, taught)
