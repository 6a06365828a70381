"""The store's folders: `CACHE/store/KIND/KEY`, with a key of all inputs.

    kind        payload             inputs in its key
    images      features, chunks    backbone, data set
    texts       features, chunks    backbone, prompts
    prompts     cosines, chunks     backbone, data set, templates, characters
    views       features, rows      backbone, data set, recipe and its version, view
                                    count or the numbers of views, seed
    generated   features, rows      backbone, data set, diffusion model, its settings,
                                    view count, seed
    captions    lines of text       captioner and its settings
    pictures    keys of pixels      data set
    adapted     logits, chunks      method, settings, code, torch, views, text side
    contexts    learned context     backbone, data set, method, recipe, seed
    trained     checkpoint and log  backbone, pixels of the pool, tensors, settings
    picto       chunks              the world's hash, split and span, the tokenizer

A backbone counts with its weights, architecture, preprocessing, precision and kind of
device. A data set counts with its name, ids, labels and class names, and with the name,
size and modification time of each image file, so that an edited image gets a new key.
"""

from pathlib import Path

from helpers.keys import key
from helpers.paths import CACHE


def folder(kind: str, *made_by: object) -> Path:
    """The folder of what these inputs made, see `keys.key`; it may not exist."""
    return CACHE / "store" / kind / key(*made_by)
