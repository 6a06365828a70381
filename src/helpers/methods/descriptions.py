"""Class features from texts of which every class has its own, and its own number.

With unit text features e_cj (j = 1 .. n_c) of class c and a unit image feature x:

    DCLIP, arXiv 2210.07183, and WaffleCLIP, arXiv 2306.07282, average cosines:
        score_c = mean_j <x, e_cj> = <x, t_c>        t_c = mean_j e_cj
    CuPL, arXiv 2209.03320, and CLIP's ensembles go back to the sphere:
        score_c = <x, t_c>                           t_c = normalise(mean_j e_cj)

They differ: |mean_j e_cj| is 1 for a class with one text and falls as a class's texts
disagree, so that averaged cosines favour classes with few or similar texts.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods.registry import method


@method(
    "dclip",
    "DCLIP",
    "prompts",
    paper="arXiv 2210.07183",
    chapter="04",
    speaker="",
    published=("DCLIP", "DCLIP (Waffle prompt)"),
)
@method(
    "cupl",
    "CuPL",
    "prompts",
    paper="arXiv 2209.03320",
    chapter="04",
    speaker="",
    published=("CuPL", "zero-shot CuPL"),
)
def class_features(features: Sequence[Tensor], renormalise: bool) -> Tensor:
    """Class features float32 [C, D] from each class's text features, unit [n_c, D].

    `renormalise=False` is DCLIP's mean of cosines (rows of norm at most 1), True is
    CuPL's mean (unit rows). Either goes into `zero_shot` as it is. Templates shared by
    all classes, [K, C, D], come in as `features.unbind(dim=1)`.
    """
    for index, texts in enumerate(features):
        if texts.ndim != 2 or not len(texts):
            raise ValueError(
                f"class {index} has text features of shape {list(texts.shape)}; each "
                "class needs [n_c, D] with n_c of 1 or more"
            )
    means = torch.stack([texts.float().mean(dim=0) for texts in features])
    return F.normalize(means, dim=-1) if renormalise else means
