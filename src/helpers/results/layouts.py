"""The tables that this study set out to repeat, with room for our numbers.

Rows are named as in their sources; `published_results.csv` holds the published numbers.
A cell of ours is filled from a ledger or empty. There are two columns of ours: one for
the same data set and backbone with OpenAI's weights, and one for the embedded world's
counterpart, a rehearsal whose numbers are no estimate of the others'.
"""

import re
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers.data.dataset import UNKNOWN
from helpers.methods import registry
from helpers.methods.registry import ONE
from helpers.results import predictions, published

COUNTERPARTS = {
    "ImageNet-A": "picto-a",
    "ImageNet-R": "picto-r",
    "ImageNet-Sketch": "picto-s",
    "ImageNet-V2": "picto",
    "ImageNet": "picto",
    "CIFAR-100-C": "picto-c",
    "RN50": "picto-rn",
    "ViT-B/16": "picto-vit",
    "ViT-B/32": "picto-vit",
}
"""Data sets and backbones of the papers, and what plays their part in picto."""

HEADS = {"their_loss": "their entropy (nats)", "n": "images", "loss": "entropy (nats)"}
HEADS |= {"its_top1": "its accuracy", "its_n": "its images", "its_study": "its study"}
"""What readers see over columns of `laid_out`."""


class Row(NamedTuple):
    """A cell of a published table, and the ledgers, the first there is, of ours."""

    table: str
    row: str
    published: str  # method in published_results.csv, "" where the cell is empty
    backbone: str
    dataset: str
    ours: tuple[str, ...]


PROJECT = "TTA_DL-Project: "
RN50_A = ("RN50", "ImageNet-A")
ABLATION_SETS = (
    *("CIFAR-10", "CIFAR-100", "UCF101", "EuroSAT"),
    *("ImageNet-A", "ImageNet-Sketch", "ImageNet-R"),
)
ABLATIONS = ("w/o Aug", "w/o Prompts", "w/o Affine", "w/o Cls", "w/o Stop Grad")
PAPER_SETS = ("ImageNet-A", "ImageNet-V2", "ImageNet-R", "ImageNet-Sketch")
PHOTO = "CLIP zero-shot (a photo of a)"
PAPER_METHODS = (
    *(PHOTO, "CLIP ensemble 80", "CoOp 16-shot", "CoCoOp 16-shot"),
    *("TPT", "TPT+CoOp", "TPT+CoCoOp"),
)


def _vote(recipe: str) -> tuple[str, ...]:
    return (f"vote_reference-{recipe}", f"vote-{recipe}")


def rows() -> list[Row]:
    """Every cell of the published tables, in their order."""
    single = registry.ledgers(ONE)
    methods, augmentations = "methods", "augmentations"
    tuned = ("tpt_revote-augmix",)
    quoted = PROJECT + 'caption table "baseline" (quoted from TPT)'
    captions = PROJECT + "caption prompts"
    plain = PROJECT + "zero-shot (no full stop)"
    augmix = PROJECT + "vote AugMix"
    found = [
        Row(methods, "CLIP-RN50 (zero-shot)", plain, *RN50_A, single),
        Row(methods, "TPT (handcrafted prompts)", augmix, *RN50_A, _vote("augmix")),
        Row(methods, "TPT + CoOp", PROJECT + '"TPT+CoOp" AugMix', *RN50_A, tuned),
    ]
    for name in ("PreAugment", "AugMix", "AutoAugment"):
        source = f"{PROJECT}vote {name}"
        found.append(Row(augmentations, name, source, *RN50_A, _vote(name.lower())))
    found.append(
        Row(augmentations, "DiffusionAugment", "", *RN50_A, ("vote-drawn_100",))
    )
    for backbone in ("RN50", "ViT-B/16"):
        cell = backbone, "ImageNet-A"
        found.append(Row("captions", "Baseline", quoted, *cell, single))
        found.append(Row("captions", "Our Method", captions, *cell, ("caption",)))
    ablation = "LaFTer ablation"
    for dataset in ABLATION_SETS:
        cell = "ViT-B/32", dataset
        start = "CLIP single template", *cell, ("zero_shot_held_out",)
        found.append(Row(ablation, "CLIP", *start))
        for name in ABLATIONS:
            ledger = "lafter_" + name.replace("/", "").replace(" ", "_").lower()
            found.append(Row(ablation, name, f"LaFTer {name}", *cell, (ledger,)))
        found.append(Row(ablation, "LaFTer", "LaFTer", *cell, ("lafter",)))
    for backbone, dataset in product(("RN50", "ViT-B/16"), PAPER_SETS):
        for name in PAPER_METHODS:
            key = registry.published()[name]
            ours = single if name == PHOTO else (key, f"{key}-preaugment")
            found.append(Row("TPT paper", name, name, backbone, dataset, ours))
    return found


