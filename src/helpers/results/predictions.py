"""The ledger: a row per image with what a method predicted and how confidently.

`<folder>/predictions/<dataset>/<backbone>/<method>.parquet`, or `<method>_seed<k>` for
another seed than 0, has the columns

    image_id    string
    label       int64, index into the data set's class names, -1 where unknown
    prediction  int64, the class of largest logit
    confidence  float32, its softmax probability
    entropy     float32, of the softmax, in nats
    logits      list of C float32, logit scale included

and in its metadata dataset, backbone, method, seed, classes and the settings as JSON.
Encodings are plain and the compression is snappy, which every reader of Parquet knows.
The same input gives the same bytes. Seconds differ from run to run, so they stand
beside the ledger in `<method>.cost.json`. `results.csv` is computed from the ledgers
and from nothing else.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from helpers.files import replacing
from helpers.results import metrics

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.int64()),
        ("prediction", pa.int64()),
        ("confidence", pa.float32()),
        ("entropy", pa.float32()),
        ("logits", pa.list_(pa.float32())),
    ]
)
# What Arrow and JSON raise where a file holds something else.
UNREADABLE = (
    *(pa.ArrowException, OSError, ValueError, LookupError, TypeError),
    *(AttributeError, RecursionError),
)
LONGEST = 200  # bytes of a name, where file names may have 255
RESULT_COLUMNS = (
    *("dataset", "backbone", "method", "settings", "seed", "n", "top1"),
    *("ci_low", "ci_high", "ece", "nll", "brier", "entropy", "seconds_per_image"),
)


def write_csv(path: Path, frame: pd.DataFrame) -> Path:
    """Write a table atomically, floats with 6 digits, the index only if it is named."""
    named = any(name is not None for name in frame.index.names)
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=named, float_format="%.6g", lineterminator="\n")
    return path


def ledger_path(
    folder: str | Path, dataset: str, backbone: str, method: str, seed: int = 0
) -> Path:
    """Where the ledger of a run lies, written or not."""
    for key, name in (("dataset", dataset), ("backbone", backbone), ("method", method)):
        fits = len(name.encode(errors="replace")) <= LONGEST
        if not fits or not re.fullmatch(r"[\w+-][\w.+ -]*", name):
            raise ValueError(
                f"{key} {name!r} cannot name a file: use letters, digits, "
                f"and _ . + - or space, as in 'ViT-B-16', {LONGEST} bytes at most"
            )
    if re.search(r"_seed\d+$", method):
        raise ValueError(f"method {method!r} must not end like a seed: pass seed=")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, not {seed!r}")
    stem = f"{method}_seed{seed}" if seed else method
    return Path(folder) / "predictions" / dataset / backbone / f"{stem}.parquet"


def _settings_json(settings: dict[str, Any]) -> str:
    for key, value in settings.items():
        try:
            json.dumps({key: value}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"setting {key!r} = {value!r} is not JSON ({error}): "
                "use numbers, strings, lists and dicts of Python"
            ) from error
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)


def write(
    folder: str | Path,
    *,
    dataset: str,
    backbone: str,
    method: str,
    ids: Sequence[str],
    labels: ArrayLike,
    logits: ArrayLike,
    seconds_per_image: float,
    settings: dict[str, Any],
    seed: int = 0,
) -> pd.DataFrame:
    """Write one ledger and its cost, atomically; an earlier one is replaced.

    Args:
        folder: the study's output folder.
        ids: N unique image ids.
        labels: integers [N] in 0..C-1, -1 where unknown.
        logits: [N, C], logit scale included, array or tensor; kept as float32.
        seconds_per_image: measured wall-clock time.
        settings: what the method was run with, as JSON can say it.

    Returns:
        The ledger as `read` returns it; its file is that of `ledger_path`.

    Raises:
        ValueError: shapes that do not fit, ids twice, labels out of range, logits that
            are not finite in float32, settings that are not JSON.
    """
    path = ledger_path(folder, dataset, backbone, method, seed)
    ids = list(ids)
    with np.errstate(over="ignore"):  # an overflow is reported below, with its ids
        logits = metrics.as_array(logits).astype(np.float32)
    if len(ids) != len(logits):
        raise ValueError(f"{len(ids)} ids for {len(logits)} rows of logits")
    if not all(isinstance(name, str) for name in ids):
        raise ValueError("image ids must be strings, as in Dataset.ids")
    repeated = pd.Series(ids).duplicated()
    if repeated.any():
        raise ValueError(
            f"image ids must be unique: {ids[int(repeated.argmax())]!r} comes twice"
        )
    if logits.ndim == 2:
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            first = [ids[row] for row in np.flatnonzero(~finite)[:3]]
            raise ValueError(
                f"{method} on {dataset}: logits of {(~finite).sum()} images are not "
                f"finite in float32, first {first}; compute them in float32 or check "
                "the method on these images"
            )
    if not (math.isfinite(seconds_per_image) and seconds_per_image >= 0):
        raise ValueError(
            f"seconds_per_image must be finite and not negative: {seconds_per_image}"
        )
    images = metrics.scores(logits, labels)
    count, classes = logits.shape
    metadata = {
        "dataset": dataset,
        "backbone": backbone,
        "method": method,
        "seed": str(seed),
        "classes": str(classes),
        "settings": _settings_json(settings),
    }
    starts = np.arange(count + 1, dtype=np.int32) * classes
    columns = [
        ids,
        metrics.as_array(labels),
        images["prediction"].to_numpy(),
        images["confidence"].to_numpy(np.float32),
        images["entropy"].to_numpy(np.float32),
        pa.ListArray.from_arrays(starts, logits.ravel()),
    ]
    arrays = map(pa.array, columns, SCHEMA.types)
    table = pa.table(list(arrays), schema=SCHEMA.with_metadata(metadata))
    cost = {"seconds_per_image": float(seconds_per_image)}
    with replacing(_cost_path(path)) as temporary:
        temporary.write_text(json.dumps(cost))
    # The ledger comes last: where there is one, its cost is there too.
    with replacing(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="snappy",
            use_dictionary=False,  # floats hardly repeat: half the size without
            write_page_checksum=True,
        )
    return _frame(table, **cost)


def _cost_path(path: Path) -> Path:
    return path.with_suffix(".cost.json")


def read(path: str | Path, *, with_logits: bool = True) -> pd.DataFrame:
    """Read one ledger.

    Args:
        path: a file that `write` wrote.
        with_logits: False leaves the column of logits out, and unread.

    Returns:
        The ledger's columns; `.attrs` holds dataset, backbone, method, seed, classes
        (C), settings, and seconds_per_image (NaN where the cost file is gone).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such ledger; run the method that writes it"
        )
    names = SCHEMA.names if with_logits else SCHEMA.names[:-1]
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(columns=names)
        expected = pa.schema([SCHEMA.field(name) for name in names])
        if table.schema.remove_metadata() != expected:
            raise ValueError("its columns are others")
        cost = _cost_path(path)
        known = json.loads(cost.read_text()) if cost.exists() else {}
        frame = _frame(table, known.get("seconds_per_image", math.nan))
        classes = frame.attrs["classes"]
        if with_logits:
            lengths = pc.list_value_length(table["logits"])
            if not pc.all(pc.equal(lengths, classes)).as_py():
                raise ValueError(f"not every row has {classes} logits")
    except UNREADABLE as error:
        reason = " ".join(str(error).split())  # Arrow's messages span lines
        raise ValueError(
            f"{path} is not a readable ledger ({reason}): delete it and run the method "
            "again"
        ) from error
    return frame


