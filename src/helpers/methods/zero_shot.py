"""Zero-shot classification and prompt ensembles.

Learning Transferable Visual Models From Natural Language Supervision, Radford et al.
2021, arXiv 2103.00020, section 3.1. With image feature v, template features t_kc and
logit scale s, all features unit vectors:

    t_c = normalise(mean_k t_kc)        logit_c = s <v, t_c>

The ensemble averages unit text vectors, not logits or probabilities.
"""

import torch.nn.functional as F
from torch import Tensor


def ensemble(template_features: Tensor) -> Tensor:
    """Class features [C, D], unit, from template features [K, C, D], unit."""
    return F.normalize(template_features.mean(dim=0), dim=-1)


def zero_shot(
    image_features: Tensor, class_features: Tensor, logit_scale: float
) -> Tensor:
    """Logits [N, C] float32 of image features [N, D] for class features [C, D].

    Ties go to the lower class index, as arg-max does.
    """
    return logit_scale * image_features.float() @ class_features.float().T
