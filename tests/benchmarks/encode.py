"""How fast a Backbone encodes, next to plain open_clip on the same weights and inputs.

    python tests/benchmarks/encode.py [NAME ...]

Each pair of timings is taken in turns in one run, so that the ratio means something on
a busy machine; the rates themselves are this machine's. Models have random weights.
The line says too how far the features are from plain open_clip's, at worst (unit
vectors, so that this is a relative error).
"""

import sys
import time
from collections.abc import Callable

import open_clip
import torch
import torch.nn.functional as F

from helpers.models import clip, embedded
from helpers.prompts.templates import TEMPLATES

IMAGES = {"picto-rn": 512, "RN50-quickgelu": 64}
PROMPTS = 128


def best(*calls: Callable[[], object], rounds: int = 3) -> list[float]:
    """Shortest seconds of each call, the calls taking turns."""
    seconds = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, spent in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            spent.append(time.perf_counter() - began)
    return [min(spent[1:]) for spent in seconds]  # the first round warms up


@torch.inference_mode()
def compare(name: str) -> None:
    """Print rates of images and prompts, and the ratio to plain open_clip."""
    backbone = clip.load(name, "random", device="cpu")
    plain = open_clip.create_model(name).eval()
    plain.load_state_dict(backbone.model.state_dict())
    tokenizer = open_clip.get_tokenizer(name, **embedded.tokenizer_options(name))

    images = torch.randn(IMAGES.get(name, 16), 3, *[backbone.image_size] * 2)
    names = open_clip.IMAGENET_CLASSNAMES[:PROMPTS]
    prompts = [TEMPLATES["photo"][0].format(class_name) for class_name in names]

    fast, slow = best(
        lambda: backbone.encode_images(images),
        lambda: F.normalize(plain.encode_image(images), dim=-1),
    )
    line = f"{name:20s} images {len(images) / fast:7.1f}/s, {slow / fast:4.2f} x plain"
    apart = backbone.encode_images(images) - plain.encode_image(images, normalize=True)
    line += f", {apart.norm(dim=-1).max():.0e} apart"
    fast, slow = best(
        lambda: backbone.encode_texts(prompts),
        lambda: F.normalize(plain.encode_text(tokenizer(prompts)), dim=-1),
    )
    print(f"{line}; prompts {PROMPTS / fast:7.0f}/s, {slow / fast:4.1f} x plain")


if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in sys.argv[1:] or ("picto-rn", "RN50-quickgelu", "ViT-B-16-quickgelu"):
        compare(name)
