"""What a caption prompt costs: one image's C prompts, encoded three ways.

    python tests/benchmarks/captions.py

"naive" is the loop that one would write: an image at a time, every prompt with the full
context. "cropped" is the same loop with `Backbone.encode_texts`; "shared" encodes all
prompts with `helpers.models.template_prompts`. The full-size tower has random weights.
"""

import random
import time
from collections.abc import Callable, Sequence

import torch

from helpers.models import clip, template_prompts
from helpers.prompts import captions
from picto import CLASS_NAMES, speech, splits

SIZES = {  # backbone, weights, images for the loops, for the shared way, classes
    "picto": ("picto-rn", "picto", 40, 400, 64),
    "RN50, 200 classes": ("RN50-quickgelu", "random", 1, 8, 200),
}


def templates(count: int) -> list[str]:
    """Captions of embedded scenes, the class's place in the place of the class."""
    texts = []
    for index in range(count):
        scene = splits.scene("picto", index)
        (text,) = speech.telling(scene, random.Random(index))
        texts.append(captions.template(text, scene.class_name))
    return texts


def milliseconds(work: Callable[[str], object], texts: Sequence[str]) -> float:
    """Of the work on each text, on average."""
    began = time.perf_counter()
    for text in texts:
        work(text)
    return 1e3 * (time.perf_counter() - began) / len(texts)


@torch.inference_mode()
def measure(name: str) -> None:
    """Print the three costs of one size."""
    architecture, weights, few, many, classes = SIZES[name]
    backbone = clip.load(architecture, weights, device="cpu")
    names = [f"{n} {i // 64}".removesuffix(" 0") for i, n in enumerate(CLASS_NAMES * 4)]
    names, texts = names[:classes], templates(many)

    def filled(template: str) -> list[str]:
        return [template_prompts.fill(template, class_name) for class_name in names]

    ways = {
        "naive": lambda t: backbone.model.encode_text(backbone.tokenizer(filled(t))),
        "cropped": lambda t: backbone.encode_texts(filled(t)),
    }
    costs = {way: milliseconds(work, texts[:few]) for way, work in ways.items()}
    began = time.perf_counter()
    for _ in template_prompts.features(backbone, texts, names):
        pass
    costs["shared"] = 1e3 * (time.perf_counter() - began) / many
    shown = ", ".join(f"{way} {cost:.1f} ms" for way, cost in costs.items())
    print(f"{name}: {shown} an image, {costs['naive'] / costs['shared']:.1f} times")


if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in SIZES:
        measure(name)
