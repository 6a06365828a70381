"""Test splits of torchvision's data sets, with class names that CLIP can read.

With the environment variable `STUDY_DOWNLOAD=1` torchvision downloads the official
archive into `data_root` and checks its hash; without it nothing is downloaded. CIFAR's
official files are Python pickles, which torchvision opens after the same check.

EuroSAT has no official split: all 27,000 pictures are read.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.data import ignored_folders
from helpers.data.dataset import Dataset, Files, Pixels, official
from helpers.data.folder import class_folders, data_folder

if TYPE_CHECKING:
    from torchvision.datasets import VisionDataset

DOWNLOAD = "STUDY_DOWNLOAD"

# The class names of CoOp's and TPT's evaluations. The tokenizer would take the folder
# names, which have no spaces, for single unknown words.
EUROSAT = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}
RENAMED = EUROSAT | {"pink-yellow dahlia?": "pink and yellow dahlia"}

INFO = official(
    (
        "cifar10",
        "cifar100",
        "eurosat",
        "dtd",
        "flowers102",
        "food101",
        "oxford-iiit-pet",
    )
)


def read(name: str, data_root: str) -> Dataset:
    """Read the test split of a data set in `INFO` below `data_root`."""
    source = _open(name, data_folder(data_root))
    names = tuple(
        RENAMED.get(label, label.replace("_", " ")) for label in source.classes
    )
    if name.startswith("cifar"):
        return Dataset(
            name=name,
            ids=tuple(f"{name}/{i:05d}" for i in range(len(source))),
            labels=source.targets,
            class_names=names,
            read=Pixels(source.data),
        )
    if name == "oxford-iiit-pet":  # the one class without a `loader` argument
        files, labels = source._images, source._labels
    else:
        files, labels = zip(*source, strict=True)
    ids = [path.relative_to(source.root).as_posix() for path in files]
    reasons = [_reason_to_skip(image) for image in ids]
    whole = Dataset(
        name=name,
        ids=tuple(ids),
        labels=labels,
        class_names=names,
        read=Files(tuple(files), upright=False),
        skipped=tuple(
            (i, reason) for i, reason in zip(ids, reasons, strict=True) if reason
        ),
        files=tuple(files),
    )
    return whole.subset([i for i, reason in enumerate(reasons) if not reason])


def _reason_to_skip(image: str) -> str:
    """Why an image lies in an ignored folder, which torchvision would read, or ""."""
    folders = image.split("/")[:-1]
    reasons = (ignored_folders.reason(f, inside=True) for f in folders)
    return next(filter(None, reasons), "")


def _open(name: str, root: Path) -> "VisionDataset":
    """Open torchvision's data set, after a download if that is allowed.

    `loader=Path` makes its items (file, label), so that nothing is decoded.
    """
    from torchvision import datasets

    class EuroSAT(datasets.EuroSAT):  # torchvision takes every folder for a class
        def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
            found = class_folders(Path(directory))
            return found, {folder: i for i, folder in enumerate(found)}

    make: dict[str, Callable] = {
        "cifar10": partial(datasets.CIFAR10, train=False),
        "cifar100": partial(datasets.CIFAR100, train=False),
        "eurosat": partial(EuroSAT, loader=Path),
        "dtd": partial(datasets.DTD, split="test", loader=Path),
        "flowers102": partial(datasets.Flowers102, split="test", loader=Path),
        "food101": partial(datasets.Food101, split="test", loader=Path),
        "oxford-iiit-pet": partial(datasets.OxfordIIITPet, split="test"),
    }
    info = INFO[name]
    try:
        return make[name](root, download=os.environ.get(DOWNLOAD) == "1")
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"no {name} in {root}, expected as {info.layout} ({error}). "
            f"Set {DOWNLOAD}=1 to let torchvision download it ({info.megabytes:,} MB), "
            f"or get it at {info.page}"
        ) from error
