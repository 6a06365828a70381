"""Prompts made of an image's caption, alone or together with prompts of all images.

S_ikc is the cosine of image i and class c in template k. A template is either the
image's own, made of its caption (see `helpers.prompts.captions`), or shared by all
images. With logit scale s:

    alone       logit_ic = s S_i0c, template 0 being the caption's
    averaged    logit_ic = s mean_k S_ikc
    weighted    logit_ic = s sum_k w_ik S_ikc, with AutoCLIP's weights of the image
                (Metzen et al. 2023, arXiv 2309.16414; see `helpers.methods.autoclip`)
    gated       the caption's cosines for images that their caption fits, those of the
                plain prompt for the others
"""

import torch
from torch import Tensor

from helpers.methods.autoclip import aggregate_gradient, match_entropy
from helpers.methods.registry import method

WITH_KEYWORD = ("caption", "caption_averaged", "caption_gated", "caption_weighted")
MEMORY = 2**26  # bytes of cosines held at once
BASELINES = {  # the method without captions that each use of captions is compared with
    "caption": "zero_shot",
    "caption_placed": "zero_shot",
    "caption_averaged": "zero_shot",
    "caption_gated": "zero_shot",
    "caption_style": "zero_shot",
    "caption_weighted": "autoclip",
}


def averaged(cosines: Tensor, logit_scale: float) -> Tensor:
    """Logits [B, C] of cosines [B, K, C], averaged over the K templates."""
    return logit_scale * _checked(cosines).mean(dim=1)


def weighted(cosines: Tensor, logit_scale: float, *, beta: float = 0.85) -> Tensor:
    """Logits [B, C] of cosines [B, K, C], with AutoCLIP's weights of the K templates.

    The settings are the published ones: log-sum-exp at the logit scale, and weights of
    entropy `beta` log K. For shared templates the result is AutoCLIP's.
    """
    cosines = _checked(cosines)
    pull = aggregate_gradient(cosines.mean(dim=1), "logsumexp", logit_scale)
    weights, _ = match_entropy((cosines * pull.unsqueeze(1)).sum(dim=-1), beta)
    return logit_scale * (weights.to(cosines.dtype).unsqueeze(1) @ cosines).squeeze(1)


def gated(plain: Tensor, caption: Tensor, fits: Tensor, logit_scale: float) -> Tensor:
    """Logits [B, C] of cosines [B, C]: of `caption` where `fits`, bool [B], is true."""
    return logit_scale * torch.where(fits.unsqueeze(-1), caption, plain)


@method(
    "caption",
    "captions",
    "captions",
    chapter="03",
    colour="#aa3377",
    published=("TTA_DL-Project: caption prompts", "caption prompt"),
    headline=True,
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
    """Logits [B, C] of every use of captions and of its baseline, by name.

    Args:
        image_features: unit [B, D].
        shared: unit features [1 + K, C, D] of shared templates, the plain one first.
        caption: cosines [B, C] with the image's caption prompts as published, the class
            replacing the caption's keyword; None leaves out what uses them.
        placed: likewise, the class replacing a class that the caption names.
        style: likewise, of the caption's words of style alone.
        fits: bool [B], whether the caption fits the image, for `gated`.
        beta: of AutoCLIP's weights, see `weighted`.
        memory: bytes of the cosines [b, 1 + K, C] that are held at once.

    Returns:
        Logits by name; `BASELINES` has the baseline of each use.
    """
    rows = max(1, memory // (4 * shared[:, :, 0].numel()))
    published = placed if caption is None else caption
    cases = (image_features, published, placed, style, fits)
    parts = [x.split(rows) for x in cases]
    found: dict[str, list[Tensor]] = {}
    for images, own, own_placed, own_style, fit in zip(*parts, strict=True):
        cosines = torch.einsum("bd,kcd->bkc", images, shared)
        plain, others = cosines[:, 0], cosines[:, 1:]
        all_templates = torch.cat([others, own.unsqueeze(1)], dim=1)
        logits = {
            "zero_shot": logit_scale * plain,
            "caption": logit_scale * own,
            "caption_placed": logit_scale * own_placed,
            "caption_averaged": averaged(torch.stack([plain, own], 1), logit_scale),
            "caption_gated": gated(plain, own, fit, logit_scale),
            "caption_style": logit_scale * own_style,
            "autoclip": weighted(others, logit_scale, beta=beta),
            "caption_weighted": weighted(all_templates, logit_scale, beta=beta),
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
