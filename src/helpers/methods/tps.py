"""TPS: shift the class features by one step against the marginal entropy.

Just Shift It: Test-Time Prototype Shifting for Zero-Shot Generalization with
Vision-Language Models, Sui et al. 2024, arXiv 2403.12952; code elaine-sui/TPS. TPT's
loss with another parameter: a shift s_c of each class feature, zero at first.

    w_c = normalise(t_c + s_c)        p_v = softmax(s <f_v, w_c>)
    L = H(q)        q = mean of p_v over the K = int(rho V) views S of lowest entropy

One step of AdamW on the shifts (rate 5e-3, betas 0.9 and 0.999, epsilon 1e-8), then
view 0 is classified by the shifted features. The gradient has a closed form. With z_vc
the logits of the kept views:

    r_vc = dL/dz_vc = p_vc (sum_j p_vj ln q_j - ln q_c) / K
    g_c = dL/ds_c = sum_v r_vc (s f_v - z_vc t_c)

The second term is the pull-back of normalise at a unit t_c. AdamW's first moments are g
and g^2 once corrected for bias, and decay finds a shift of zero, so the step is

    s_c = -rate g_c / (|g_c| + epsilon)        element by element

that is, the rate times the sign of g_c wherever |g_c| is well above 1e-8: neither the
size of the loss nor the betas matter.
"""

import torch.nn.functional as F
from torch import Tensor

from helpers.methods import selection
from helpers.methods.registry import method

EPSILON = 1e-8  # AdamW's


@method(
    "tps",
    "TPS",
    "votes",
    paper="arXiv 2403.12952",
    chapter="02",
    colour="#5c3a1e",
    published=("TPS",),
    headline=True,
)
def tps(
    views: Tensor,
    class_features: Tensor,
    logit_scale: float,
    rho: float = 0.1,
    learning_rate: float = 5e-3,
) -> Tensor:
    """Logits float32 [B, C] of view 0 of unit views [B, V, D] after the step."""
    selection.check(views, class_features)
    keep = selection.keep_count(views.shape[1], rho)

    def adapt(views: Tensor, class_features: Tensor) -> Tensor:
        class_features = F.normalize(class_features, dim=-1)
        logits = logit_scale * views @ class_features.T
        kept = selection.confident(logits, keep)
        trusted, z = selection.take(views, kept), selection.take(logits, kept)
        gradient = _gradient(trusted, z, class_features, logit_scale)
        shifted = class_features - learning_rate * gradient / (gradient.abs() + EPSILON)
        dots = (shifted @ views[:, 0, :, None])[..., 0]
        return logit_scale * dots / shifted.norm(dim=-1)

    numbers = len(class_features) * max(views.shape[1:])
    return selection.in_chunks(adapt, views, class_features, numbers)


def _gradient(
    views: Tensor, logits: Tensor, class_features: Tensor, logit_scale: float
) -> Tensor:
    """g [B, C, D] from the kept views [B, K, D] and their logits [B, K, C]."""
    logits = logits.double()  # ln q of a sure class is below float32's rounding
    p = logits.softmax(dim=-1)
    log_q = selection.log_marginal(logits)[:, None]
    r = p * ((p * log_q).sum(dim=-1, keepdim=True) - log_q) / logits.shape[1]
    radial = (r * logits).sum(dim=1).float()
    pull = logit_scale * r.float().mT @ views
    return pull - radial[..., None] * class_features
