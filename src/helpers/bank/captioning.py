"""Captions, each kept under the hash of its picture.

A picture is captioned once, however many data sets and samples hold it. Captions are
lines of JSON that are only ever appended, so that a killed run loses one batch.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from PIL.Image import Image

from helpers.bank import keys
from helpers.data.dataset import Dataset
from helpers.files import replacing
from helpers.paths import CACHE
from helpers.progress import track

if TYPE_CHECKING:  # it imports transformers, which chapters without captions spare
    from helpers.models.captioner import Captioner

READERS = 4  # threads that decode pictures


def captions(captioner: "Captioner", dataset: Dataset) -> pd.DataFrame:
    """A caption for every picture, from disk where it was captioned before.

    Columns, a row per id: `image_id`, `caption`, and `seconds`, what captioning the
    picture took when that was done.
    """
    store = CACHE / "captions" / f"{_short_hash(captioner.key)}.jsonl"
    known, hashes = _read(store), _known_hashes(dataset)
    unsure = [i for i, name in enumerate(hashes) if name not in known]

    def captioned() -> Iterator[int]:
        for positions, pictures in _batches(dataset, unsure, captioner.batch):
            for i, picture in zip(positions, pictures, strict=True):
                hashes[i] = picture_hash(picture)
            fresh = dict(zip((hashes[i] for i in positions), pictures, strict=True))
            fresh = {k: picture for k, picture in fresh.items() if k not in known}
            if fresh:
                began = time.perf_counter()
                texts = captioner(list(fresh.values()))
                seconds = (time.perf_counter() - began) / len(fresh)
                pairs = zip(fresh, texts, strict=True)
                rows = {name: (text, seconds) for name, text in pairs}
                _append(store, rows)
                known.update(rows)
            yield from positions

    if unsure:
        label = f"captioning {dataset.name} with {captioner.name}"
        for _ in track(captioned(), len(unsure), label):
            pass
        with replacing(_hash_file(dataset)) as temporary:
            temporary.write_text(json.dumps(hashes))
    rows = [(id_, *known[h]) for id_, h in zip(dataset.ids, hashes, strict=True)]
    return pd.DataFrame(rows, columns=["image_id", "caption", "seconds"])


def picture_hash(picture: Image) -> str:
    """What names a picture: its size and its pixels."""
    digest = hashlib.sha256(f"{picture.mode}{picture.size}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()[:24]


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _hash_file(dataset: Dataset) -> Path:
    name = _short_hash(keys.pictures(dataset))
    return CACHE / "captions" / f"pictures-{name}.json"


def _known_hashes(dataset: Dataset) -> list[str]:
    """The pictures' hashes, empty where the data set is new: no picture is opened."""
    path = _hash_file(dataset)
    return json.loads(path.read_text()) if path.is_file() else [""] * len(dataset)


def _read(store: Path) -> dict[str, tuple[str, float]]:
    """Hash -> (caption, seconds), without lines that a killed run left unfinished."""
    known = {}
    if store.is_file():
        for line in store.read_text(encoding="utf-8").splitlines():
            try:
                name, caption, seconds = json.loads(line)
            except ValueError:
                continue
            known[name] = caption, seconds
    return known


def _append(store: Path, rows: dict[str, tuple[str, float]]) -> None:
    """One write, begun on a line of its own whatever an earlier run left."""
    store.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps([name, *row]) for name, row in rows.items()]
    text = "\n".join(["", *lines, ""])
    file = os.open(store, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _batches(
    dataset: Dataset, positions: Sequence[int], size: int
) -> Iterator[tuple[Sequence[int], list[Image]]]:
    """Positions and pictures, so many at once.

    They are not read while the captioner works: both are Python, thousands of small
    steps, and in turns they are several times faster than side by side.
    """
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(positions), size):
            batch = positions[start : start + size]
            yield batch, list(readers.map(dataset.image, batch))
