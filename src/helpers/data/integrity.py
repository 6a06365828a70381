"""Decode every picture of a data set once, before work starts.

A damaged file must neither end a run after an hour nor change which pictures a later
method sees. So `readable` decodes all picture files in threads and leaves out the
damaged ones. CACHE/verified/ keeps path, size and modification time of sound files,
which are decoded again only when they change. Damaged files are tried again each time.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from helpers.data.dataset import Dataset, UnreadableImage, open_image, to_rgb
from helpers.files import replacing
from helpers.keys import key, state
from helpers.paths import CACHE
from helpers.progress import track

SHOWN_FROM = 1000  # files; fewer are checked before a bar would help
# Aspect ratio. CLIP resizes the short side to 224 pixels, which makes 3 billion pixels
# of a picture of 1 x 60,000.
LONGEST = 200


def readable(dataset: Dataset) -> Dataset:
    """Leave out damaged pictures and list them in `skipped`.

    Raises ValueError if no picture can be read.
    """
    damaged = dict(verify(dataset))
    if not damaged:
        return dataset
    if len(damaged) == len(dataset):
        first, reason = next(iter(damaged.items()))
        raise ValueError(
            f"none of the {len(dataset)} pictures of {dataset.name} can be read; "
            f"the first is {first}: {reason}"
        )
    kept = [i for i, name in enumerate(dataset.ids) if name not in damaged]
    skipped = (*dataset.skipped, *damaged.items())
    return replace(dataset.subset(kept), skipped=skipped)


def verify(dataset: Dataset) -> list[tuple[str, str]]:
    """Return (id, reason) of every picture file that cannot be decoded, in order."""
    if not dataset.files:
        return []
    record = _record(dataset)
    sound = _load(record)
    states = {str(path): _state(path) for path in dataset.files}
    unknown = [
        path for path, now in states.items() if not now or sound.get(path) != now
    ]
    faults = _faults(unknown, f"decoding {dataset.name} once")
    new = {path: states[path] for path in unknown if not faults[path]}
    if new:
        with replacing(record) as temporary:
            temporary.write_text(json.dumps(sound | new), encoding="utf-8")
    return [
        (name, reason)
        for name, path in zip(dataset.ids, dataset.files, strict=True)
        if (reason := faults.get(str(path)))
    ]


def _faults(paths: Sequence[str], label: str) -> dict[str, str]:
    """path -> why it cannot be decoded, or ""."""
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # decoders free the GIL
    try:
        results = pool.map(fault, paths)
        if len(paths) >= SHOWN_FROM:
            results = track(results, len(paths), label)
        return dict(zip(paths, results, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted run stops at once


def _state(path: Path) -> list[int] | None:
    """Size and modification time; None if there is no such file."""
    try:
        return state(path)
    except OSError:
        return None


def fault(path: str | Path) -> str:
    """Why a file cannot be decoded, or ""."""
    try:
        picture = to_rgb(open_image(Path(path), upright=True, reduced=True))
    except UnreadableImage as error:
        return _reason(error.__cause__ or error)
    except FileNotFoundError:
        return "the file is gone"
    short, long = sorted(picture.size)
    if long > LONGEST * short:
        return f"{long} pixels by {short}: a strip, which no CLIP can look at"
    return ""


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no picture, whatever its suffix says"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        return f"over {limit:,.0f} million pixels, more than are read: scale it down"
    return str(error).partition("\n")[0] or type(error).__name__


def _record(dataset: Dataset) -> Path:
    """The JSON file of a data set's name; folders of one name can share it."""
    return CACHE / "verified" / f"{key(dataset.name)}.json"


def _load(record: Path) -> dict[str, list[int]]:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):  # none yet, or damaged
        return {}
    found = found if isinstance(found, dict) else {}
    return {path: state for path, state in found.items() if isinstance(state, list)}
