"""Train the embedded CLIPs from scratch on the `train` split, on a CPU or a GPU.

The loss is CLIP's symmetric contrastive loss (Radford et al. 2021, arXiv 2103.00020,
figure 3) and the model is open_clip's `CLIP`. What is kept close to OpenAI's weights,
so that published hyper-parameters of prompt tuning mean the same here: token embeddings
of standard deviation 0.01 (held there by a norm cap), a logit scale that is learned and
capped at 100, QuickGELU, a causal text tower read at its end token.

A run is a function of its recipe: batch `step` is drawn from (seed, step), so that a
killed run goes on from its last checkpoint to the same weights.
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from helpers.models import embedded
from helpers.models.clip import encode_tokens
from helpers.paths import CACHE
from helpers.store import checkpoints
from picto import cards, pool, transformer

TOKEN_STD = 0.01
MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True)
class Recipe:
    """What decides the weights, besides the world and its tokenizer."""

    steps: int
    images: int = 64_000  # distinct training pictures
    batch: int = 96
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.1  # on matrices only
    warmup: int = 300
    seed: int = 0
    teacher: str = ""  # an embedded CLIP to learn from, see `transformer`


RECIPES = {
    "picto-rn": Recipe(steps=7_000),
    "picto-vit": Recipe(steps=14_000, images=128_000, teacher="picto-rn"),
}


def train_clip(
    name: str,
    recipe: Recipe,
    folder: Path = CACHE / "train",
    checkpoint_every: int = 500,
    log=print,
) -> tuple[nn.Module, list[dict]]:
    """Train the architecture `name`; the model in evaluation mode, and its curve.

    Leaves `folder/NAME.pt`, a checkpoint that a second call with the same recipe goes
    on from. The curve has a row per checkpoint: step, minutes, loss, logit scale,
    accuracy on the parts of picto-dev.
    """
    checkpoint = folder / f"{name}.pt"
    pictures, tokens = pool.training_pool(recipe.images)
    model = new_model(name, recipe.seed)
    teacher = transformer.teacher(recipe.teacher, model) if recipe.teacher else None
    optimizer = new_optimizer(model, recipe)
    made_by = {
        **asdict(recipe),
        "world": pool.world_hash(),
        "merges": embedded.sha256(embedded.MERGES),
        "teacher": embedded.card(recipe.teacher)["sha256"] if recipe.teacher else "",
    }
    state = resume(checkpoint, made_by, model, optimizer)
    step, curve, minutes = state["step"], state["curve"], state["minutes"]
    began, losses = time.monotonic(), []
    model.train()
    while step < recipe.steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        images, texts = draw_batch(pictures, tokens, step, recipe)
        loss = training_step(model, optimizer, images, texts, teacher)
        losses.append(loss)
        step += 1
        if step % checkpoint_every == 0 or step == recipe.steps:
            spent = minutes + (time.monotonic() - began) / 60
            row = {
                "step": step,
                "minutes": round(spent, 2),
                "loss": round(float(np.mean(losses)), 4),
                "logit_scale": round(model.logit_scale.exp().item(), 2),
                **cards.dev_accuracy(name, model),
            }
            losses.clear()
            keep(checkpoint, made_by, model, optimizer, curve, row, log)
            model.train()
    return model.eval(), curve


def new_model(name: str, seed: int) -> nn.Module:
    """An untrained model, its token embeddings at the scale of OpenAI's."""
    embedded.register()
    torch.manual_seed(seed)
    model = open_clip.create_model(name, pretrained=None)
    nn.init.normal_(model.token_embedding.weight, std=TOKEN_STD)
    if isinstance(model.visual, VisionTransformer):
        transformer.prepare(model.visual)
    return model.to(memory_format=torch.channels_last)


