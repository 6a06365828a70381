"""Train the embedded captioner: a small GPT-2 that reads a frozen embedded CLIP.

The encoder is frozen: its features of the training pictures are computed once, and only
projection and decoder are trained, with teacher forcing on captions that name class and
place. As with the CLIPs, the recipe determines a run, which resumes from a checkpoint.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import VisionEncoderDecoderModel
from transformers.modeling_outputs import BaseModelOutput

from helpers.keys import folder
from helpers.models import captioner as captioners
from helpers.models import embedded
from helpers.paths import CACHE
from helpers.progress import track
from helpers.store.chunks import in_chunks
from picto import cards, pool, speech, splits, train

NAME = captioners.EMBEDDED
CAPTIONS_EACH = 4
ENCODE_BATCH = 250


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters; with the world and the encoder they determine the weights."""

    steps: int = 6_000
    images: int = 64_000
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 200
    seed: int = 0
    backbone: str = "picto-rn"
    decoder: dict[str, int] = field(
        default_factory=lambda: {
            "n_embd": 128,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 24,
        }
    )


def train_captioner(
    recipe: Recipe, folder: Path = CACHE / "train", **options: Any
) -> tuple[VisionEncoderDecoderModel, list[dict]]:
    """Train the captioner, or resume from `folder/picto-captioner.pt`.

    Returns the model in evaluation mode, and its curve with a row per checkpoint.
    `options` are those of `train.learn`.
    """
    torch.manual_seed(recipe.seed)
    model = captioners.new_model(recipe.backbone, recipe.decoder)
    tokens = _tokens(recipe)
    levels = encode(model, pool.render("train", range(recipe.images)))
    optimizer = train.new_optimizer(model, recipe)
    made_by = {
        "merges": embedded.sha256(embedded.MERGES),
        "encoder": embedded.card(recipe.backbone)["sha256"],
    }

    def take(step: int) -> float:
        return training_step(model, optimizer, *_batch(levels, tokens, step, recipe))

    curve = train.learn(
        folder / f"{NAME}.pt",
        recipe,
        made_by,
        model,
        optimizer,
        rate=lambda step: train.learning_rate(step, recipe),
        take=take,
        look=lambda: dev_scores(model, recipe),
        **options,
    )
    return model.eval(), curve


@torch.inference_mode()
def encode(model: VisionEncoderDecoderModel, pictures: np.ndarray) -> list[Tensor]:
    """Encode pictures uint8 [N, 64, 64, 3] with the frozen encoder.

    Returns each level's tokens, float16 [N, cells, channels]: 0.8 GB for 64,000
    pictures.
    """
    starts = range(0, len(pictures), ENCODE_BATCH)
    parts = [pictures[i : i + ENCODE_BATCH] for i in starts]
    levels: list[Tensor] = []
    for number, part in enumerate(track(parts, label="encoding training pictures")):
        seen = model.encoder.levels(pool.normalise(part))
        levels = levels or [
            x.new_empty(len(pictures), *x.shape[1:]).half() for x in seen
        ]
        for whole, x in zip(levels, seen, strict=True):
            whole[number * ENCODE_BATCH :][: len(part)] = x.half()
    return levels


