"""DrML: a classifier learned from texts classifies images without the modality gap.

Diagnosing and Rectifying Vision Models using Language, Zhang et al. 2023, arXiv
2302.04269. On the unit sphere, image and text features differ by a nearly constant
vector, the modality gap:

    gap = mean of image features - mean of text features

A linear classifier learned from texts transfers to images after centring, which
subtracts the mean of the own modality and normalises again:

    x' = (x - mean) / |x - mean|

The recipe is the paper's: a linear layer with bias, Adam at 1e-3, batches of 128,
cross-entropy. Means of images come from the unlabelled pool, never from test images.

Deviation: `noise`, 0 by default, is the standard deviation of Gaussian noise on the
text features, as in LaFTer, for comparison.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.methods.lafter import check_texts
from helpers.methods.registry import method
from helpers.methods.training import order


class Transfer(NamedTuple):
    """A linear classifier learned from texts, and how image features are centred."""

    weight: Tensor  # [C, D]
    bias: Tensor  # [C]
    image_mean: Tensor  # [D], zeros without centring
    renormalise: bool

    def logits(self, image_features: Tensor) -> Tensor:
        """Logits float32 [N, C] of unit image features [N, D]."""
        features = centred(image_features, self.image_mean, self.renormalise)
        return features @ self.weight.T + self.bias


def gap(image_features: Tensor, text_features: Tensor) -> Tensor:
    """The modality gap [D], float32, of features [N, D] and [M, D]."""
    return image_features.float().mean(dim=0) - text_features.float().mean(dim=0)


@method(
    "ensemble_centred",
    "centred texts",
    "centring",
    paper="arXiv 2302.04269",
    chapter="05",
)
def centred(features: Tensor, mean: Tensor, renormalise: bool = True) -> Tensor:
    """Features [N, D] minus a mean [D], float32; unit vectors if `renormalise`."""
    centred_features = features.float() - mean
    return F.normalize(centred_features, dim=-1) if renormalise else centred_features


@method("drml", "DrML", "centring", paper="arXiv 2302.04269", chapter="05", speaker="")
@method("drml_uncentred", title="DrML, uncentred", family="text classifiers")
def transfer(
    text_features: Tensor,
    labels: Tensor,
    classes: int,
    pool_features: Tensor,
    centre: bool = True,
    renormalise: bool = True,
    noise: float = 0.0,
    epochs: int = 100,
    batch: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Transfer:
    """Learn the classifier from texts; the images' mean is that of an unlabelled pool.

    Args:
        text_features: unit [M, D].
        labels: the class of each text, int64 [M].
        classes: C.
        pool_features: unit features [N, D] of the pool's images, same backbone.
        centre: subtract the means; without, features stay as they are.
        renormalise: normalise centred features.
        noise: standard deviation of the noise on text features.

    Raises:
        ValueError: texts and labels do not fit, or a class has no text.
    """
    check_texts(text_features, labels, classes)
    width = text_features.shape[1]
    text_mean = image_mean = torch.zeros(width, device=text_features.device)
    if centre:
        text_mean = text_features.float().mean(dim=0)
        image_mean = pool_features.float().mean(dim=0)
    renormalise = renormalise and centre
    features = centred(text_features, text_mean, renormalise)
    labels = labels.to(features.device)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = nn.Linear(width, classes).to(features.device)
    optimizer = torch.optim.Adam(linear.parameters(), learning_rate)
    for epoch in range(epochs):
        for rows in order(len(labels), min(batch, len(labels)), seed, epoch):
            drawn = torch.randn(len(rows), width, generator=generator)
            noisy = features[rows] + noise * drawn.to(features.device)
            optimizer.zero_grad()
            F.cross_entropy(linear(noisy), labels[rows]).backward()
            optimizer.step()
    weight, bias = linear.weight.detach(), linear.bias.detach()
    return Transfer(weight, bias, image_mean, renormalise)