def new_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW with CLIP's betas; gains, biases and the logit scale are not decayed."""
    learned = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in learned if p.ndim > 1]
    others = [p for p in learned if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to zero."""
    ramp = min(1.0, (step + 1) / recipe.warmup)
    return (
        recipe.learning_rate
        * ramp
        * (0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))
    )


def draw_batch(
    pictures: np.ndarray, tokens: np.ndarray, step: int, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Batch `step`: augmented images [B, 3, 64, 64] and cropped token ids [B, L].

    Every epoch is a permutation of the pool; each picture comes with one of its
    captions, mirrored half of the time, and zoomed or cropped three times in five.
    """
    per_epoch = len(pictures) // recipe.batch
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([recipe.seed, 1, epoch]).permutation(len(pictures))
    rows = np.sort(order[place * recipe.batch : (place + 1) * recipe.batch])
    rng = np.random.default_rng([recipe.seed, 2, step])
    texts = tokens[rows, rng.integers(tokens.shape[1], size=len(rows))]
    texts = torch.from_numpy(texts.astype(np.int64))
    texts = texts[:, : int(texts.argmax(dim=-1).max()) + 1]
    mirrored = rows < recipe.images  # a scene, which may be mirrored, not a numeral
    return zoom(pool.normalise(pictures[rows]), mirrored, rng), texts


def zoom(images: Tensor, mirrored: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Zoom images [B, 3, H, W], and mirror half of those that may be, bool [B], with
    one bilinear warp."""
    n = len(images)
    side, aspect = rng.uniform(0.55, 1.1, n), np.exp(rng.uniform(-0.2, 0.2, n))
    whole = rng.random(n) < 0.4
    width = np.where(whole, 1.0, side * np.sqrt(aspect))
    height = np.where(whole, 1.0, side / np.sqrt(aspect))
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0] = width * np.where(mirrored & (rng.random(n) < 0.5), -1, 1)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = rng.uniform(-1, 1, n) * (np.abs(1 - width) * 0.8 + 0.06)
    theta[:, 1, 2] = rng.uniform(-1, 1, n) * (np.abs(1 - height) * 0.8 + 0.06)
    grid = F.affine_grid(torch.from_numpy(theta), images.shape, align_corners=False)
    warped = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return warped.contiguous(memory_format=torch.channels_last)


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    texts: Tensor,
    teacher: nn.Module | None = None,
) -> float:
    """One optimizer step; the contrastive loss before it."""
    device = model.logit_scale.device
    images = images.to(device)
    with torch.autocast(device.type, torch.bfloat16), attention(device):
        image_features = model.encode_image(images)
        if teacher is not None:
            with torch.no_grad():
                goal = teacher.encode_image(images)
    text_features = encode_tokens(model, texts.to(device))
    image_features = F.normalize(image_features.float(), dim=-1)
    text_features = F.normalize(text_features.float(), dim=-1)
    logits = model.logit_scale.exp() * image_features @ text_features.T
    pairs = torch.arange(len(logits), device=device)
    loss = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
    total = loss
    if teacher is not None:
        total = loss + transformer.imitation(image_features, goal)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, MAX_LOG_SCALE)
        table = model.token_embedding.weight
        table.renorm_(2, 0, TOKEN_STD * 1.2 * math.sqrt(table.shape[1]))
    return loss.item()


def attention(device: torch.device) -> AbstractContextManager:
    """On short sequences the CPU's fused attention is slow in its backward pass."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def keep(
    path: Path,
    made_by: dict,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    curve: list[dict],
    row: dict,
    log,
) -> None:
    """Add a row with `step` and `minutes` to the curve, say it, write a checkpoint."""
    curve.append(row)
    log("  ".join(f"{key} {value}" for key, value in row.items()))
    state = {
        "made_by": made_by,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": row["step"],
        "minutes": row["minutes"],
        "curve": curve,
    }
    checkpoints.save(path, state)


def resume(path: Path, made_by: dict, model: nn.Module, optimizer) -> dict:
    """The checkpoint's state if all that made it is the same, else a fresh start."""
    state = checkpoints.load(path)
    if state is not None and state["made_by"] == made_by:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return state
    return {"step": 0, "curve": [], "minutes": 0.0}
