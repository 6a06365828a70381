"""Rows of tensors in chunk files; a killed run loses only the chunk at work.

A chunk is a safetensors file with the rows of a span, the seconds they took and a
checksum (`save`, `load`). Damaged chunks are made again. The folder's name, a key of
all inputs, identifies the rows. Two processes that fill one folder write the same rows.

Why no library: caches such as joblib's store the result of a whole call, which a killed
run loses. Zarr would write and check such chunks, but the loop that finds, makes and
times the missing ones would still be ours.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from helpers import parallel
from helpers.files import replacing
from helpers.keys import key
from helpers.progress import track

Work = Callable[[range], Iterator[tuple[Sequence[int], Tensor]]]
"""A span -> batches of its rows, numbers and values; workers may run it."""


def in_chunks(folder: Path, rows: int, work: Work, label: str, size: int) -> Tensor:
    """The rows of `timed`."""
    return timed(folder, rows, work, label, size)[0]


def timed(
    folder: Path, rows: int, work: Work, label: str, size: int
) -> tuple[Tensor, float]:
    """All rows [rows, ...] on the CPU, read from `folder`, or else made by `work`.

    Also the seconds that they took when they were made.

    Args:
        folder: holds the chunk files; made if needed.
        rows: number of rows.
        work: makes the rows of a span.
        label: describes the work beside its progress.
        size: rows per file.

    Raises:
        files.DiskFull: the disk is full.
    """
    files = _files(folder, rows, size)
    found: dict[range, tuple[Tensor, float]] = {}
    for span, path in files.items():
        if chunk := _read(path, span):
            found[span] = chunk
    missing = [span for span in files if span not in found]
    damaged = sum(files[span].exists() for span in missing)
    if damaged:
        print(f"{damaged} of {len(files)} files of {folder.name} damaged: made again")

    def alone() -> Iterator[int]:
        for span in missing:
            chunk = _read(files[span], span)  # another process may have made it
            if chunk is None:
                chunk = yield from _gather(work, span)
                _write(files[span], *chunk)
            found[span] = chunk

    if parallel.active():
        for span, chunk in parallel.spread(partial(_gathered, work), missing, label):
            found[span] = chunk
            _write(files[span], *chunk)
    elif missing:
        for _ in track(alone(), sum(map(len, missing)), label):
            pass
    chunks = [found[span] for span in files]
    return torch.cat([rows for rows, _ in chunks]), sum(spent for _, spent in chunks)


def seconds(folder: Path, rows: int, size: int) -> float:
    """The seconds that all rows took when they were made.

    Raises:
        FileNotFoundError: they have not been made.
        ValueError: a chunk is damaged.
    """
    files = _files(folder, rows, size).values()
    return sum(float(load(path)[1]["seconds"]) for path in files)


def _files(folder: Path, rows: int, size: int) -> dict[range, Path]:
    """The chunk file of each span, whether or not it exists."""
    spans = [range(i, min(i + size, rows)) for i in range(0, rows, size)]
    return {s: folder / f"{s.start:07d}-{s.stop:07d}.safetensors" for s in spans}


def _gather(work: Work, span: range) -> Generator[int, None, tuple[Tensor, float]]:
    """Yield each row's number when it is done; return the rows and their seconds."""
    began = time.perf_counter()
    whole = torch.empty(0)
    for numbers, rows in work(span):
        if not len(whole):
            whole = rows.new_empty((len(span), *rows.shape[1:]), device="cpu")
        whole[torch.as_tensor(numbers) - span.start] = rows.cpu()
        yield from numbers
    return whole, time.perf_counter() - began


def _gathered(work: Work, span: range) -> tuple[Tensor, float]:
    """The rows of a span and their seconds."""
    steps = _gather(work, span)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _read(path: Path, span: range) -> tuple[Tensor, float] | None:
    """The rows and seconds of a chunk, or None if it is missing or damaged."""
    try:
        found, facts = load(path)
    except (FileNotFoundError, ValueError):
        return None
    rows = found.get("rows", torch.empty(0))
    return (rows, float(facts["seconds"])) if len(rows) == len(span) else None


def _write(path: Path, rows: Tensor, spent: float) -> None:
    save(path, {"rows": rows}, seconds=repr(spent))


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