def _frame(table: pa.Table, seconds_per_image: float) -> pd.DataFrame:
    """A ledger's table as `read` returns it."""
    about = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    frame = table.to_pandas()
    frame.attrs = {
        **{key: about[key] for key in ("dataset", "backbone", "method")},
        **{key: int(about[key]) for key in ("seed", "classes")},
        "settings": json.loads(about["settings"]),
        "seconds_per_image": float(seconds_per_image),
    }
    return frame


def logits(frame: pd.DataFrame) -> np.ndarray:
    """The logits of a ledger, or of some of its rows, as float32 [N, C]."""
    return np.stack(frame["logits"].to_numpy())


def read_all(folder: str | Path) -> Iterator[pd.DataFrame]:
    """Every ledger under a study's output folder, one at a time, sorted by path."""
    for path in sorted(Path(folder).glob("predictions/*/*/*.parquet")):
        frame = read(path)
        run = (frame.attrs[key] for key in ("dataset", "backbone", "method", "seed"))
        expected = ledger_path(folder, *run)
        if path != expected:
            raise ValueError(
                f"{path} holds the run of {expected}: move it there or delete it"
            )
        yield frame


def collect(folder: str | Path) -> pd.DataFrame:
    """Write `<folder>/results.csv` from all ledgers and return it as a table.

    A row per data set, backbone, method and seed, sorted by these; `ece` has 15 bins of
    equal width, `settings` are JSON, `n` counts the images that have a label.
    """
    rows = []
    for frame in read_all(folder):
        row = {**frame.attrs, **metrics.summary(logits(frame), frame["label"])}
        row["settings"] = _settings_json(row["settings"])
        rows.append({column: row[column] for column in RESULT_COLUMNS})
    table = pd.DataFrame(rows, columns=RESULT_COLUMNS)
    order = ["dataset", "backbone", "method", "seed"]
    table = table.sort_values(order, ignore_index=True)
    write_csv(Path(folder) / "results.csv", table)
    return table
