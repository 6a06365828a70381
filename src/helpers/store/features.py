"""Features of pictures as they are and of prompts, in chunks.

A killed run loses at most the chunk it was at.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from helpers.data.dataset import Dataset
from helpers.models import template_prompts
from helpers.models.clip import Backbone
from helpers.store.ahead import ahead
from helpers.store.chunks import in_chunks, seconds
from helpers.store.folders import folder

SHARD = 512  # rows per file: what a killed run can lose
BATCH = 64


def image_features(backbone: Backbone, dataset: Dataset) -> Tensor:
    """Unit features of the data set's images as they are, float32 [N, D] on the CPU."""

    def read(n: int) -> Tensor:
        return backbone.preprocess(dataset.image(n))

    def encode(rows: range) -> Iterator[tuple[Sequence[int], Tensor]]:
        images = ahead(read, rows, most=2 * BATCH - 1)
        while some := list(islice(images, BATCH)):
            positions, batch = zip(*some, strict=True)
            yield positions, backbone.encode_images(torch.stack(batch))

    label = f"encoding {dataset.name} with {backbone.name}"
    where = _image_folder(backbone, dataset)
    return in_chunks(where, len(dataset), encode, label, SHARD)


def seconds_per_image(backbone: Backbone, dataset: Dataset) -> float:
    """What reading, preprocessing and encoding cost when the features were made."""
    where = _image_folder(backbone, dataset)
    return seconds(where, len(dataset), SHARD) / len(dataset)


def template_features(
    backbone: Backbone, class_names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Unit features of every class in every template, float32 [K, C, D] on the CPU."""
    prompts = [t.format(name) for t in templates for name in class_names]

    def encode(rows: range) -> Iterator[tuple[range, Tensor]]:
        yield rows, backbone.encode_texts(prompts[rows.start : rows.stop])

    where = folder("texts", backbone.key, prompts)
    label = f"encoding prompts with {backbone.name}"
    features = in_chunks(where, len(prompts), encode, label, SHARD)
    return features.view(len(templates), len(class_names), -1)


def prompt_cosines(
    backbone: Backbone,
    dataset: Dataset,
    templates: Sequence[str],
    characters: int | None = None,
) -> Tensor:
    """Cosines float32 [N, C] of each image with the classes in its own template.

    There are N x C prompts, too many to keep the features of. Templates are those of
    `helpers.models.template_prompts`; images that share one share its encoding.
    `characters` cuts every prompt there.
    """
    if len(templates) != len(dataset):
        raise ValueError(
            f"{len(templates)} templates for {len(dataset)} images of {dataset.name}: "
            "each image needs its own"
        )
    images = image_features(backbone, dataset)
    order = sorted(range(len(dataset)), key=templates.__getitem__)  # equal ones meet

    def encode(span: range) -> Iterator[tuple[list[int], Tensor]]:
        of: dict[str, list[int]] = {}  # template -> places in the order
        for place in span:
            of.setdefault(templates[order[place]], []).append(place)
        distinct = list(of)
        for chosen, features in template_prompts.features(
            backbone, distinct, dataset.class_names, characters
        ):
            for position, texts in zip(chosen, features.cpu(), strict=True):
                places = of[distinct[position]]
                own = images[[order[place] for place in places]]
                # In float64, so that equal features give equal cosines.
                yield places, (own.double() @ texts.double().T).float()

    label = f"encoding {dataset.name}'s prompts with {backbone.name}"
    where = _prompt_folder(backbone, dataset, templates, characters)
    found = in_chunks(where, len(dataset), encode, label, SHARD)
    cosines = torch.empty_like(found)
    cosines[order] = found
    return cosines


def prompt_seconds_per_image(
    backbone: Backbone,
    dataset: Dataset,
    templates: Sequence[str],
    characters: int | None = None,
) -> float:
    """What encoding an image's prompts cost when the cosines were made."""
    where = _prompt_folder(backbone, dataset, templates, characters)
    return seconds(where, len(dataset), SHARD) / len(dataset)


def _image_folder(backbone: Backbone, dataset: Dataset) -> Path:
    return folder("images", backbone.key, dataset.key)


def _prompt_folder(
    backbone: Backbone,
    dataset: Dataset,
    templates: Sequence[str],
    characters: int | None,
) -> Path:
    return folder("prompts", backbone.key, dataset.key, templates, characters)
