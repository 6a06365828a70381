"""Features of pictures as they are and of prompts, in chunks.

A killed run loses at most the chunk it was at.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from helpers.bank import keys
from helpers.chunks import in_chunks, seconds
from helpers.data.dataset import Dataset
from helpers.models.clip import Backbone

SHARD = 512  # rows per file: what a killed run can lose
BATCH = 64
READERS = 4  # threads that decode images while the encoder works


def image_features(backbone: Backbone, dataset: Dataset) -> Tensor:
    """Unit features of the data set's images as they are, float32 [N, D] on the CPU."""

    def encode(rows: range) -> Iterator[tuple[range, Tensor]]:
        with ThreadPoolExecutor(READERS) as readers:
            for some, batch in _batches(readers, backbone, dataset, rows):
                yield some, backbone.encode_images(batch)

    label = f"encoding {dataset.name} with {backbone.name}"
    folder = _image_folder(backbone, dataset)
    return in_chunks(folder, len(dataset), encode, label, SHARD)


def seconds_per_image(backbone: Backbone, dataset: Dataset) -> float:
    """What reading, preprocessing and encoding cost when the features were made."""
    folder = _image_folder(backbone, dataset)
    return seconds(folder, len(dataset), SHARD) / len(dataset)


def template_features(
    backbone: Backbone, class_names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Unit features of every class in every template, float32 [K, C, D] on the CPU."""
    prompts = [t.format(name) for t in templates for name in class_names]

    def encode(rows: range) -> Iterator[tuple[range, Tensor]]:
        yield rows, backbone.encode_texts(prompts[rows.start : rows.stop])

    folder = keys.folder("texts", backbone, "\n".join(prompts))
    label = f"encoding prompts with {backbone.name}"
    features = in_chunks(folder, len(prompts), encode, label, SHARD)
    return features.view(len(templates), len(class_names), -1)


def _image_folder(backbone: Backbone, dataset: Dataset) -> Path:
    return keys.folder("images", backbone, keys.pictures(dataset))


def _batches(
    readers: ThreadPoolExecutor, backbone: Backbone, dataset: Dataset, rows: range
) -> Iterator[tuple[range, Tensor]]:
    """Preprocessed batches, the next one being read while one is encoded."""

    def read(i: int) -> Tensor:
        return backbone.preprocess(dataset.image(i))

    pending: list = []
    for start in range(rows.start, rows.stop, BATCH):
        some = range(start, min(start + BATCH, rows.stop))
        pending.append((some, [readers.submit(read, i) for i in some]))
        if len(pending) == 2:
            yield _stacked(*pending.pop(0))
    for batch in pending:
        yield _stacked(*batch)


def _stacked(rows: range, images: Sequence[Future]) -> tuple[range, Tensor]:
    return rows, torch.stack([image.result() for image in images])
