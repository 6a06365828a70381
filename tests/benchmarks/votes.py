"""How many images a second the methods on views classify, encoding left out.

    python tests/benchmarks/votes.py

Random unit features in the sizes of the embedded study (64 classes, width 128) and of
ImageNet-A with RN50 (200 classes, width 1024), 64 views each. The last column is the
logits' matrix product alone, measured in turn with the method: the least that any of
them can cost. Times are this process's processor seconds, so that other programs on the
machine do not count.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from helpers.methods.mta import mta
from helpers.methods.tps import tps
from helpers.methods.vote import confident_vote, mean_vote, reference_vote
from helpers.methods.zero import zero

METHODS = [confident_vote, reference_vote, mean_vote, zero, mta, tps]
VIEWS = 64
SIZES = [(64, 128, 512), (200, 1024, 64)]  # classes, width, images


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


@torch.inference_mode()
def measure(classes: int, width: int, images: int, rounds: int = 3) -> None:
    """Print images per second of every method at one size."""
    views = F.normalize(torch.randn(images, VIEWS, width), dim=-1)
    class_features = F.normalize(torch.randn(classes, width), dim=-1)
    print(f"{VIEWS} views, {classes} classes, width {width}")
    for method in METHODS:

        def call(method: Callable = method) -> object:
            return method(views, class_features, 100.0)

        call()
        spent = min(seconds(call) for _ in range(rounds))
        product = min(seconds(lambda: views @ class_features.T) for _ in range(rounds))
        print(
            f"  {method.__name__:15s} {images / spent:8.0f} images/s, "
            f"{spent / product:5.1f} x the product alone"
        )


if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for size in SIZES:
        measure(*size)
