"""What a second worker buys here: views of picto, encoded by one process and by two.

    python tests/benchmarks/workers.py

One thread each, the two in turns in one run, Ray's start (once a chapter) apart. On a
machine with other work the ratio is lower than on a free one.
"""

import tempfile
import time
from pathlib import Path

import torch

from helpers import data, keys, parallel, store
from helpers.models import clip

IMAGES, VIEWS, ROUNDS = 128, 64, 2


def main() -> None:
    """Print seconds and their ratio."""
    torch.set_num_threads(1)
    model = clip.load("picto-vit", "picto", device="cpu")
    dataset = data.load("picto-s", images=IMAGES)
    spent = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        keys.CACHE = Path(folder)
        with parallel.chosen(workers=2):
            began = time.perf_counter()
            store.view_features(model, dataset, count=2, seed=-1)  # loads the workers
            print(f"Ray's start: {time.perf_counter() - began:.1f} s")
        for seed in range(ROUNDS):
            for workers in spent:
                keys.CACHE = Path(folder, str(workers))
                with parallel.chosen(workers=workers):
                    began = time.perf_counter()
                    store.view_features(model, dataset, count=VIEWS, seed=seed)
                    spent[workers].append(time.perf_counter() - began)
    one, two = (min(spent[workers]) for workers in (1, 2))
    print(
        f"{VIEWS} views of {IMAGES} images: {one:.1f} s, with two workers {two:.1f} s"
    )
    print(f"{one / two:.2f} times as fast")


if __name__ == "__main__":
    main()
