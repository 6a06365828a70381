"""Fingerprints of a chapter's inputs, recorded after a run, compared before the next.

They are recorded in two files: in the finished notebook's metadata under `run`, and in
the study's `provenance.json` under `made_from`, which each start of the chapter
removes.

    notebook     hash of its cells as they stand in notebooks/
    code         hash of src/helpers, its data files, and the versions of the libraries
    data         hash of the files it reads: images by name, size and time; other files
                 and folders that parameters name
    earlier      hash of the ledgers of other chapters, if it reads them

The parameters are recorded, too, and in the notebook alone the files it has written.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers import keys, notebooks
from helpers.files import code, notes, read_object
from helpers.models import optional
from helpers.paths import from_root, number_of
from helpers.study.parameters import Job, meaning

LATER = "07"  # chapters from this one on read the ledgers of all others


def made_from(job: Job, folder: Path) -> dict[str, Any]:
    """The fingerprints and parameters that decide what a chapter writes."""
    return {
        "notebook": cells(job.notebook),
        "code": code(),
        "data": data(job.parameters),
        "earlier": earlier(job.notebook, folder),
        "parameters": job.parameters,
    }


def cells(notebook: Path) -> str:
    """Hash of the cells' sources, types and tags, without their outputs."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return keys.key(
        [c["cell_type"], "".join(c["source"]), c["metadata"].get("tags", [])]
        for c in found
    )


def data(parameters: dict[str, Any]) -> str:
    """Hash of the files that parameters name: data sets, weights, texts, models.

    Embedded data sets have none, since `code` covers them.

    Raises:
        FileNotFoundError, ValueError: a data set is not in place.
    """
    from helpers import data as sets

    named, of_folder = [], ("data_root", "class_names")
    root, classes = (parameters.get(key, "") for key in of_folder)
    for value in _texts(v for key, v in parameters.items() if key not in of_folder):
        path = from_root(value.removeprefix("local-dir:"))
        if value in sets.names() and not value.startswith("picto"):
            found = sets.read(value, root, classes if value == "folder" else "")
            named.append([value, found.key, found.fingerprint])
        elif value and os.path.exists(path):
            inside = sorted(path.iterdir()) if path.is_dir() else []
            named.append([value, *map(_state, [path, *inside])])
    return keys.key(named)


def earlier(notebook: Path, folder: Path) -> str:
    """Hash of all studies' ledgers (name, size, time) and of the chapters' claims.

    It is "" for chapters that read neither. The chapter's own ledgers do not count.
    """
    if number_of(notebook.stem) < LATER:
        return ""
    own = {folder / name for name in recorded(folder / notebook.name).get("files", [])}
    found = sorted(folder.parent.glob("*/predictions/*/*/*.parquet"))
    ledgers = [
        [str(f.relative_to(folder.parent)), *_state(f)] for f in found if f not in own
    ]
    return keys.key(ledgers, [asdict(chapter) for chapter in notebooks.chapters()])


def recorded(executed: Path) -> dict[str, Any]:
    """The record in a finished notebook; empty if there is none."""
    try:
        return read_object(executed)["metadata"]["run"]
    except (KeyError, TypeError):
        return {}


def is_complete(executed: Path, made: dict[str, Any]) -> bool:
    """Whether a notebook was made from exactly this, and all its files exist.

    A notebook is incomplete if it left out a section whose model is available by now.
    """
    before = dict(recorded(executed))
    files = before.pop("files", [])
    noted = notes(executed.parent).get(executed.stem, {}).get("made_from")
    files_exist = all((executed.parent / name).is_file() for name in files)
    names = optional.wanted(made["parameters"])
    was_missing = [key for key in left_out(executed) if key in names]
    available = any(not optional.lacking(key, names[key]) for key in was_missing)
    return (
        _meant(before) == _meant(made)
        and noted == hashes(made)
        and files_exist
        and not available
    )


def _meant(made: dict[str, Any]) -> dict[str, Any]:
    """The record, with parameters that are alike where they mean the same."""
    return {**made, "parameters": meaning(made.get("parameters", {}))}


def left_out(executed: Path) -> dict[str, str]:
    """Parameter -> how to get its model, of each optional model that was missing."""
    return notes(executed.parent).get(executed.stem, {}).get("left_out", {})


def hashes(made: dict[str, Any]) -> dict[str, str]:
    """The fingerprints without the parameters."""
    return {key: fact for key, fact in made.items() if key != "parameters"}


def states(folder: Path, number: str) -> dict[str, tuple]:
    """The state of each figure, table and ledger that a chapter may write.

    States are compared for equality and not by time, since clocks differ and are set.
    """
    patterns = f"figures/{number}_*", f"tables/{number}_*", "predictions/**/*.parquet"
    files = [file for pattern in patterns for file in folder.glob(pattern)]
    return {
        file.relative_to(folder).as_posix(): (*_state(file), file.stat().st_ino)
        for file in files
    }


def written_since(folder: Path, number: str, before: dict[str, tuple]) -> list[str]:
    """The files that a chapter has written since `states` returned `before`."""
    now = states(folder, number)
    return sorted(name for name, state in now.items() if before.get(name) != state)


def other_parameters(executed: Path, job: Job) -> list[str]:
    """A line for each parameter of a finished notebook that differs from the job's."""
    before = recorded(executed).get("parameters")
    if before is None:
        return []
    then, now = meaning(before), meaning(job.parameters)
    return [
        f"{key} {before.get(key)!r}, now {job.parameters.get(key)!r}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Sequence):
            yield from _texts(value)


def _state(path: Path) -> list:
    return [path.name, *keys.state(path)]
