"""Where AutoCLIP could help: a simulation with random embeddings.

After the simulated study of AutoCLIP, Metzen, Saranrittichai and Mummadi 2024, arXiv
2309.16414. Images come in groups that share a template, with one image per class, and
two things vary: how noisy images are, and how far class and template are entangled,
that is, how little the descriptor of a class says once its template is averaged out.

Our reading of the model, with c_j, t_i, u_ij and n_ij standard normal vectors:

    z_ij = (1 - entanglement) (c_j + t_i) + entanglement u_ij
    descriptor_ij = normalise(z_ij)
    image_ij = normalise(z_ij + noise n_ij)

The sizes below are ours, chosen so that accuracies come near the public script's.
Cosines are taken as they are (tau = 1), as the paper writes them.

The public script of the paper lines up template weights with the wrong axis of the
cosines and takes the arg-max over images instead of classes. `released_logits` repeats
this to show its effect: the weights for the image of class j come from descriptors of
class j alone, so they leak the label.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods.autoclip import autoclip, match_entropy, uniform

TEMPLATES, CLASSES, DIMENSIONS = 15, 5, 165


def draw(entanglement: float, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Images and descriptors, both unit float64 [TEMPLATES, CLASSES, DIMENSIONS].

    `noise` is a standard deviation per coordinate, in units of the embeddings' own.
    """
    if not 0 <= entanglement <= 1:
        raise ValueError(f"entanglement {entanglement!r}: a number in [0, 1] is needed")
    if not noise >= 0:
        raise ValueError(f"noise {noise!r}: a number of at least 0 is needed")
    generator = torch.Generator().manual_seed(seed)

    def normal(templates: int, classes: int) -> Tensor:
        shape = (templates, classes, DIMENSIONS)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    separate = normal(1, CLASSES) + normal(TEMPLATES, 1)
    mixed = normal(TEMPLATES, CLASSES)
    latent = (1 - entanglement) * separate + entanglement * mixed
    images = latent + noise * normal(TEMPLATES, CLASSES)
    return F.normalize(images, dim=-1), F.normalize(latent, dim=-1)


def accuracies(images: Tensor, descriptors: Tensor, beta: float = 0.85) -> dict:
    """Accuracy of each method, for images [G, C, D], the c-th of class c.

    "mean" and "max" over templates; "softmax" weights templates by their mean cosine,
    as sharply as AutoCLIP; "released" is the public script's version of "autoclip".
    """
    flat = images.flatten(0, 1)
    cosines = torch.einsum("nd,kcd->nkc", flat, descriptors)
    logits = {
        "mean": uniform(flat, descriptors, 1.0),
        "max": cosines.amax(dim=1),
        "softmax": autoclip(flat, descriptors, 1.0, beta=beta, aggregation="mean"),
        "autoclip": autoclip(flat, descriptors, 1.0, beta=beta),
    }
    labels = torch.arange(images.shape[1])
    correct = {
        name: values.view(*images.shape[:2], -1).argmax(dim=-1) == labels
        for name, values in logits.items()
    }
    released = released_logits(images, descriptors, beta)
    correct["released"] = released.argmax(dim=1) == labels  # over images, not classes
    return {name: float(vector.double().mean()) for name, vector in correct.items()}


def released_logits(images: Tensor, descriptors: Tensor, beta: float = 0.85) -> Tensor:
    """Scores [G, C, C] of images [G, C, D] for C classes, weighted over wrong axes.

    The ascent gives the weights to a group's classes instead of to its images: the
    scores of a template for class c are summed over the group's images.
    """
    cosines = torch.einsum("gbd,kcd->gbkc", images, descriptors)
    pull = cosines.mean(dim=2).softmax(dim=-1)
    scores = torch.einsum("gbc,gbkc->gck", pull, cosines)
    weights, _ = match_entropy(scores, beta)
    return torch.einsum("gbk,gbkc->gbc", weights, cosines)  # c has become b


def study(
    entanglements: Iterable[float], noises: Iterable[float], seeds: Iterable[int]
) -> list[dict]:
    """A row per entanglement, noise, seed and method, with its accuracy.

    Methods, and entanglements and noises too, see the same draws at the same seed.
    """
    noises, seeds = list(noises), list(seeds)
    return [
        {
            "entanglement": entanglement,
            "noise": noise,
            "seed": seed,
            "method": method,
            "accuracy": accuracy,
        }
        for entanglement in entanglements
        for noise in noises
        for seed in seeds
        for method, accuracy in accuracies(*draw(entanglement, noise, seed)).items()
    ]
