"""Zero-shot classification and prompt ensembles.

Learning Transferable Visual Models From Natural Language Supervision, Radford et al.
2021, arXiv 2103.00020, section 3.1. With image feature v, template features t_kc and
logit scale s, all features unit vectors:

    t_c = normalise(mean_k t_kc)        logit_c = s <v, t_c>

The ensemble averages unit text vectors, not logits or probabilities.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods.registry import CONTROL, ENSEMBLE, ONE, method


@method(
    "ensemble",
    "prompt ensemble",
    "prompts",
    paper="arXiv 2103.00020",
    chapter="04",
    colour="#b3b3b3",
    speaker="",
)
@method("ensemble_7", title="7 prompts", chapter="01")
@method(
    "ensemble_80",
    "80 prompts",
    chapter="01",
    published=(
        "CLIP ensemble 80",
        "zero-shot ensemble",
        "CLIP 80-template ensemble",
        "zero-shot 80-ensemble",
    ),
    role=ENSEMBLE,
    headline=True,
)
@method(
    "ensemble_waffle",
    "WaffleCLIP",
    speaker="",
    published=("WaffleCLIP", "WaffleCLIP (K=30)"),
)
@method("ensemble_held_out", title="mean of texts", chapter="05", role=CONTROL)
def ensemble(template_features: Tensor) -> Tensor:
    """Class features [C, D], unit, from template features [K, C, D], unit."""
    return F.normalize(template_features.mean(dim=0), dim=-1)


@method(
    "zero_shot",
    "zero-shot",
    "prompts",
    paper="arXiv 2103.00020",
    chapter="02",
    colour="#4d4d4d",
    speaker="",
    role=ONE,
)
@method(
    "zero_shot_photo",
    title="one prompt",
    chapter="01",
    published=(
        "CLIP zero-shot (a photo of a)",
        "zero-shot",
        "Zero-shot single",
        "CLIP single template",
        "CLIP single a photo of a",
        "CLIP single (A photo of a)",
        "zero-shot 'a photo of a'",
        "TTA_DL-Project: zero-shot (no full stop)",
        'TTA_DL-Project: caption table "baseline" (quoted from TPT)',
    ),
    role=ONE,
)
@method("zero_shot_name", title="name alone", chapter="01")
@method("zero_shot_true", "the true word", needs="word", chapter="01", headline=True)
@method("zero_shot_varied", title="one prompt", chapter="02b", role=ONE)
@method("zero_shot_sample", title="one prompt", chapter="03", role=ONE)
@method("zero_shot_episodic", title="one prompt", chapter="05b", role=ONE)
@method("zero_shot_held_out", title="one prompt", chapter="05", role=ONE)
def zero_shot(
    image_features: Tensor, class_features: Tensor, logit_scale: float
) -> Tensor:
    """Logits [N, C] float32 of image features [N, D] for class features [C, D].

    Ties go to the lower class index, as arg-max does.
    """
    return logit_scale * image_features.float() @ class_features.float().T


@method(
    "zero_shot_chosen",
    "prompt chosen on labels",
    "prompts",
    needs="labels",
    paper="arXiv 2103.00020",
    chapter="01",
    headline=True,
)
def best_template(
    image_features: Tensor, template_features: Tensor, labels: Sequence[int]
) -> int:
    """Which template [K, C, D] is right on most images [N, D]; of equals the first.

    All features are unit vectors; `labels` [N] are classes.
    """
    cosines = image_features.float() @ template_features.float().mT  # [K, N, C]
    right = cosines.argmax(dim=-1) == torch.as_tensor(labels, device=cosines.device)
    return int(right.sum(dim=1).argmax())


def best_name(logits: Tensor, owner: Tensor) -> Tensor:
    """Logits [N, C] of classes from logits [N, K] of their names: the largest counts.

    `owner`: int64 [K], the class of each name; every class has one name or more. A
    name of the same class that is given twice, or in another place, changes nothing.
    """
    classes = int(owner.max()) + 1
    lowest = logits.new_full((len(logits), classes), -torch.inf)
    return lowest.scatter_reduce(1, owner.expand_as(logits), logits, "amax")
