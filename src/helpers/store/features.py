"""Features of images and prompts, in chunks."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from helpers.data.dataset import Dataset
from helpers.keys import folder
from helpers.models import template_prompts
from helpers.models.clip import Backbone
from helpers.parallel import prefetch
from helpers.store.chunks import in_chunks, seconds

SHARD = 512  # rows per file: the most that a killed run loses
BATCH = 64


def image_features(backbone: Backbone, dataset: Dataset) -> Tensor:
    """Unit features of all images, unaugmented: float32 [N, D] on the CPU."""

    def read(n: int) -> Tensor:
        return backbone.preprocess(dataset.image(n))

    def encode(rows: range) -> Iterator[tuple[Sequence[int], Tensor]]:
        images = prefetch(read, rows, most=2 * BATCH - 1)
        while some := list(islice(images, BATCH)):
            positions, batch = zip(*some, strict=True)
            yield positions, backbone.encode_images(torch.stack(batch))

    label = f"encoding {dataset.name} with {backbone.name}"
    where = folder("images", backbone.key, dataset.key)
    return in_chunks(where, len(dataset), encode, label, SHARD)


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
    like: Sequence[str] | None = None,
) -> Tensor:
    """Cosines float32 [N, C] of each image with the classes in its own template.

    The features of N x C prompts would be too large to store. Images that share a
    template share its encoding.

    Args:
        templates: one for each image, as in `helpers.models.template_prompts`.
        characters: cuts every prompt to this length, if given.
        like: other templates for the same images; an image whose template is the same
            there has its cosines from there.

    Raises:
        ValueError: not one template for each image.
    """
    if len(templates) != len(dataset):
        raise ValueError(
            f"{len(templates)} templates for {len(dataset)} images of {dataset.name}: "
            "each image needs its own"
        )
    images = image_features(backbone, dataset)
    cosines = torch.empty(len(dataset), len(dataset.class_names))
    rows = [i for i, t in enumerate(templates) if like is None or t != like[i]]
    if like is not None:
        cosines = prompt_cosines(backbone, dataset, like, characters)
    # Images of equal templates come together.
    order = sorted(rows, key=templates.__getitem__)

    def encode(span: range) -> Iterator[tuple[list[int], Tensor]]:
        rows_of: dict[str, list[int]] = {}  # template -> positions in the order
        for row in span:
            rows_of.setdefault(templates[order[row]], []).append(row)
        distinct = list(rows_of)
        for chosen, features in template_prompts.features(
            backbone, distinct, dataset.class_names, characters
        ):
            for position, texts in zip(chosen, features.cpu(), strict=True):
                rows = rows_of[distinct[position]]
                own = images[[order[row] for row in rows]]
                # In float64, so that equal features give equal cosines.
                yield rows, (own.double() @ texts.double().T).float()

    label = f"encoding {dataset.name}'s prompts with {backbone.name}"
    where = _prompt_folder(backbone, dataset, templates, characters, like)
    if order:
        cosines[order] = in_chunks(where, len(order), encode, label, SHARD)
    return cosines


def prompt_seconds_per_image(
    backbone: Backbone, dataset: Dataset, templates: Sequence[str]
) -> float:
    """Seconds to encode an image's prompts when the cosines were made."""
    where = _prompt_folder(backbone, dataset, templates)
    return seconds(where, len(dataset), SHARD) / len(dataset)


def _prompt_folder(
    backbone: Backbone,
    dataset: Dataset,
    templates: Sequence[str],
    characters: int | None = None,
    like: Sequence[str] | None = None,
) -> Path:
    return folder("prompts", backbone.key, dataset.key, templates, characters, like)
