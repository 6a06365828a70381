"""Features computed once and kept on disk.

Encoders are the expensive part of every chapter and their output depends on nothing
but weights, precision and input. So features are written in shards under a key of all
that made them: a second run reads them, a changed model or data set misses them, and a
killed run loses at most the shard it was writing.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.data.dataset import Dataset
from helpers.models.clip import Backbone
from helpers.paths import CACHE
from helpers.progress import track

SHARD = 512  # rows per file: what a killed run can lose
BATCH = 64
READERS = 4  # threads that decode images while the encoder works


def image_features(backbone: Backbone, dataset: Dataset) -> Tensor:
    """Unit features of the data set's images as they are, float32 [N, D] on the CPU."""
    with ThreadPoolExecutor(READERS) as readers:

        def encode(rows: range) -> Iterator[Tensor]:
            for batch in _batches(readers, backbone, dataset, rows):
                yield backbone.encode_images(batch).cpu()

        key = _key("images", backbone, dataset.fingerprint)
        label = f"encoding {dataset.name} with {backbone.name}"
        return _shards(CACHE / "bank" / key, len(dataset), encode, label)


def template_features(
    backbone: Backbone, class_names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Unit features of every class in every template, float32 [K, C, D] on the CPU."""
    prompts = [t.format(name) for t in templates for name in class_names]

    def encode(rows: range) -> Iterator[Tensor]:
        yield backbone.encode_texts(prompts[rows.start : rows.stop]).cpu()

    key = _key("texts", backbone, "\n".join(prompts))
    label = f"encoding prompts with {backbone.name}"
    features = _shards(CACHE / "bank" / key, len(prompts), encode, label)
    return features.view(len(templates), len(class_names), -1)


def _key(kind: str, backbone: Backbone, content: str) -> str:
    made_by = f"{kind}|{backbone.fingerprint}|{backbone.precision}|{content}"
    return f"{kind}-{hashlib.sha256(made_by.encode()).hexdigest()[:20]}"


def _shards(
    folder: Path, rows: int, encode: Callable[[range], Iterator[Tensor]], label: str
) -> Tensor:
    """All rows, from the shards on disk and, for those that are not there, `encode`."""
    folder.mkdir(parents=True, exist_ok=True)
    spans = [range(i, min(i + SHARD, rows)) for i in range(0, rows, SHARD)]
    paths = {span: folder / f"{span.start:07d}.safetensors" for span in spans}
    found = {span: _read(path, len(span)) for span, path in paths.items()}
    missing = [span for span in spans if found[span] is None]

    def encoded() -> Iterator[int]:
        for span in missing:
            parts = []
            for part in encode(span):
                parts.append(part)
                yield from range(len(part))
            found[span] = torch.cat(parts)
            _write(paths[span], found[span])

    if missing:
        for _ in track(encoded(), sum(map(len, missing)), label):
            pass
    return torch.cat([found[span] for span in spans])


def _read(path: Path, rows: int) -> Tensor | None:
    """A shard, or None where it is missing or damaged and so must be made again."""
    try:
        features = load_file(path)["features"]
    except (FileNotFoundError, SafetensorError, KeyError):
        return None
    return features if len(features) == rows else None


def _write(path: Path, features: Tensor) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({"features": features.contiguous()}, temporary)
    temporary.replace(path)


def _batches(
    readers: ThreadPoolExecutor, backbone: Backbone, dataset: Dataset, rows: range
) -> Iterator[Tensor]:
    """Preprocessed batches, the next one being read while one is encoded."""

    def read(i: int) -> Tensor:
        return backbone.preprocess(dataset.image(i))

    pending: list = []
    for start in range(rows.start, rows.stop, BATCH):
        stop = min(start + BATCH, rows.stop)
        pending.append([readers.submit(read, i) for i in range(start, stop)])
        if len(pending) == 2:
            yield torch.stack([image.result() for image in pending.pop(0)])
    for batch in pending:
        yield torch.stack([image.result() for image in batch])
