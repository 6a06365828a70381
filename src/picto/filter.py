"""The supervised network that selects the scenes of `picto-a` and its pool.

ImageNet-A (Hendrycks et al. 2021, arXiv 1907.07174) has photographs that a supervised
ResNet-50 gets wrong. Here a small residual network, trained with labels on pictures
that no CLIP was trained on, classifies `hard-pool`; `picto-a` has the first scenes that
it gets wrong with confidence, `unlabelled-a` the next. The selection uses no CLIP.
"""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.models.embedded import ASSETS
from helpers.progress import track
from picto import pool, splits

FIRST_TRAIN_INDEX = 1_000_000  # above every index that the CLIPs train on
IMAGES = 32_000
CONFIDENCE = 0.3
KEEP = {"picto-a": 2_000, "unlabelled-a": 2_000}  # in this order


class Block(nn.Module):
    """A basic residual block (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 2):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def new_network(classes: int) -> nn.Module:
    """Make a network: images [B, 3, 64, 64] -> logits [B, classes], 0.2M parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 24),
        Block(24, 48),
        Block(48, 96),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, classes),
    )


def train_filter(
    steps: int = 3_000, images: int = IMAGES, batch: int = 64, seed: int = 0
) -> nn.Module:
    """Train with labels on pictures, mirrored and shifted by up to 4 pixels.

    Returns the network in evaluation mode.
    """
    indices = range(FIRST_TRAIN_INDEX, FIRST_TRAIN_INDEX + images)
    pictures = pool.render("train", indices)
    labels = np.array([splits.scene("train", i).label for i in indices])
    torch.manual_seed(seed)
    network = new_network(len(splits.CLASS_NAMES))
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(seed)
    for _ in track(range(steps), steps, "training the filter"):
        rows = rng.integers(len(pictures), size=batch)
        x = F.pad(pool.normalise(pictures[rows]), (4, 4, 4, 4), mode="replicate")
        top, left = rng.integers(9, size=2)
        x = x[:, :, top : top + 64, left : left + 64]
        x = x.flip(3) if rng.random() < 0.5 else x
        loss = F.cross_entropy(
            network(x.contiguous(memory_format=torch.channels_last)),
            torch.from_numpy(labels[rows]),
            label_smoothing=0.05,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def probabilities(network: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """Return class probabilities float32 [N, C] of pictures uint8 [N, 64, 64, 3]."""
    parts = [
        network(pool.normalise(pictures[i : i + 250])).softmax(dim=-1)
        for i in range(0, len(pictures), 250)
    ]
    return torch.cat(parts).numpy()


def fooled(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which pictures, bool [N], the network gets wrong with confidence."""
    wrong = probability.argmax(axis=1) != labels
    return wrong & (probability.max(axis=1) > CONFIDENCE)


def publish(network: nn.Module, assets: Path = ASSETS) -> dict:
    """Write the weights, and `picto_a.json`: the selected scenes and accuracies."""
    pool_size = splits.SPLITS["hard-pool"].size
    hard = probabilities(network, pool.render("hard-pool", range(pool_size)))
    labels = np.arange(pool_size) % len(splits.CLASS_NAMES)
    kept = np.flatnonzero(fooled(hard, labels)).tolist()
    left = iter(kept)
    chosen = {split: list(islice(left, count)) for split, count in KEEP.items()}
    dev, facts = pool.dev_pool()
    correct = probabilities(network, dev).argmax(axis=1) == facts["label"].to_numpy()
    report = {
        "rule": f"filter network wrong with confidence above {CONFIDENCE}",
        "pool": pool_size,
        "kept_share": round(len(kept) / pool_size, 4),
        "filter_accuracy_hard_pool": round(float((hard.argmax(1) == labels).mean()), 4),
        "filter_accuracy_dev": facts.assign(correct=correct)
        .groupby("part")["correct"]
        .mean()
        .round(4)
        .to_dict(),
        "world": pool.world_hash(),
        "scenes": {
            split: [
                [i, splits.solvable_attempt("hard-pool", i, int(labels[i]))]
                for i in indices
            ]
            for split, indices in chosen.items()
        },
    }
    save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()},
        assets / "picto-filter.safetensors",
    )
    (assets / "picto_a.json").write_text(json.dumps(report) + "\n")
    return report
