"""The store's keys: a hash of everything that a stored result depends on.

A result lies in the folder `CACHE/store/KIND/KEY`, with a key of all inputs:

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

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from helpers.paths import CACHE

PLAIN = (bool, int, float, str, bytes, type(None))


def key(*parts: object) -> str:
    """A hash of the parts' types and values: 20 hexadecimal digits.

    Args:
        parts: plain values and text; tensors and arrays (dtype, shape, values); PIL
            images (mode, size, pixels); paths (the file's name, size and modification
            time); mappings, in any order; other iterables of parts, in their order.

    Raises:
        FileNotFoundError: a path does not exist.
        TypeError: a part has another type, such as a function or a set.
    """
    digest = hashlib.sha256()
    _feed(digest, parts)
    return digest.hexdigest()[:20]


def folder(kind: str, *made_by: object) -> Path:
    """The folder of what these inputs made; it may not exist."""
    return CACHE / "store" / kind / key(*made_by)


def state(path: Path) -> list[int]:
    """A file's size in bytes and modification time in ns, to notice that it changed."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _feed(digest: "hashlib._Hash", part: Any) -> None:
    """Add a part to the hash; different parts never add the same bytes."""
    if isinstance(part, PLAIN):
        content = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(f"{type(part).__name__} {len(content)} ".encode() + content)
    elif isinstance(part, Path):
        _feed(digest, [part.name, *state(part)])
    elif isinstance(part, Mapping):
        _feed(digest, sorted(part.items()))
    elif hasattr(part, "untyped_storage"):  # a tensor; `study list` loads no torch
        from torch import uint8

        flat = part.detach().cpu().contiguous().flatten()
        _feed(digest, f"{part.dtype} {tuple(part.shape)}")
        digest.update(flat.view(uint8).numpy())
    elif hasattr(part, "dtype") and hasattr(part, "tobytes"):  # NumPy's
        if part.dtype.hasobject:
            raise TypeError("arrays of objects have no key")
        _feed(digest, f"{part.dtype.str} {part.shape}")
        digest.update(part.tobytes())
    elif hasattr(part, "tobytes"):  # a PIL picture
        _feed(digest, f"{part.mode} {part.size}")
        digest.update(part.tobytes())
    elif isinstance(part, Iterable) and not isinstance(part, set | frozenset):
        digest.update(b"(")
        for item in part:
            _feed(digest, item)
        digest.update(b")")
    else:
        raise TypeError(f"{type(part).__name__} has no key")
