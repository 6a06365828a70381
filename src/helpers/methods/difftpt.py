"""DiffTPT: prompt tuning on crops and on pictures that a diffusion model drew.

Diverse Data Augmentation with Diffusions for Effective Test-time Prompt Tuning, Feng et
al. 2023, arXiv 2308.06038, in the form of the released code
(github.com/chunmeifeng/DiffTPT). Views are the image, standard crops of it and
generated variations, of which two filters take what to trust. With the logits z_v of
view v under the starting context:

    1   the int(0.8 (V - 1)) views of largest cosine(z_v, z_0), and view 0
    2   of these, the int(0.3 K) of lowest entropy, as in TPT

Then TPT (`helpers.methods.tpt`) with four steps on what is left. The cosine is that of
logits, not of features: they share a large positive mean, so that all cosines are near
one, and only their order matters. Nothing balances crops and variations.

Deviation: float32, as in `tpt`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods import selection, tpt
from helpers.methods.registry import method

SIMILAR = 0.8
RHO = 0.3
STEPS = 4
IMAGES = 64  # whose logits of all views are in memory at once


def similar(logits: Tensor, share: float = SIMILAR) -> Tensor:
    """Positions int64 [B, K] of view 0 and of the views most like it, of [B, V, C].

    K = 1 + int(share (V - 1)); ascending, and views that tie keep their order.
    """
    likeness = F.cosine_similarity(logits[:, 1:], logits[:, :1], dim=-1)  # [B, V - 1]
    keep = selection.keep_count(likeness.shape[1], share)
    others = likeness.argsort(dim=1, descending=True, stable=True)[:, :keep] + 1
    others = others.sort(dim=1).values
    return F.pad(others, (1, 0))  # position 0 comes first


@method(
    "difftpt",
    "DiffTPT",
    "tuned prompts",
    needs="diffusion",
    paper="arXiv 2308.06038",
    chapter="02b",
    colour="#8c2d04",
    speaker="difftpt-both",
    published=("DiffTPT", "DiffTPT (about 1000-image subset)"),
)
@method("difftpt-more", title="DiffTPT on crops alone", needs="image")
@method(
    "tpt-both", title="TPT, half of the views drawn", needs="diffusion", chapter="02b"
)
@method("tpt-more", title="TPT on crops alone", chapter="02b")
@method("vote-drawn", title="vote, drawn views", needs="diffusion", chapter="02b")
@method("vote-both", "vote, some views drawn", needs="diffusion", chapter="02b")
@method("vote-more", title="vote of crops alone", chapter="02b")
def difftpt(
    views: Tensor,
    text_features: tpt.TextFeatures,
    logit_scale: float,
    context: Tensor,
    share: float = SIMILAR,
    rho: float = RHO,
    steps: int = STEPS,
    **tuning: Any,
) -> Tensor:
    """Logits [B, C] of view 0 under the context tuned on views [B, V, D] of all kinds.

    `context` [M, W], one for all images; `tuning` and errors: as in `tpt.tune`.
    """
    with torch.no_grad():
        classes = text_features(context)  # [C, D]
    chosen = []
    for part in views.split(IMAGES):
        logits = logit_scale * part.to(classes.dtype) @ classes.T
        chosen.append(selection.take(part, similar(logits, share)))
    trusted = torch.cat(chosen)
    side = text_features, logit_scale, context
    return tpt.tpt(trusted, *side, rho=rho, steps=steps, **tuning)
