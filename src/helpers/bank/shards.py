"""Features of pictures as they are and of prompts, in shards of safetensors.

A killed run loses at most the shard it was writing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from helpers.bank import keys
from helpers.data.dataset import Dataset
from helpers.files import replacing
from helpers.models.clip import Backbone
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

        label = f"encoding {dataset.name} with {backbone.name}"
        shards = _shards(_image_folder(backbone, dataset), len(dataset))
        return _fill(shards, encode, label)


def seconds_per_image(backbone: Backbone, dataset: Dataset) -> float:
    """What reading, preprocessing and encoding cost when the features were made."""
    paths = _shards(_image_folder(backbone, dataset), len(dataset)).values()
    return sum(map(_seconds, paths)) / len(dataset)


def template_features(
    backbone: Backbone, class_names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Unit features of every class in every template, float32 [K, C, D] on the CPU."""
    prompts = [t.format(name) for t in templates for name in class_names]

    def encode(rows: range) -> Iterator[Tensor]:
        yield backbone.encode_texts(prompts[rows.start : rows.stop]).cpu()

    folder = keys.folder("texts", backbone, "\n".join(prompts))
    label = f"encoding prompts with {backbone.name}"
    features = _fill(_shards(folder, len(prompts)), encode, label)
    return features.view(len(templates), len(class_names), -1)


def _image_folder(backbone: Backbone, dataset: Dataset) -> Path:
    return keys.folder("images", backbone, keys.pictures(dataset))


def _shards(folder: Path, rows: int) -> dict[range, Path]:
    """The files that hold so many rows, written or not."""
    spans = [range(i, min(i + SHARD, rows)) for i in range(0, rows, SHARD)]
    return {span: folder / f"{span.start:07d}.safetensors" for span in spans}


def _fill(
    shards: dict[range, Path], encode: Callable[[range], Iterator[Tensor]], label: str
) -> Tensor:
    """All rows, from the shards on disk and, for those that are not there, `encode`."""
    found = {span: _read(path, len(span)) for span, path in shards.items()}
    missing = [span for span, features in found.items() if features is None]

    def encoded() -> Iterator[int]:
        for span in missing:
            began, parts = time.perf_counter(), []
            for part in encode(span):
                parts.append(part)
                yield from range(len(part))
            found[span] = torch.cat(parts)
            _write(shards[span], found[span], time.perf_counter() - began)

    if missing:
        for _ in track(encoded(), sum(map(len, missing)), label):
            pass
    return torch.cat([found[span] for span in shards])


def _read(path: Path, rows: int) -> Tensor | None:
    """A shard, or None where it is missing or damaged and so must be made again."""
    try:
        with safe_open(path, "pt") as shard:
            features, facts = shard.get_tensor("features"), shard.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return None
    return features if len(features) == rows and "seconds" in facts else None


def _seconds(path: Path) -> float:
    with safe_open(path, "pt") as shard:
        return float(shard.metadata()["seconds"])


def _write(path: Path, features: Tensor, seconds: float) -> None:
    with replacing(path) as temporary:
        tensors, facts = {"features": features.contiguous()}, {"seconds": f"{seconds}"}
        save_file(tensors, temporary, metadata=facts)


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
