"""Train the embedded diffusion model on the `train` split, without labels or captions.

The loss is that of denoising diffusion (Ho et al. 2020, arXiv 2006.11239), weighted as
an error of v (Salimans and Ho 2022, arXiv 2202.00512). Times are logit-normal (Esser et
al. 2024, arXiv 2403.03206) around a third of the schedule, since variations start
part-way. The published weights are a moving average. As with the CLIPs, the recipe
determines a run, which resumes from a checkpoint.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.models import clip, embedded, sdedit
from helpers.models.diffusion import EMBEDDED as NAME
from helpers.paths import CACHE
from picto import cards, pool, splits, train

BACKBONE = "picto-rn"  # classifies variations
LEAST_NOISE = 0.05  # s(t)^2 at t = 130
BATCH = 100  # pictures that are varied at once
STRENGTHS = {0.2: 1, 0.35: 2, 0.5: 3, 0.7: 4}  # strength -> denoising steps


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters; with the world they determine the weights."""

    steps: int = 10_000
    images: int = 64_000
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 200
    seed: int = 0
    widths: tuple[int, ...] = (64, 96, 160)
    block: int = 4
    average: float = 0.998  # decay of the weights' moving average per step


def train_diffusion(
    recipe: Recipe, folder: Path = CACHE / "train", **options: Any
) -> tuple[nn.Module, list[dict]]:
    """Train the U-Net, or resume from `folder/picto-diffusion.pt`.

    Returns the averaged model in evaluation mode, and its curve with a row per
    checkpoint. `options` are those of `train.learn`.
    """
    pictures = pool.render("train", range(recipe.images))
    torch.manual_seed(recipe.seed)
    pipeline = sdedit.new_pipeline(recipe.widths, recipe.block)
    unet = pipeline.unet
    average = copy.deepcopy(unet).requires_grad_(False)
    models = nn.ModuleDict({"unet": unet, "average": average})
    optimizer = train.new_optimizer(unet, recipe)
    alphas = pipeline.scheduler.alphas_cumprod

    def take(step: int) -> float:
        x, noise, times = draw_batch(pictures, step, recipe)
        shares = alphas[times]
        noisy = pipeline.blocks(noised(x, noise, shares))
        batch = noisy, times, pipeline.blocks(x), shares
        loss = training_step(unet, optimizer, *batch)
        with torch.no_grad():
            decay = min(recipe.average, (2 + step) / (11 + step))
            for slow, fast in zip(average.parameters(), unet.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        return loss

    curve = train.learn(
        folder / f"{NAME}.pt",
        recipe,
        {"widths": list(recipe.widths)},
        models,
        optimizer,
        rate=lambda step: learning_rate(step, recipe),
        take=take,
        look=lambda: dev_accuracy(average.eval(), recipe),
        **options,
    )
    return average.eval(), curve


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step: linear warm-up, constant, linear to zero in
    the last quarter, so that runs of different lengths begin alike."""
    left = 4 * (recipe.steps - step) / recipe.steps
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup, left)


def draw_batch(
    pictures: np.ndarray, step: int, recipe: Recipe
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw batch `step`: pictures [B, 3, H, W] in [-1, 1], half of them mirrored, noise
    of the same shape, and times int64 [B]."""
    epoch, number = divmod(step, len(pictures) // recipe.batch)
    order = np.random.default_rng([recipe.seed, 1, epoch]).permutation(len(pictures))
    rows = np.sort(order[number * recipe.batch : (number + 1) * recipe.batch])
    rng = np.random.default_rng([recipe.seed, 2, step])
    x = scaled(pictures[rows])
    mirrored = torch.from_numpy(rng.random(len(rows)) < 0.5)
    x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    middle = rng.standard_normal(len(rows)) - 0.6
    times = torch.from_numpy(sdedit.STEPS / (1 + np.exp(-middle))).long()
    return x, noise, times


def scaled(pictures: np.ndarray) -> Tensor:
    """Convert uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def noised(x: Tensor, noise: Tensor, shares: Tensor) -> Tensor:
    """Add noise to pictures; `shares` [B] is a(t)^2."""
    shares = shares.view(-1, 1, 1, 1)
    return shares.sqrt() * x + (1 - shares).sqrt() * noise


def training_step(
    unet: nn.Module,
    optimizer: torch.optim.Optimizer,
    noisy: Tensor,
    times: Tensor,
    clean: Tensor,
    shares: Tensor,
) -> float:
    """Take an optimizer step on noisy blocks at times [B]; returns the loss before it.

    The squared error of the clean blocks is weighted by 1 / s(t)^2, which makes it that
    of v = a noise - s x; the weight is bounded where there is little noise.
    """
    device = next(unet.parameters()).device
    with torch.autocast(device.type, torch.bfloat16), train.attention(device):
        guess = unet(noisy.to(device), times.to(device)).sample
    errors = (guess.float() - clean.to(device)).square().flatten(1).mean(dim=1)
    loss = (errors / (1 - shares).clamp(min=LEAST_NOISE).to(device)).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def dev_accuracy(
    unet: nn.Module, recipe: Recipe, images: int = 100
) -> dict[str, float]:
    """Return zero-shot accuracy on variations of picto-dev's photos, by strength."""
    pictures, facts = pool.dev_pool()
    rows = facts.index[facts["part"] == "photo"][:images]
    found = kept(_pipeline(unet, recipe), pictures[rows], facts["label"][rows])
    return {f"at {strength}": share for strength, share in found.items()}


def kept(
    pipeline: sdedit.SDEditPipeline, pictures: np.ndarray, labels: Sequence[int]
) -> dict[float, float]:
    """Return the zero-shot accuracy on a variation of each picture, by strength.

    Strength 0 stands for the pictures themselves.
    """
    backbone = clip.load(BACKBONE, embedded.TAG, "cpu")
    classes = cards.classifier(BACKBONE, backbone.model, cards.PHOTO)
    accuracy = {}
    for strength, steps in {0.0: 0, **STRENGTHS}.items():
        varied = vary(pipeline, pictures, strength, steps) if steps else pictures
        features = cards.image_features(backbone.model, varied)
        correct = cards.predictions(features, classes) == np.asarray(labels)
        accuracy[strength] = round(float(correct.mean()), 4)
    return accuracy


def vary(
    pipeline: sdedit.SDEditPipeline, pictures: np.ndarray, strength: float, steps: int
) -> np.ndarray:
    """Generate a variation of pictures uint8 [N, 64, 64, 3], of picture i by seed i."""
    parts = []
    for start in range(0, len(pictures), BATCH):
        some = scaled(pictures[start : start + BATCH])
        seeds = [torch.Generator().manual_seed(start + i) for i in range(len(some))]
        parts.append(pipeline(some, strength, steps, seeds).float())
    pixels = (torch.cat(parts).permute(0, 2, 3, 1) + 1) * 127.5
    return pixels.round().byte().numpy()


def publish(unet: nn.Module, recipe: Recipe, assets: Path) -> dict:
    """Write the trained weights in fp16, and a sheet of samples.

    Returns for their card the zero-shot accuracy on variations of the test pictures,
    measured with the fp16 weights.
    """
    weights = {k: v.detach().half().contiguous() for k, v in unet.state_dict().items()}
    save_file(weights, assets / f"{NAME}.safetensors")
    unet.load_state_dict({k: v.float() for k, v in weights.items()})
    pipeline = _pipeline(unet, recipe)
    indices = range(splits.SPLITS["picto"].size)
    pictures = pool.render("picto", indices)
    labels = [splits.scene("picto", i).label for i in indices]
    found = kept(pipeline, pictures, labels)
    samples(pipeline).save(assets / f"{NAME}.png", optimize=True)
    shares = {f"strength {strength}": share for strength, share in found.items()}
    return {"accuracy": {"n": len(labels), "by": BACKBONE, **shares}}


def samples(pipeline: sdedit.SDEditPipeline, columns: int = 12) -> Image.Image:
    """Make a sheet: pictures of picto-dev, variations from weak to strong, and in the
    last row pictures from noise alone."""
    pictures = pool.dev_pool()[0][:columns]
    rows = [pictures, *(vary(pipeline, pictures, *pair) for pair in STRENGTHS.items())]
    rows.append(vary(pipeline, np.full_like(pictures, 128), 1.0, 50))
    return Image.fromarray(np.concatenate([np.concatenate([*row], 1) for row in rows]))


def _pipeline(unet: nn.Module, recipe: Recipe) -> sdedit.SDEditPipeline:
    pipeline = sdedit.new_pipeline(recipe.widths, recipe.block)
    pipeline.unet.load_state_dict(unet.state_dict())
    pipeline.unet.eval()
    return pipeline
