"""Where the store keeps what: `CACHE/store/KIND/KEY`, the key of all that made it.

    kind        payload             its key is made of
    images      features, chunks    backbone, data set
    texts       features, chunks    backbone, prompts
    prompts     cosines, chunks     backbone, data set, templates, characters
    views       features, rows      backbone, data set, recipe and its version, view
                                    count, seed
    generated   features, rows      backbone, data set, diffusion model, its settings,
                                    view count, seed
    captions    lines of text       captioner and its settings
    pictures    keys of pixels      data set
    adapted     logits, chunks      method, settings, code, torch, views, text side
    contexts    learned context     backbone, data set, method, recipe, seed
    trained     checkpoint and log  backbone, pixels of the pool, tensors, settings
    picto       chunks              the world's hash, split and span, the tokenizer

A backbone is its weights, architecture, preprocessing, precision and kind of device. A
data set is its name, ids, labels and class names, and of each picture file the name,
size and time of change: a picture that was edited in place is another one.
"""

from pathlib import Path

from helpers.keys import key
from helpers.paths import CACHE


def folder(kind: str, *made_by: object) -> Path:
    """The folder of what these parts made, see `keys.key`; it need not be there."""
    return CACHE / "store" / kind / key(*made_by)