def training_step(
    model: VisionEncoderDecoderModel,
    optimizer: torch.optim.Optimizer,
    levels: Sequence[Tensor],
    texts: Tensor,
) -> float:
    """Take an optimizer step on levels of B pictures and token ids int64 [B, L].

    Returns the loss before the step.
    """
    device = model.device
    texts = texts.to(device)
    with torch.autocast(device.type, torch.bfloat16), train.attention(device):
        seen = model.encoder.project([x.to(device).float() for x in levels])
        answer = model(
            encoder_outputs=BaseModelOutput(seen),
            decoder_input_ids=texts[:, :-1],
            decoder_attention_mask=texts[:, :-1] != 0,
        )
    logits = answer.logits.float().flatten(0, 1)
    loss = F.cross_entropy(logits, texts[:, 1:].flatten(), ignore_index=0)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _batch(
    levels: Sequence[Tensor], tokens: np.ndarray, step: int, recipe: Recipe
) -> tuple[list[Tensor], Tensor]:
    """Batch `step`: an epoch is a permutation, each picture with a random caption."""
    epoch, number = divmod(step, len(tokens) // recipe.batch)
    order = np.random.default_rng([recipe.seed, 1, epoch]).permutation(len(tokens))
    rows = order[number * recipe.batch : (number + 1) * recipe.batch]
    rng = np.random.default_rng([recipe.seed, 2, step])
    texts = tokens[rows, rng.integers(tokens.shape[1], size=len(rows))].astype(np.int64)
    length = int((texts != 0).sum(axis=1).max())
    return [x[rows] for x in levels], torch.from_numpy(texts[:, :length])


def _tokens(recipe: Recipe) -> np.ndarray:
    """Token ids int16 [N, 4, n_positions] of training captions, computed once."""
    length = recipe.decoder["n_positions"]
    made_by = recipe.images, pool.world_hash(), embedded.MERGES.read_bytes(), length
    where = folder("picto", "telling", *made_by)

    def tokenise(rows: range) -> Iterator[tuple[range, Tensor]]:
        found = pool.on_all_cores(_Tokenise(recipe.backbone, length), rows, "captions")
        yield rows, torch.from_numpy(np.concatenate(found))

    count = recipe.images
    return in_chunks(where, count, tokenise, "token ids", size=count).numpy()


@dataclass(frozen=True)
class _Tokenise:
    """A class, since other processes cannot unpickle a closure."""

    backbone: str
    length: int

    def __call__(self, indices: Sequence[int]) -> np.ndarray:
        texts = []
        for i in indices:
            rng = random.Random(f"telling/train/{i}")
            texts += speech.telling(splits.scene("train", i), rng, CAPTIONS_EACH)
        tokenizer = captioners.tokenizer(self.backbone)
        ids = tokenizer(texts, context_length=self.length).numpy().astype(np.int16)
        return ids.reshape(len(indices), CAPTIONS_EACH, self.length)


def dev_scores(model: VisionEncoderDecoderModel, recipe: Recipe) -> dict[str, float]:
    """Score greedy captions of every fifth picture of picto-dev, in all and by part."""
    pictures, facts = pool.dev_pool()
    rows = np.arange(0, len(pictures), 5)
    model.eval()
    write = captioners.wrap(model, recipe.backbone, beams=1)
    texts = write([Image.fromarray(pictures[i]) for i in rows])
    shown = splits.facts("picto-dev", rows.tolist())
    scores = speech.correctness(texts, shown)
    right = speech.said(texts)["class_name"].eq(shown["class_name"])
    parts = right.groupby(facts["part"].to_numpy()[rows]).mean().round(3)
    return {k: v for k, v in scores.items() if k != "n"} | parts.to_dict()


def publish(model: VisionEncoderDecoderModel, recipe: Recipe, assets: Path) -> dict:
    """Write the trained weights in fp16.

    Returns for their card the hash of their encoder, and their scores on every test
    split.
    """
    weights = {
        key: value.detach().half().contiguous()
        for key, value in model.state_dict().items()
        if not key.startswith("encoder.trunk.") and key != "decoder.lm_head.weight"
    }
    save_file(weights, assets / f"{NAME}.safetensors")
    model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    model.tie_weights()
    write = captioners.wrap(model.eval(), recipe.backbone)
    return {
        "encoder": embedded.card(recipe.backbone)["sha256"],
        "right": {split: _test_scores(write, split) for split in cards.TESTS},
    }


def _test_scores(write: captioners.Captioner, split: str) -> dict[str, float]:
    indices = range(splits.SPLITS[split].size)
    pictures = pool.render(split, indices)
    texts: list[str] = []
    for part in np.array_split(pictures, max(1, len(pictures) // ENCODE_BATCH)):
        texts += write([Image.fromarray(picture) for picture in part])
    right = speech.correctness(texts, splits.facts(split, indices))
    return {key: share for key, share in right.items() if not np.isnan(share)}
