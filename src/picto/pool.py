"""Rendered pictures and tokenised captions, made once per machine, for training."""

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from functools import cache, partial
from multiprocessing import get_context

import numpy as np
import open_clip
import pandas as pd
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from helpers.keys import folder
from helpers.models import embedded
from helpers.progress import track
from helpers.store.chunks import in_chunks
from picto import captions, numerals, splits

CAPTIONS_EACH = 4
SCENES_PER_NUMERAL = 20
TOKENS = 48
CHUNK = 500
DRAWN = 8000  # pictures in a file, 100 MB


def training_pool(images: int) -> tuple[np.ndarray, np.ndarray]:
    """The first pictures of `train`, then a numeral for every twenty of them, uint8
    [N, 64, 64, 3], and their captions' token ids, int16 [N, 4, 48]."""
    merges = embedded.MERGES.read_bytes()
    where = folder("picto", "captions", images, world_hash(), merges)
    written = range(images // SCENES_PER_NUMERAL)

    def tokens(rows: range) -> Iterator[tuple[range, Tensor]]:
        spoken = on_all_cores(_tokenise, range(images), "captions")
        found = np.concatenate([*spoken, _tokenise_numerals(written)])
        yield rows, torch.from_numpy(found)

    count = images + len(written)
    ids = in_chunks(where, count, tokens, "token ids", size=count)
    pictures = [
        render("train", range(images)),
        *(numerals.image(i)[None] for i in written),
    ]
    return np.concatenate(pictures), ids.numpy()


def training_labels(images: int) -> np.ndarray:
    """The class of each row of `training_pool`, int64 [N]: a scene's label, or one of
    ten more for the numerals."""
    written = range(images // SCENES_PER_NUMERAL)

    def labels(rows: range) -> Iterator[tuple[range, Tensor]]:
        scenes = np.concatenate(on_all_cores(_scene_labels, range(images), "labels"))
        digits = np.arange(len(written)) % len(numerals.NAMES)
        found = np.concatenate([scenes, len(splits.CLASS_NAMES) + digits])
        yield rows, torch.from_numpy(found)

    where = folder("picto", "labels", images, world_hash())
    count = images + len(written)
    return in_chunks(where, count, labels, "labels", size=count).numpy()


def render(split: str, indices: range) -> np.ndarray:
    """Pictures of a split, uint8 [N, 64, 64, 3]: drawn on all cores on the first call,
    read from disk after that."""

    def draw(rows: range) -> Iterator[tuple[range, Tensor]]:
        some = indices[rows.start : rows.stop]
        drawn = on_all_cores(partial(splits.images, split), some, f"drawing {split}")
        yield rows, torch.from_numpy(np.concatenate(drawn))

    where = folder("picto", split, indices.start, indices.stop, world_hash())
    return in_chunks(where, len(indices), draw, f"pictures of {split}", DRAWN).numpy()


@cache
def dev_pool() -> tuple[np.ndarray, pd.DataFrame]:
    """All pictures of picto-dev, uint8 [N, 64, 64, 3], with their label and part."""
    indices = range(splits.SPLITS["picto-dev"].size)
    scenes = [splits.scene("picto-dev", i) for i in indices]
    parts = [splits.DEV_PARTS[i % len(splits.DEV_PARTS)] for i in indices]
    facts = pd.DataFrame({"label": [s.label for s in scenes], "part": parts})
    return render("picto-dev", indices), facts


def normalise(pictures: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W], scaled as CLIP expects."""
    return standardise(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)


def standardise(x: Tensor) -> Tensor:
    """Values of [0, 1], float32 [B, 3, H, W], scaled as CLIP expects."""
    mean = torch.tensor(OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(OPENAI_DATASET_STD).view(3, 1, 1)
    return (x - mean) / std


@cache
def world_hash() -> str:
    """A short hash of what the world draws and says here: it changes with the recipe
    and with a Pillow that rasterises differently."""
    digest = hashlib.sha256()
    for name in ("train", "picto", "picto-r", "picto-c", "hard-pool"):
        for index in range(24):
            digest.update(splits.image(name, index).tobytes())
            digest.update(captions_of(name, index)[0].encode())
    for index in range(20):
        digest.update(numerals.image(index).tobytes())
        digest.update(numerals.captions(index, 1)[0].encode())
    return digest.hexdigest()[:12]


def captions_of(split: str, index: int) -> list[str]:
    """The captions that training pairs with a picture."""
    scene = splits.scene(split, index)
    rng = random.Random(f"captions/{split}/{index}")
    return [captions.caption(scene, rng) for _ in range(CAPTIONS_EACH)]


def _scene_labels(indices: Sequence[int]) -> np.ndarray:
    return np.array([splits.scene("train", i).label for i in indices])


def _tokenise(indices: Sequence[int]) -> np.ndarray:
    return _token_ids([captions_of("train", i) for i in indices])


def _tokenise_numerals(indices: Sequence[int]) -> np.ndarray:
    return _token_ids([numerals.captions(i, CAPTIONS_EACH) for i in indices])


def _token_ids(texts: list[list[str]]) -> np.ndarray:
    tokenizer = open_clip.SimpleTokenizer(
        bpe_path=str(embedded.MERGES), context_length=TOKENS
    )
    tokens = tokenizer([text for each in texts for text in each])
    return tokens.numpy().astype(np.int16).reshape(len(texts), CAPTIONS_EACH, TOKENS)


def on_all_cores(work, indices: range, label: str) -> list[np.ndarray]:
    """Run `work` on chunks of the indices, on all cores; results in order."""
    chunks = [indices[i : i + CHUNK] for i in range(0, len(indices), CHUNK)]
    if len(chunks) == 1:
        return [work(indices)]
    with get_context("spawn").Pool(os.cpu_count()) as workers:
        return list(track(workers.imap(work, chunks), len(chunks), label))
