"""Cosines of pictures with prompts of their own, kept on disk like features.

With a template per image there are N x C prompts, too many to keep the features of; a
picture needs the C cosines with its own.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from helpers.bank import keys, shards
from helpers.data.dataset import Dataset
from helpers.models import slots
from helpers.models.clip import Backbone
from helpers.progress import track


def prompt_cosines(
    backbone: Backbone,
    dataset: Dataset,
    templates: Sequence[str],
    characters: int | None = None,
) -> Tensor:
    """Cosines float32 [N, C] of each image with the classes in its own template.

    Templates are those of `helpers.models.slots`; images that share one share its
    encoding. `characters` cuts every prompt there.
    """
    if len(templates) != len(dataset):
        raise ValueError(
            f"{len(templates)} templates for {len(dataset)} images of {dataset.name}: "
            "each image needs its own"
        )
    images = shards.image_features(backbone, dataset)
    order = sorted(range(len(dataset)), key=templates.__getitem__)  # equal ones meet
    files = _files(backbone, dataset, templates, characters)
    found = {span: shards._read(path, len(span)) for span, path in files.items()}
    missing = [span for span, cosines in found.items() if cosines is None]

    def encoded() -> Iterator[int]:
        for span in missing:
            began, rows = time.perf_counter(), order[span.start : span.stop]
            cosines = torch.empty(len(span), len(dataset.class_names))
            of = {}  # template -> places in the span
            for place, row in enumerate(rows):
                of.setdefault(templates[row], []).append(place)
            distinct = list(of)
            for chosen, features in slots.features(
                backbone, distinct, dataset.class_names, characters
            ):
                for position, texts in zip(chosen, features.cpu(), strict=True):
                    places = of[distinct[position]]
                    own = images[[rows[place] for place in places]]
                    # In float64, so that equal features give equal cosines.
                    cosines[places] = (own.double() @ texts.double().T).float()
                    yield from places
            found[span] = cosines
            shards._write(files[span], cosines, time.perf_counter() - began)

    if missing:
        label = f"encoding {dataset.name}'s prompts with {backbone.name}"
        for _ in track(encoded(), sum(map(len, missing)), label):
            pass
    cosines = torch.empty(len(dataset), len(dataset.class_names))
    cosines[order] = torch.cat([found[span] for span in files])
    return cosines


def prompt_seconds_per_image(
    backbone: Backbone,
    dataset: Dataset,
    templates: Sequence[str],
    characters: int | None = None,
) -> float:
    """What encoding an image's prompts cost when the cosines were made."""
    files = _files(backbone, dataset, templates, characters).values()
    return sum(map(shards._seconds, files)) / len(dataset)


def _files(
    backbone: Backbone,
    dataset: Dataset,
    templates: Sequence[str],
    characters: int | None,
) -> dict[range, Path]:
    names = "\n".join(dataset.class_names)
    content = "\n".join([keys.pictures(dataset), names, f"{characters}", *templates])
    folder = keys.folder("prompts", backbone, content)
    return shards._shards(folder, len(dataset))
