"""How many images a second AutoCLIP classifies, features given, next to its parts.

    python tests/benchmarks/autoclip.py

Features are random unit vectors. "product" is the matrix product of images and
templates alone, which no exact method can leave out.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from helpers.methods.autoclip import autoclip, match_entropy

SIZES = {  # images, templates, classes, dimensions
    "picto": (8192, 80, 61, 128),
    "200 classes, ViT": (512, 80, 200, 512),
    "200 classes, RN50": (512, 80, 200, 1024),
}


def best(call: Callable[[], object], rounds: int = 3) -> float:
    """Shortest seconds of a call; the first round warms up."""
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


@torch.inference_mode()
def measure(name: str) -> None:
    """Print the rates of one size."""
    B, K, C, D = SIZES[name]
    images = F.normalize(torch.randn(B, D), dim=-1)
    templates = F.normalize(torch.randn(K, C, D), dim=-1)
    texts, scores = templates.view(K * C, D).T, torch.randn(B, K)
    whole = best(lambda: autoclip(images, templates, 100.0))
    product = best(lambda: [part @ texts for part in images.split(512)])
    root = best(lambda: match_entropy(scores))
    rates = {"autoclip": whole, "product": product, "entropy match": root}
    print(f"{name:18s}", *(f"{key} {B / s:7.0f}/s" for key, s in rates.items()))


if __name__ == "__main__":
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in SIZES:
        measure(name)
