"""Ways to use an image's caption prompts beside prompts that all images share.

With cosines S_ikc of image i and class c in template k, where template k = 0 .. K-1 may
be the image's own (its caption, see `helpers.prompts.captions`) or a shared one:

    alone       logit_ic = s S_i0c
    averaged    logit_ic = s mean_k S_ikc
    weighted    logit_ic = s sum_k w_ik S_ikc, with AutoCLIP's weights of the image
                (Metzen et al. 2023, arXiv 2309.16414; see `helpers.methods.autoclip`)
    gated       the caption's cosines for images of which a test of their own says
                that the caption fits them, the plain ones for the others
"""

import torch
from torch import Tensor

from helpers.methods.autoclip import aggregate_gradient, match_entropy
from helpers.methods.registry import method

WITH_KEYWORD = ("caption", "caption_averaged", "caption_gated", "caption_weighted")
MEMORY = 2**26  # bytes of cosines held at once
BASELINES = {  # what each use of captions has to beat: the same prompts without them
    "caption": "zero_shot",
    "caption_placed": "zero_shot",
    "caption_averaged": "zero_shot",
    "caption_gated": "zero_shot",
    "caption_style": "zero_shot",
    "caption_weighted": "autoclip",
}


def averaged(cosines: Tensor, logit_scale: float) -> Tensor:
    """Logits [B, C] of the mean over templates of cosines [B, K, C]."""
    return logit_scale * _checked(cosines).mean(dim=1)


def weighted(cosines: Tensor, logit_scale: float, *, beta: float = 0.85) -> Tensor:
    """Logits [B, C] of cosines [B, K, C], templates weighted image by image.

    As in AutoCLIP with its published choices, with which it agrees where the templates
    are shared: log-sum-exp at the logit scale, weights of entropy `beta` log K.
    """
    cosines = _checked(cosines)
    pull = aggregate_gradient(cosines.mean(dim=1), "logsumexp", logit_scale)
    weights, _ = match_entropy((cosines * pull.unsqueeze(1)).sum(dim=-1), beta)
    return logit_scale * (weights.to(cosines.dtype).unsqueeze(1) @ cosines).squeeze(1)


def gated(plain: Tensor, caption: Tensor, fits: Tensor, logit_scale: float) -> Tensor:
    """Logits [B, C] of cosines [B, C] with the caption where `fits`, bool [B]."""
    return logit_scale * torch.where(fits.unsqueeze(-1), caption, plain)


@method(
    "caption", "captions", "captions", chapter="03", colour="#aa3377", headline=True
)
@method("caption_placed", "captions, placed")
def attempts(
    image_features: Tensor,
    shared: Tensor,
    caption: Tensor | None,
    placed: Tensor,
    style: Tensor,
    fits: Tensor,
    logit_scale: float,
    *,
    beta: float = 0.85,
    memory: int = MEMORY,
) -> dict[str, Tensor]:
    """Logits [B, C] of every use of captions, and of what they have to beat.

    `image_features` [B, D] and `shared` [1 + K, C, D], whose first template is the
    plain one, are unit features; `caption`, `placed` and `style` [B, C] are cosines
    with the image's own prompts: as published, with the class where the caption names
    one, and those restricted to words of style; `fits` bool [B] opens the gate. Without
    `caption`, whose place a keyword decides, what uses it is left out. `BASELINES` says
    what each has to beat. Cosines [b, K, C] are held `memory` bytes at a time.
    """
    rows = max(1, memory // (4 * shared[:, :, 0].numel()))
    published = placed if caption is None else caption
    evidence = (image_features, published, placed, style, fits)
    parts = [x.split(rows) for x in evidence]
    found: dict[str, list[Tensor]] = {}
    for images, own, place, styled, fit in zip(*parts, strict=True):
        cosines = torch.einsum("bd,kcd->bkc", images, shared)
        plain, others = cosines[:, 0], cosines[:, 1:]
        more = torch.cat([others, own.unsqueeze(1)], dim=1)
        logits = {
            "zero_shot": logit_scale * plain,
            "caption": logit_scale * own,
            "caption_placed": logit_scale * place,
            "caption_averaged": averaged(torch.stack([plain, own], 1), logit_scale),
            "caption_gated": gated(plain, own, fit, logit_scale),
            "caption_style": logit_scale * styled,
            "autoclip": weighted(others, logit_scale, beta=beta),
            "caption_weighted": weighted(more, logit_scale, beta=beta),
        }
        for name, part in logits.items():
            if caption is not None or name not in WITH_KEYWORD:
                found.setdefault(name, []).append(part)
    return {name: torch.cat(several) for name, several in found.items()}


def _checked(cosines: Tensor) -> Tensor:
    if cosines.ndim != 3 or 0 in cosines.shape:
        raise ValueError(
            f"cosines of shape {list(cosines.shape)}: [images, templates, classes] is "
            "needed, at least one of each"
        )
    return cosines.double() if cosines.dtype == torch.float64 else cosines.float()
