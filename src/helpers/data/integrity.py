"""Decode every picture of a data set once, before work starts.

One damaged file must not end a run after an hour, nor change which pictures a later
method sees. So `readable` decodes all picture files in threads and leaves the damaged
ones out. Sound files are remembered in CACHE/verified/ by path, size and time of change
and are not decoded again until they change; damaged ones are tried again each time.
What Pillow warns of is remembered with them, see `remarks`.
"""

import hashlib
import json
import os
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from helpers.data.dataset import Dataset, UnreadableImage, open_image, to_rgb
from helpers.files import replacing
from helpers.paths import CACHE
from helpers.progress import track

SHOWN_FROM = 1000  # files; fewer are checked before a bar would help
# Side by side. Resized to 224 pixels on its short side, as CLIP takes pictures, one of
# 1 x 60,000 would have 3 billion pixels.
LONGEST = 200
State = list  # size, time of change in ns, remark if any: as JSON keeps them
HARMLESS = re.compile("MPO|APNG")  # a picture beside the picture is damaged
NOTES = "with damaged notes (EXIF), so that one taken upright may lie on its side"
LARGE = "over {:,.0f} million pixels large, slow to read (scale them down)"


def readable(dataset: Dataset) -> Dataset:
    """The data set without its damaged pictures, which are listed in `skipped`.

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


def remarks(dataset: Dataset) -> list[tuple[str, str]]:
    """(id, remark) of pictures that were found readable, but for something, in order.

    Of those that `verify` has decoded.
    """
    if not dataset.files:
        return []
    sound = _load(_ledger(dataset))
    return [
        (name, sound[str(path)][2])
        for name, path in zip(dataset.ids, dataset.files, strict=True)
        if len(sound.get(str(path), ())) > 2
    ]


def verify(dataset: Dataset) -> list[tuple[str, str]]:
    """(id, reason) of every picture file that cannot be decoded, in order of ids.

    Data sets without picture files have none.
    """
    if not dataset.files:
        return []
    ledger = _ledger(dataset)
    sound = _load(ledger)
    states = {str(path): _state(path) for path in dataset.files}
    unknown = [
        path
        for path, state in states.items()
        if path not in sound or sound[path][:2] != state
    ]
    damaged, noted = _decoded(unknown, f"decoding {dataset.name} once")
    new = {
        path: [*(states[path] or []), *noted.get(path, [])]
        for path in unknown
        if path not in damaged
    }
    if new:
        _save(ledger, sound | new)
    return [
        (name, damaged[str(path)])
        for name, path in zip(dataset.ids, dataset.files, strict=True)
        if str(path) in damaged
    ]


def _decoded(
    paths: Sequence[str], label: str
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """path -> reason of those that cannot be decoded, path -> [remark] of others."""
    with _overheard() as heard:

        def look(path: str) -> tuple[str, list[str]]:
            heard.warnings = []
            return _fault(path), _remark(heard.warnings)

        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # decoders free the GIL
        try:
            results = pool.map(look, paths)
            if len(paths) >= SHOWN_FROM:
                results = track(results, len(paths), label)
            found = dict(zip(paths, results, strict=True))
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupted run stops at once
    damaged = {path: fault for path, (fault, _) in found.items() if fault}
    return damaged, {path: remark for path, (_, remark) in found.items() if remark}


@contextmanager
def _overheard() -> Iterator[threading.local]:
    """Collect warnings in `.warnings`, each thread its own, instead of showing them."""
    heard = threading.local()

    def hear(message: Warning | str, *args: object, **options: object) -> None:
        getattr(heard, "warnings", []).append(message)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = hear
        yield heard


def _remark(found: Sequence[Warning]) -> list[str]:
    """What warnings of one picture mean to its owner, in a line, or nothing."""
    found = [warning for warning in found if not HARMLESS.search(str(warning))]
    if any(isinstance(warning, Image.DecompressionBombWarning) for warning in found):
        return [LARGE.format((Image.MAX_IMAGE_PIXELS or 0) / 1e6)]
    return [NOTES] if found else []


def _state(path: Path) -> State | None:
    """None for a file that is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _fault(path: str) -> str:
    """Why a file cannot be decoded, or nothing."""
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


def _ledger(dataset: Dataset) -> Path:
    """One file per data set name; different folders may share it, paths differ."""
    key = hashlib.sha256(dataset.name.encode()).hexdigest()[:16]
    return CACHE / "verified" / f"{key}.json"


def _load(ledger: Path) -> dict[str, State]:
    try:
        found = json.loads(ledger.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):  # none yet, or damaged
        return {}
    found = found if isinstance(found, dict) else {}
    return {path: state for path, state in found.items() if isinstance(state, list)}


def _save(ledger: Path, sound: Mapping[str, State]) -> None:
    with replacing(ledger) as temporary:
        temporary.write_text(json.dumps(sound), encoding="utf-8")
