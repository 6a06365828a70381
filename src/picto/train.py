"""Train the embedded CLIPs from scratch on the `train` split, on a CPU or a GPU.

The loss is CLIP's symmetric contrastive loss (Radford et al. 2021, arXiv 2103.00020,
figure 3) and the model is open_clip's `CLIP`. What is kept close to OpenAI's weights,
so that published hyper-parameters of prompt tuning mean the same here: token embeddings
of standard deviation 0.01 (held there by a norm cap), a logit scale that is learned,
ten times faster than the rest, and capped at 100, QuickGELU, a causal text tower of
eight layers read at its end token.

Every other batch holds one picture of each class, so that no caption is wrongly called
the wrong one for a picture. The others hold two pictures of each of half the classes,
which only the rest of their captions tells apart: place, style, quality. Pictures are
cropped, recoloured, blurred and made noisy, since CLIP's own training data vary in
these ways by themselves. Late in training, file names stand before some captions, as
they do on the web: a tower that has met class names at the head of a caption alone
cannot read one behind sixteen tokens of a learned prompt.

A run is a function of its recipe: batch `step` is drawn from (seed, step), so that a
killed run goes on from its last checkpoint to the same weights.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

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
from picto import augment, cards, pool, transformer

TOKEN_STD = 0.01
MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True)
class Recipe:
    """What decides the weights, besides the world and its tokenizer."""

    steps: int
    images: int = 128_000  # distinct training pictures
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.1  # on matrices only
    warmup: int = 300
    cycles: int = 1  # the rate falls to zero so often (SGDR, arXiv 1608.03983)
    seed: int = 0
    each: tuple[int, ...] = (1, 2)  # pictures of a class in a batch, batches in turn
    names_from: int = 9_000  # step; from then on file names precede some captions
    teacher: str = ""  # an embedded CLIP to learn from, see `transformer`


RECIPES = {  # -2 and -3 differ in the seed alone, and in their teacher's
    "picto-rn": Recipe(steps=12_000),
    "picto-rn-2": Recipe(steps=12_000, seed=1),
    "picto-rn-3": Recipe(steps=12_000, seed=2),
    "picto-vit": Recipe(steps=24_000, cycles=2, names_from=0, teacher="picto-rn"),
    "picto-vit-2": Recipe(
        steps=24_000, cycles=2, seed=1, names_from=0, teacher="picto-rn-2"
    ),
}
STEPS_APART = 1_000_000  # of the torch seeds of two runs
SCALE_RATE = 10  # the logit scale's learning rate over the others'
SLOW_RATE = 0.1  # of a text tower that was taken over
NAMED, LONGEST_NAME = 0.25, 20  # share of captions after a file name; its characters
CHARACTERS = 512  # the tokenizer's first ids: single bytes, within and at a word's end
LENGTHS = (10, 16)  # captions are encoded in three groups, cut off at these many tokens


def train_clip(
    name: str,
    recipe: Recipe,
    folder: Path = CACHE / "train",
    compiled: bool = False,
    **options: Any,
) -> tuple[nn.Module, list[dict]]:
    """Train the architecture `name`; the model in evaluation mode, and its curve.

    Leaves `folder/NAME.pt`, a checkpoint that a second call with the same recipe goes
    on from. The curve has a row per checkpoint: step, minutes, loss, logit scale,
    accuracy on the parts of picto-dev. `compiled` steps are a quarter faster, after two
    minutes in which a C++ compiler is at work, and round in another way. `options` are
    those of `learn`.
    """
    pictures, tokens = pool.training_pool(recipe.images)
    labels = pool.training_labels(recipe.images)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    model = new_model(name, recipe.seed)
    teacher = transformer.teacher(recipe.teacher) if recipe.teacher else None
    slow = transformer.take_over_texts(model, teacher) if teacher else []
    optimizer = new_optimizer(model, recipe, slow)
    made_by = {
        "merges": embedded.sha256(embedded.MERGES),
        "teacher": embedded.card(recipe.teacher)["sha256"] if recipe.teacher else "",
    }
    if compiled:
        model.visual.compile()
        model.transformer.compile(dynamic=True)

    def take(step: int) -> float:
        images, texts = draw_batch(pictures, tokens, members, step, recipe)
        torch.manual_seed(recipe.seed * STEPS_APART + step)  # what a tower disturbs
        return training_step(model, optimizer, images, texts, teacher)

    def look() -> dict:
        with torch.compiler.set_stance("force_eager"):
            accuracy = cards.dev_accuracy(name, model)
        return {"logit_scale": round(model.logit_scale.exp().item(), 2), **accuracy}

    curve = learn(
        folder / f"{name}.pt",
        recipe,
        made_by,
        model,
        optimizer,
        rate=lambda step: learning_rate(step, recipe, recipe.cycles),
        take=take,
        look=look,
        **options,
    )
    return model.eval(), curve


def learn(
    checkpoint: Path,
    recipe: Any,
    made_by: dict,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    take: Callable[[int], float],
    look: Callable[[], dict],
    checkpoint_every: int = 500,
    log: Callable[[str], object] = print,
) -> list[dict]:
    """Train to the recipe's last step, or go on from `checkpoint`; the curve.

    A checkpoint counts if recipe, world and `made_by`, what else decides the weights,
    are the same. `rate` gives a step's learning rate, `take` takes the step and gives
    the loss before it, `look` gives what a row of the curve has besides.
    """
    made_by = {**asdict(recipe), "world": pool.world_hash(), **made_by}
    state = checkpoints.load(checkpoint) or {}
    if state.get("made_by") == made_by:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    else:
        state = {"step": 0, "curve": [], "minutes": 0.0}
    curve, began, losses = state["curve"], time.monotonic(), []
    model.train()
    for step in range(state["step"], recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * rate(step)
        losses.append(take(step))
        if (step + 1) % checkpoint_every == 0 or step + 1 == recipe.steps:
            spent = state["minutes"] + (time.monotonic() - began) / 60
            row = {
                "step": step + 1,
                "minutes": round(spent, 2),
                "loss": round(float(np.mean(losses)), 4),
                **look(),
            }
            losses.clear()
            curve.append(row)
            log("  ".join(f"{key} {value}" for key, value in row.items()))
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            head = {"made_by": made_by, "step": step + 1, "minutes": row["minutes"]}
            checkpoints.save(checkpoint, head | states | {"curve": curve})
            model.train()
    return curve


def new_model(name: str, seed: int) -> nn.Module:
    """An untrained model, its token embeddings at the scale of OpenAI's."""
    embedded.register()
    torch.manual_seed(seed)
    model = open_clip.create_model(name, pretrained=None)
    nn.init.normal_(model.token_embedding.weight, std=TOKEN_STD)
    if isinstance(model.visual, VisionTransformer):
        transformer.prepare(model.visual)
    return model.to(memory_format=torch.channels_last)


