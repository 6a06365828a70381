"""EM class priors: estimate the classes' frequencies and correct each prediction.

Adjusting the Outputs of a Classifier to New a Priori Probabilities: A Simple Procedure,
Saerens et al. 2002, Neural Computation 14(1). A classifier that learnt with the priors
u gives p(c | x); the images at hand have unknown priors pi. From pi = u, repeat

    q_nc = p_nc pi_c / u_c / sum_k p_nk pi_k / u_k        pi_c <- mean_n q_nc

until no prior moves by more than 1e-6. It is maximum likelihood for pi if the classes
themselves look as they did. CLIP has no training priors; u is uniform here, so that pi
is the share of each class that explains the zero-shot probabilities best.

The set decides together: an image's result depends on all others, not on their order.
"""

import math

import torch
from torch import Tensor

from helpers.methods import graph
from helpers.methods.registry import method


@method(
    "em_priors",
    "EM class priors",
    "all at once",
    paper="Neural Computation 14(1)",
    chapter="06",
)
def predict(
    features: Tensor,
    class_features: Tensor,
    logit_scale: float,
    rounds: int = 1000,
    tolerance: float = 1e-6,
) -> Tensor:
    """ln q float32 [N, C] of unit features [N, D] and class features [C, D]."""
    features, known = graph.check(features, class_features, logit_scale)
    log_p = (logit_scale * features @ known.T).log_softmax(dim=1)
    prior = torch.full_like(log_p[0], -math.log(len(known)))
    for _ in range(rounds):
        log_q = (log_p + prior).log_softmax(dim=1)
        moved = log_q.logsumexp(dim=0) - math.log(len(log_q))
        change = (moved.exp() - prior.exp()).abs().amax()
        prior = moved
        if change <= tolerance:
            break
    return (log_p + prior).log_softmax(dim=1)
