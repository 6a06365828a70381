"""Captions, each stored under the key of its image.

An image is captioned once, even if several data sets or samples contain it. A caption
is a line of a file, a checksum and JSON. Lines are only appended, so a killed run loses
one batch.
"""

import json
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from PIL.Image import Image

from helpers.data.dataset import Dataset
from helpers.files import enough_room, replacing
from helpers.keys import folder, key
from helpers.progress import track

if TYPE_CHECKING:  # it imports transformers, which chapters without captions spare
    from helpers.models.captioner import Captioner

THREADS = 4  # that decode pictures


def captions(captioner: "Captioner", dataset: Dataset) -> pd.DataFrame:
    """A caption for every image; only images without a stored caption are captioned.

    Returns:
        A row per image: `image_id`, `caption`, and `seconds`, the time that captioning
        the image took when its caption was made.
    """
    store = folder("captions", captioner.key) / "captions.jsonl"
    (known, damaged), keys = _read(store), _known_keys(dataset)
    unsure = [i for i, name in enumerate(keys) if name not in known]

    def captioned() -> Iterator[int]:
        for positions, pictures in _batches(dataset, unsure, captioner.batch):
            for i, picture in zip(positions, pictures, strict=True):
                keys[i] = key(picture)
            fresh = dict(zip((keys[i] for i in positions), pictures, strict=True))
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
        if damaged:
            print(f"{damaged} captions of {captioner.name} unfinished or damaged")
        label = f"captioning {dataset.name} with {captioner.name}"
        for _ in track(captioned(), len(unsure), label):
            pass
        with replacing(_key_file(dataset)) as temporary:
            temporary.write_text(json.dumps(keys))
    rows = [(id_, *known[h]) for id_, h in zip(dataset.ids, keys, strict=True)]
    return pd.DataFrame(rows, columns=["image_id", "caption", "seconds"])


def _key_file(dataset: Dataset) -> Path:
    return folder("pictures", dataset.key) / "keys.json"


def _known_keys(dataset: Dataset) -> list[str]:
    """The images' keys, "" for each if the data set is new; opens no image."""
    new = [""] * len(dataset)
    try:
        found = json.loads(_key_file(dataset).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return new
    fits = isinstance(found, list) and len(found) == len(dataset)
    return [str(name) for name in found] if fits else new


def _read(store: Path) -> tuple[dict[str, tuple[str, float]], int]:
    """Key -> (caption, seconds), and how many lines are unfinished or damaged."""
    known, damaged = {}, 0
    for line in store.read_bytes().splitlines() if store.is_file() else []:
        checksum, _, row = line.partition(b" ")
        if checksum == _checksum(row):
            name, caption, seconds = json.loads(row)
            known[name] = caption, seconds
        else:
            damaged += bool(line)
    return known, damaged


def _append(store: Path, rows: dict[str, tuple[str, float]]) -> None:
    """Append in one write that starts a new line, after a possibly unfinished one."""
    store.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps([name, *row]).encode() for name, row in rows.items()]
    lines = [_checksum(line) + b" " + line for line in lines]
    text = b"\n".join([b"", *lines, b""])
    with enough_room(store), store.open("ab", buffering=0) as file:
        while text:  # one write, unless the disk is about to be full
            text = text[file.write(text) :]


def _checksum(line: bytes) -> bytes:
    return f"{zlib.crc32(line):08x}".encode()


def _batches(
    dataset: Dataset, positions: Sequence[int], size: int
) -> Iterator[tuple[Sequence[int], list[Image]]]:
    """Positions and images of each batch.

    Images are not read while the captioner works: both are thousands of small Python
    steps, which run several times faster in turns than side by side.
    """
    with ThreadPoolExecutor(THREADS) as threads:
        for start in range(0, len(positions), size):
            batch = positions[start : start + size]
            yield batch, list(threads.map(dataset.image, batch))
