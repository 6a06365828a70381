"""One key function: what is computed once is found by a key of all that made it."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

PLAIN = (bool, int, float, str, bytes, type(None))


def key(*parts: object) -> str:
    """A hash, 20 hexadecimal digits, of the parts' types and values.

    Args:
        parts: plain values and text; tensors and arrays (type, shape, numbers); PIL
            pictures (mode, size, pixels); paths, which stand for the file's name, size
            and time of change; mappings, whatever their order; other iterables of
            parts, in their order.

    Raises:
        FileNotFoundError: a path leads nowhere.
        TypeError: a part is of another type, a function say.
    """
    digest = hashlib.sha256()
    _feed(digest, parts)
    return digest.hexdigest()[:20]


def state(path: Path) -> list[int]:
    """Size in bytes and time of change in ns of a file: other ones, another file."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _feed(digest: "hashlib._Hash", part: object) -> None:
    """Add a part in such a way that no two parts add the same bytes."""
    if isinstance(part, PLAIN):
        content = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(f"{type(part).__name__} {len(content)} ".encode() + content)
    elif isinstance(part, Path):
        _feed(digest, [part.name, *state(part)])
    elif isinstance(part, np.ndarray | np.generic):
        array = np.asarray(part)
        if array.dtype.hasobject:
            raise TypeError("arrays of objects have no key")
        _feed(digest, f"{array.dtype.str} {array.shape}")
        digest.update(array.tobytes())
    elif isinstance(part, Mapping):
        _feed(digest, sorted(part.items()))
    elif hasattr(part, "untyped_storage"):  # a tensor; text and files need no torch
        from torch import uint8

        flat = part.detach().cpu().contiguous().flatten()
        _feed(digest, f"{part.dtype} {tuple(part.shape)}")
        digest.update(flat.view(uint8).numpy())
    elif hasattr(part, "tobytes"):
        _feed(digest, f"{part.mode} {part.size}")
        digest.update(part.tobytes())
    elif isinstance(part, Iterable) and not isinstance(part, set | frozenset):
        digest.update(b"(")
        for item in part:
            _feed(digest, item)
        digest.update(b")")
    else:
        raise TypeError(f"{type(part).__name__} has no key")