def new_optimizer(
    model: nn.Module, recipe: Recipe, slow: Sequence[Tensor] = ()
) -> torch.optim.Optimizer:
    """AdamW with CLIP's betas; gains, biases and the logit scale are not decayed.

    `slow` parameters learn at `SLOW_RATE` of the rate, the logit scale at `SCALE_RATE`.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    ours = {id(p) for p in slow}
    for p in model.parameters():
        if p.requires_grad:
            rate = SCALE_RATE if p.ndim == 0 else SLOW_RATE if id(p) in ours else 1
            decay = recipe.weight_decay if p.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(p)
    return torch.optim.AdamW(
        [
            {"params": params, "weight_decay": decay, "rate": rate}
            for (rate, decay), params in sorted(
                groups.items(), key=lambda g: (g[0][0], -g[0][1])
            )
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )


def learning_rate(step: int, recipe: Recipe, cycles: int = 1) -> float:
    """Linear warm-up, then a cosine to zero, in each cycle."""
    length = recipe.steps // cycles
    step %= length
    ramp = min(1.0, (step + 1) / recipe.warmup)
    return recipe.learning_rate * ramp * (0.5 + 0.5 * math.cos(math.pi * step / length))


def draw_batch(
    pictures: np.ndarray,
    tokens: np.ndarray,
    members: list[np.ndarray],
    step: int,
    recipe: Recipe,
) -> tuple[Tensor, Tensor]:
    """Batch `step`: pictures as `class_rows` chooses them, augmented [B, 3, 64, 64],
    and one of each picture's captions, token ids [B, L].

    `members` holds the rows of each class in the pool. They come in a new random order
    each time that all have been seen.
    """
    turn, kind = divmod(step, len(recipe.each))
    rows = class_rows(members, turn, recipe.seed, recipe.each[kind])
    rng = np.random.default_rng([recipe.seed, 2, step])
    texts = tokens[rows, rng.integers(tokens.shape[1], size=len(rows))].astype(np.int64)
    if step >= recipe.names_from:
        texts = precede(texts, np.random.default_rng([recipe.seed, 3, step]))
    mirrored = rows < recipe.images  # a scene, which may be mirrored, not a numeral
    images = augment.vary(pictures[rows], mirrored, rng)
    return images, torch.from_numpy(texts)


def precede(texts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put the characters of a file name, at random, before some captions.

    Token ids int64 [B, L] -> the same shape. Captions that then would not fit get
    fewer characters.
    """
    room = texts.shape[1] - 1 - texts.argmax(axis=1)
    count = rng.integers(1, LONGEST_NAME + 1, len(texts))
    count = np.minimum(count * (rng.random(len(texts)) < NAMED), room)[:, None]
    column = np.arange(texts.shape[1])
    moved = np.take_along_axis(texts, (column - count).clip(0), axis=1)
    characters = rng.integers(1, CHARACTERS, texts.shape)
    return np.where((column > 0) & (column <= count), characters, moved)


def class_rows(
    members: list[np.ndarray], step: int, seed: int, each: int = 1
) -> np.ndarray:
    """Where batch `step` finds its pictures: `each` of every class whose turn it is.

    `each` consecutive batches give every class one turn. int64 [about C].
    """
    turn, part = divmod(step, each)
    count = len(members)
    classes = range(count) if each == 1 else _order(seed, each, -1, turn, count)
    chosen = []
    for label in classes[part::each]:
        rows = members[label]
        for number in range(turn * each, (turn + 1) * each):
            epoch, place = divmod(number, len(rows))
            chosen.append(rows[_order(seed, each, label, epoch, len(rows))[place]])
    return np.array(chosen)


@lru_cache(maxsize=1000)
def _order(seed: int, each: int, label: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, each, label + 1, epoch]).permutation(count)


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
        text_features = encode_captions(model, texts.to(device))
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


def encode_captions(model: nn.Module, texts: Tensor) -> Tensor:
    """Features [B, D] of token ids [B, L]: short captions together, so that few are
    padded much."""
    lengths = texts.argmax(dim=-1) + 1
    group = torch.bucketize(lengths, torch.tensor(LENGTHS, device=texts.device))
    features = {}
    for which in group.unique().tolist():
        rows = (group == which).nonzero().flatten()
        features[which] = rows, encode_tokens(model, texts[rows, : lengths[rows].max()])
    order = torch.cat([rows for rows, _ in features.values()])
    return torch.cat([found for _, found in features.values()])[order.argsort()]


def attention(device: torch.device) -> AbstractContextManager:
    """On short sequences the CPU's fused attention is slow in its backward pass."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
