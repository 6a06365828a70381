"""Cosines of pictures with prompts of their own, kept on disk like features.

With a template per image there are N x C prompts, too many to keep the features of; a
picture needs the C cosines with its own.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from helpers.bank import keys, shards
from helpers.chunks import in_chunks, seconds
from helpers.data.dataset import Dataset
from helpers.models import template_prompts
from helpers.models.clip import Backbone


def prompt_cosines(
    backbone: Backbone,
    dataset: Dataset,
    templates: Sequence[str],
    characters: int | None = None,
) -> Tensor:
    """Cosines float32 [N, C] of each image with the classes in its own template.

    See `helpers.models.template_prompts` for templates; images that share one share its
    encoding. `characters` cuts every prompt there.
    """
    if len(templates) != len(dataset):
        raise ValueError(
            f"{len(templates)} templates for {len(dataset)} images of {dataset.name}: "
            "each image needs its own"
        )
    images = shards.image_features(backbone, dataset)
    order = sorted(range(len(dataset)), key=templates.__getitem__)  # equal ones meet

    def encode(span: range) -> Iterator[tuple[list[int], Tensor]]:
        of = {}  # template -> places in the order
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
    folder = _folder(backbone, dataset, templates, characters)
    found = in_chunks(folder, len(dataset), encode, label, shards.SHARD)
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
    folder = _folder(backbone, dataset, templates, characters)
    return seconds(folder, len(dataset), shards.SHARD) / len(dataset)


def _folder(
    backbone: Backbone,
    dataset: Dataset,
    templates: Sequence[str],
    characters: int | None,
) -> Path:
    names = "\n".join(dataset.class_names)
    content = "\n".join([keys.pictures(dataset), names, f"{characters}", *templates])
    return keys.folder("prompts", backbone, content)