def laid_out(outputs: str | Path, study: str) -> pd.DataFrame:
    """Every cell of `rows` with its published number and, where we have one, ours.

    Ledgers are looked for in all studies below `outputs`; where several have a cell,
    `study` comes first, then the one with most images. Within a table, a data set and
    a backbone, our numbers are about the images that all of our ledgers hold.

    Returns:
        table, row, backbone, dataset, theirs, their_loss (the mean entropy, nats, where
        the source prints one); ours, n, loss, study; counterpart, its_top1, its_n,
        its_study. Accuracies are fractions; what is not known is NaN or "".
    """
    known = _Ledgers(Path(outputs), study)
    frame = pd.DataFrame(rows())
    numbers = published.table().drop_duplicates(["method", "backbone", "dataset"])
    numbers = numbers.rename(columns={"method": "published", "top1": "theirs"})
    numbers["their_loss"] = numbers["source"].map(_loss)
    columns = ["published", "backbone", "dataset", "theirs", "their_loss"]
    frame = frame.merge(numbers[columns], how="left")
    pairs = zip(frame["dataset"], frame["backbone"], strict=True)
    here = [[COUNTERPARTS.get(name, "") for name in pair] for pair in pairs]
    frame["counterpart"] = [", ".join(pair) if all(pair) else "" for pair in here]
    filled = []
    for (_, dataset, backbone), part in frame.groupby(
        ["table", "dataset", "backbone"], sort=False
    ):
        real = known.cells(part["ours"], dataset, backbone, "openai")
        its = (COUNTERPARTS.get(dataset, ""), COUNTERPARTS.get(backbone, ""))
        rehearsal = known.cells(part["ours"], *its, "picto").add_prefix("its_")
        cells = pd.concat([real, rehearsal.drop(columns="its_loss")], axis=1)
        filled.append(cells.set_index(part.index))
    frame = frame.drop(columns=["published", "ours"]).join(pd.concat(filled))
    frame = frame.rename(columns={"top1": "ours"})
    order = ["table", "row", "backbone", "dataset", "theirs", "their_loss", "ours"]
    order += ["n", "loss", "study", "counterpart", "its_top1", "its_n", "its_study"]
    return frame[order]


def wide(laid: pd.DataFrame, table: str) -> pd.DataFrame:
    """One table of `laid_out`, a column per row of the source, a line per number.

    Index: backbone, dataset, and whose the number is.
    """
    part = laid[laid["table"] == table].rename(columns={"its_top1": "counterpart's"})
    columns = list(dict.fromkeys(part["row"]))
    lines = {}
    for pair, cells in part.groupby(["backbone", "dataset"], sort=False):
        for whose in ("theirs", "ours", "counterpart's"):
            lines[(*pair, whose)] = dict(zip(cells["row"], cells[whose], strict=True))
    found = pd.DataFrame.from_dict(lines, orient="index", columns=columns)
    names = ["backbone", "dataset", "whose"]
    return found.set_axis(pd.MultiIndex.from_tuples(lines, names=names))


def _loss(source: str) -> float:
    found = re.search(r"\bloss ([\d.]+)", source)
    return float(found[1]) if found else np.nan


class _Ledgers:
    """Ledgers of all studies, found by data set and backbone as papers name them."""

    def __init__(self, outputs: Path, study: str) -> None:
        self.folders: dict[tuple[str, str], list[Path]] = {}
        found = sorted(outputs.glob("*/predictions/*/*/"))
        for folder in sorted(found, key=lambda path: _study(path) != study):
            pair = published.key(folder.parent.name), published.key(folder.name)
            self.folders.setdefault(pair, []).append(folder)
        self.study = study

    def cells(
        self,
        wanted: Iterable[tuple[str, ...]],
        dataset: str,
        backbone: str,
        weights: str,
    ) -> pd.DataFrame:
        """top1, n, loss and study of ledgers, a row for each tuple of names."""
        pair = published.key(dataset), published.key(backbone)
        folders = self.folders.get(pair, [])
        held = [[_first(f, names, weights) for names in wanted] for f in folders]
        held = [some for some in held if any(frame is not None for frame in some)]
        table = pd.DataFrame(
            {"top1": np.nan, "n": np.nan, "loss": np.nan, "study": ""},
            index=range(len(list(wanted))),
        )
        if not held:
            return table
        frames = max(held, key=lambda some: self._rank(some))
        present = [frame for frame in frames if frame is not None]
        images = set.intersection(*(set(frame.index) for frame in present))
        for i, frame in enumerate(frames):
            if frame is not None and images:
                some = frame[frame.index.isin(images)]
                numbers = [some["hit"].mean(), len(some), some["entropy"].mean()]
                table.loc[i, ["top1", "n", "loss"]] = numbers
                table.loc[i, "study"] = frame.attrs["study"]
        return table

    def _rank(self, frames: list[pd.DataFrame | None]) -> tuple[bool, int, int]:
        present = [frame for frame in frames if frame is not None]
        own = present[0].attrs["study"] == self.study
        return own, len(present), max(map(len, present))


def _study(folder: Path) -> str:
    return folder.parents[2].name


def _first(folder: Path, names: tuple[str, ...], weights: str) -> pd.DataFrame | None:
    """The first ledger there is with these weights: hit and entropy by image_id."""
    for name in names:
        path = folder / f"{name}.parquet"
        if not path.is_file():
            continue
        ledger = predictions.read(path, with_logits=False)
        if ledger.attrs["settings"].get("weights") == weights:
            ledger = ledger[ledger["label"] != UNKNOWN].copy()
            ledger["hit"] = ledger["prediction"] == ledger["label"]
            ledger.attrs["study"] = _study(folder)
            return ledger.set_index("image_id")
    return None
