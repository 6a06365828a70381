"""StatA: TransCLIP with the statistics of a class anchored to its text.

Realistic Test-Time Adaptation of Vision-Language Models, Zanella et al. 2025, arXiv
2501.03729; code MaxZanella/StatA. Batches with a few of the classes mislead methods
that expect them all; here the text anchors means and variances by b_c = n_c / (1 + n_c)
with n_c the images whose best label is c. Labels z as in `transclip`, with variances of
each class, and

    m_c <- normalise(b_c normalise(sum_i z_ic f_i) + (1 - b_c) t_c)
    v_c <- b_c sum_i z_ic (f_i - m_c)^2 / sum_i z_ic + (1 - b_c) (v + (t_c - m_c)^2)

element by element; at first m_c = t_c and v_c = v = 1/N sum_ic z_ic (f_i - t_c)^2.

Deviations, besides those of `transclip`. The code divides v by N once for every 2,500
images, here once. As in the code, g has no term for the determinants of the variances,
which a Gaussian has.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods import graph, transclip
from helpers.methods.registry import method


@method(
    "stata",
    "StatA",
    "all at once",
    paper="arXiv 2501.03729",
    chapter="06",
    headline=True,
)
def predict(
    features: Tensor,
    class_features: Tensor,
    logit_scale: float,
    neighbours: int = 3,
    anchor: float = 1.0,
) -> Tensor:
    """ln z float32 [N, C] of unit features [N, D] and class features [C, D]; a class
    has the weight of `anchor` images from its text."""
    features, known = graph.check(features, class_features, logit_scale)
    if not anchor > 0:
        raise ValueError(f"anchor is {anchor}, but must lie above 0")
    log_y = (logit_scale * features @ known.T).log_softmax(dim=1)
    w = graph.symmetric(features, neighbours)
    z = log_y.exp()
    prior = _spread(features, z, known).sum(dim=0) / len(z)
    means = known
    variances = prior.clamp(min=transclip.MIN_VARIANCE).expand_as(known)
    rounds = 0
    while True:
        g = transclip.log_densities(features, means, variances)
        log_z = transclip.settle(log_y, g, w, z, neighbours)
        if rounds == transclip.ROUNDS:
            return log_z
        rounds += 1
        z = log_z.exp()
        counts = z.argmax(dim=1).bincount(minlength=len(known)).float()
        b = (counts / (anchor + counts))[:, None]
        own = transclip.unit_means(z.T @ features, z.sum(dim=0), known)
        means = F.normalize(b * own + (1 - b) * known, dim=1)
        mass = z.sum(dim=0)[:, None].clamp(min=torch.finfo(z.dtype).tiny)
        anchored = prior + (known - means).square()
        variances = b * _spread(features, z, means) / mass + (1 - b) * anchored
        variances = variances.clamp(min=transclip.MIN_VARIANCE)


def _spread(features: Tensor, z: Tensor, means: Tensor) -> Tensor:
    """sum_i z_ic (f_id - m_cd)^2: [C, D]."""
    total, mass = z.T @ features, z.sum(dim=0)[:, None]
    return z.T @ features.square() + (mass * means - 2 * total) * means
