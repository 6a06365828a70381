"""Safetensors files with a checksum of their content."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from helpers.files import replacing
from helpers.keys import key


def save(path: Path, tensors: Mapping[str, Tensor], **facts: str) -> None:
    """Write named tensors and `facts`, the file's metadata, completely or not at all.

    Raises:
        files.DiskFull: the disk is full.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    content = safetensors.save(tensors, {**facts, "checksum": key(tensors, facts)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file's tensors, on the CPU, and its metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if facts.pop("checksum", "") != key(tensors, facts):
        raise ValueError(f"{path} is damaged: its tensors do not fit their checksum")
    return tensors, facts
