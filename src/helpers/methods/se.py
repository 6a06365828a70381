"""SE: a weighted mean of the original image and its most confident views.

USE: A Unified Self-Ensembling Framework for Test-Time Prompt Tuning, Jiang et al. 2026,
ICML; code sirujiang/USE, `--algorithm se`. Nothing is tuned. With p_0 of view 0, the
image as it is, and the K = max(1, int(rho (V - 1))) augmentations A of lowest entropy,

    result  ln of a p_0 + (1 - a) mean_{v in A} p_v
    a = 1/2 + 0.4 sign(d) d^2          d = share of the V - 1 augmentations whose
                                           entropy is above view 0's, minus 1/2

so a lies between 0.4 and 0.6. The release squares d here and not in its tuned form.
"""

from torch import Tensor

from helpers.methods import online, selection


def self_ensemble(
    views: Tensor,
    class_features: Tensor,
    logit_scale: float,
    rho: float = 0.1,
    scale: float = 0.4,
) -> Tensor:
    """ln of the mixed probabilities, float32 [B, C], of unit views [B, V, D]."""
    selection.check(views, class_features)
    augmentations = views.shape[1] - 1
    if not augmentations:
        raise ValueError("1 view: SE needs the image and an augmentation of it")
    if not (0 < rho <= 1 and 0 <= scale <= 2):
        raise ValueError(f"rho {rho} or scale {scale}: must lie in (0, 1] and [0, 2]")
    keep = max(1, int(rho * augmentations))

    def mix(views: Tensor, class_features: Tensor) -> Tensor:
        logits = logit_scale * views @ class_features.T
        entropies = selection.entropy(logits)
        surer = (entropies[:, :1] < entropies[:, 1:]).float().mean(dim=1) - 0.5
        own = 0.5 + scale * surer.sign() * surer.square()
        chosen = 1 + selection.lowest(entropies[:, 1:], keep)
        others = selection.log_marginal(selection.take(logits, chosen))
        return online.mixture(others, logits[:, 0].log_softmax(dim=1), own[:, None])

    return selection.in_chunks(mix, views, class_features)
