"""What views cost, next to the same number of plain torchvision ones.

    python tests/benchmarks/views.py

CPU time on one thread for 63 views, as 64 less the original, of a picture of 64 x 64
and of one of 500 x 375 pixels. Plain is torchvision's random crop and flip of the PIL
image, one view at a time, to uint8 ("plain") or to float as usual ("ToTensor"). All
are timed in one run, so that the ratio means something on a busy machine.
"""

import time
import timeit
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from helpers.views import VIEWS

COUNT = 63


def milliseconds(call: Callable[[], object]) -> float:
    """CPU time of one call: the least of seven."""
    spent = timeit.repeat(call, timer=time.process_time, number=1, repeat=7)
    return 1e3 * min(spent)


def compare(width: int, height: int, size: int) -> None:
    """Print the time of each recipe and of torchvision's crops."""
    coarse = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    crop, flip = transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()

    def plain(to_tensor: Callable) -> Callable[[], torch.Tensor]:
        recipe = transforms.Compose([crop, flip, to_tensor])
        return lambda: torch.stack([recipe(image) for _ in range(COUNT)])

    uint8 = milliseconds(plain(transforms.PILToTensor()))
    floats = milliseconds(plain(transforms.ToTensor()))
    print(f"{width} x {height} -> {size}: plain {uint8:.1f} ms, ToTensor {floats:.1f}")
    for name, recipe in VIEWS.items():
        spent = milliseconds(
            lambda recipe=recipe: recipe(image, COUNT, size, np.random.default_rng(0))
        )
        print(f"    {name:24s}{spent:6.1f} ms", end="")
        ratios = f"; {uint8 / spent:.1f} x plain, {floats / spent:.1f} x ToTensor"
        print(ratios if name == "preaugment" else "")  # like with like


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"1 thread, torch {torch.__version__}")
    compare(64, 64, 64)
    compare(500, 375, 224)
