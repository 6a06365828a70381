"""ZLaP: label propagation from the class names through a graph of all images.

Label Propagation for Zero-shot Classification with Vision-Language Models, Stojnic et
al. 2024, arXiv 2404.04072; code vladan-stojnic/ZLaP. Class names and images are the
nodes. An image has edges to its 4 nearest others, of weight cosine, and to its 5
nearest class names, of weight cosine^5; negative cosines count 0. With A the weights
and their transpose added and D its row sums,

    S = D^-1/2 A D^-1/2        X = (I - 0.3 S)^-1 Y        Y one-hot at the class names

and the rows of X at the images, scaled to a sum of 1, are the probabilities. The
settings are those that the authors give for ImageNet.

Deviations. The code asks for 5 nearest images and drops self by clearing the diagonal;
here self is left out at once. X is summed as a series of powers of S to float32's
rounding, where the code takes up to 50 steps of conjugate gradients. The paper names
the best class only; the scale of the rows is ours. An image that no class reaches is
uniform.
"""

import math

import torch
from torch import Tensor

from helpers.methods import graph
from helpers.methods.registry import method

TOLERANCE = 1e-8


@method(
    "zlap",
    "ZLaP",
    "all at once",
    paper="arXiv 2404.04072",
    chapter="06",
    headline=True,
)
def predict(
    features: Tensor,
    class_features: Tensor,
    logit_scale: float,
    neighbours: int = 5,
    exponent: float = 5.0,
    spread: float = 0.3,
) -> Tensor:
    """ln of the probabilities, float32 [N, C], of unit features [N, D] and class
    features [C, D]; `spread` is 0.3 above. The logit scale plays no part."""
    features, known = graph.check(features, class_features, logit_scale)
    if not 0 < spread < 1:
        raise ValueError(f"spread is {spread}, but must lie between 0 and 1")
    count = len(known)
    s = _graph(features, known, neighbours, exponent)
    y = torch.eye(count + len(features), count, device=features.device)
    x = y
    for _ in range(math.ceil(math.log(TOLERANCE) / math.log(spread))):
        x = y + spread * (s @ x)
    reached = x[count:].clamp(min=torch.finfo(x.dtype).tiny)
    return (reached / reached.sum(dim=1, keepdim=True)).log()


def _graph(features: Tensor, known: Tensor, neighbours: int, exponent: float) -> Tensor:
    """S, sparse [C + N, C + N], the class names first."""
    count, nodes = len(known), len(known) + len(features)
    others, where = graph.nearest(features, neighbours - 1)
    texts, names = (features @ known.T).topk(min(neighbours, count), dim=1)
    weights = [others.clamp(min=0), texts.clamp(min=0) ** exponent]
    edges = graph.sparse(
        torch.cat(weights, dim=1), torch.cat([where + count, names], dim=1), nodes
    )
    at = edges.indices() + torch.tensor([[count], [0]], device=known.device)
    both = torch.cat([at, at.flip(0)], dim=1)
    a = graph.matrix(both, edges.values().repeat(2), (nodes, nodes))
    degree = torch.sparse.sum(a, dim=1).to_dense()
    root = torch.where(degree > 0, degree, 1).rsqrt()
    row, column = a.indices()
    scaled = a.values() * root[row] * root[column]
    return graph.matrix(a.indices(), scaled, (nodes, nodes))
