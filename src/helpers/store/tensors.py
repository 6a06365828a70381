"""Safetensors files that know whether they are whole, by a checksum of their own."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from helpers.files import replacing
from helpers.keys import key


def save(path: Path, tensors: Mapping[str, Tensor], **facts: str) -> None:
    """Write tensors by name, and facts beside them, whole or not at all.

    Raises `files.DiskFull` where the disk is full.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    content = safetensors.save(tensors, {**facts, "checksum": key(tensors, facts)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the facts of a file.

    Raises FileNotFoundError, and ValueError for a damaged file.
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
