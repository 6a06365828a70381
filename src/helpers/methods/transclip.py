"""TransCLIP: labels of a set from Gaussians, neighbours and zero-shot probabilities.

Boosting Vision-Language Models with Transduction, Zanella et al. 2024, arXiv
2406.01837; code MaxZanella/transduction-for-vlms. The zero-shot form. Labels z_i of
image f_i start as y_i = softmax(s f t). Ten rounds, and a last time the first line:

    five times, all images at once:
        z_i <- softmax(ln y_i + (g_i + 50 / 6 sum_j (W + W^T)_ij z_j) / 50)
        g_ic = -1/2 sum_d (f_id - m_cd)^2 / v_d
    m_c <- normalise(sum_i z_ic f_i)
    v_d <- 1/N sum_ic z_ic (f_id - m_cd)^2

W holds the cosines of each image's 3 nearest others. At first m_c is the mean of the 8
images with the highest y_c, weighted by it, and v_d = 1 / D.

Deviations. Self is left out of the neighbours by position; the code drops the nearest,
which may be a copy. Variances are 1e-6 at least, and a class that no image belongs to
keeps its mean, where the code divides by 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods import graph
from helpers.methods.registry import method

ROUNDS = 10
INNER = 5
SOFTNESS = 50.0  # divides all terms but the zero-shot one
MIN_VARIANCE = 1e-6


@method(
    "transclip",
    "TransCLIP",
    "all at once",
    paper="arXiv 2406.01837",
    chapter="06",
    published=("TransCLIP",),
    headline=True,
)
def predict(
    features: Tensor,
    class_features: Tensor,
    logit_scale: float,
    neighbours: int = 3,
    surest: int = 8,
) -> Tensor:
    """ln z float32 [N, C] of unit features [N, D] and class features [C, D]."""
    features, known = graph.check(features, class_features, logit_scale)
    log_y = (logit_scale * features @ known.T).log_softmax(dim=1)
    w = graph.symmetric(features, neighbours)
    z = log_y.exp()
    best = z.topk(min(surest, len(z)), dim=0)
    mixed = best.values[..., None] * features[best.indices]  # [8, C, D]
    means = F.normalize(mixed.mean(dim=0), dim=1)
    variances = torch.full_like(means[0], 1 / means.shape[1])
    rounds = 0
    while True:
        g = log_densities(features, means, variances)
        log_z = settle(log_y, g, w, z, neighbours)
        if rounds == ROUNDS:
            return log_z
        rounds += 1
        z = log_z.exp()
        mass, total = z.sum(dim=0), z.T @ features
        means = unit_means(total, mass, means)
        variances = (features.square().sum(dim=0) / len(z)) + (
            (mass[:, None] * means - 2 * total) * means
        ).sum(dim=0) / len(z)
        variances = variances.clamp(min=MIN_VARIANCE)


def log_densities(features: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """g [N, C] with variances [D], or [C, D] for each class."""
    precision = (1 / variances).expand_as(means)
    squares = features.square() @ precision.T - 2 * features @ (means * precision).T
    return -(squares + (means.square() * precision).sum(dim=1)) / 2


def settle(log_y: Tensor, g: Tensor, w: Tensor, z: Tensor, neighbours: int) -> Tensor:
    """ln z [N, C] after the five updates of all labels."""
    for _ in range(INNER):
        passed = SOFTNESS / (2 * neighbours) * (w @ z)
        log_z = (log_y + (g + passed) / SOFTNESS).log_softmax(dim=1)
        z = log_z.exp()
    return log_z


def unit_means(total: Tensor, mass: Tensor, before: Tensor) -> Tensor:
    """Unit sums [C, D]; a class without mass [C] keeps the mean from `before`."""
    empty = mass <= torch.finfo(mass.dtype).tiny
    return torch.where(empty[:, None], before, F.normalize(total, dim=1, eps=1e-30))
