"""The store's key function: a hash of everything that a stored result depends on."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
