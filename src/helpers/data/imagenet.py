"""ImageNet's validation set and its shifted variants A, R, V2 and Sketch.

Classes are in the alphabetical order of the 1000 WordNet ids, with OpenAI's curated
names. timm ships the ids (and the 200 that A and R use), open_clip the names. Labels
come from folder names, not from their rank, which avoids four known mistakes:

- A and R have 200 folders, whose rank is not the 1000-way index;
- V2's folders are "0" to "999" and sort as strings to 0, 1, 10, 100, …;
- A and R have a README.txt beside their class folders;
- a partial copy would shift every label after the first missing folder.

As in the published evaluations with torchvision's `ImageFolder`, pictures are converted
to RGB before they are resized, and their EXIF orientation is ignored.
"""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from helpers.data.dataset import Dataset, Files, official
from helpers.data.folder import (
    class_folders,
    data_folder,
    listed,
    nested,
    warn_if_partial,
)

V2 = "imagenetv2-matched-frequency-format-val"

# Possible folders of each data set under data_root: TPT's names, CoOp's, the archive's
# own; "" is data_root itself.
SUBFOLDERS = {
    "imagenet": (
        "ImageNet/val",
        "imagenet/images/val",
        "imagenet/val",
        "ILSVRC2012/val",
        "val",
        "",
    ),
    "imagenet-a": ("imagenet-a", "imagenet-adversarial/imagenet-a", ""),
    "imagenet-r": ("imagenet-r", "imagenet-rendition/imagenet-r", ""),
    "imagenet-v2": (V2, f"imagenetv2/{V2}", ""),
    "imagenet-sketch": (
        "ImageNet-Sketch",
        "ImageNet-Sketch/sketch",
        "imagenet-sketch/images",
        "sketch",
        "",
    ),
}

INFO = official(SUBFOLDERS)


@cache
def indices(name: str) -> tuple[int, ...]:
    """Return the 1000-way indices of a data set's classes, in its class order."""
    if name in ("imagenet-a", "imagenet-r"):
        return tuple(map(int, _timm_table(f"{name.replace('-', '_')}_indices.txt")))
    return tuple(range(1000))


@cache
def folders(name: str) -> tuple[str, ...]:
    """Return the folder names of a data set's classes, in its class order."""
    if name == "imagenet-v2":
        return tuple(str(index) for index in indices(name))
    wordnet_ids = _timm_table("imagenet_synsets.txt")
    return tuple(wordnet_ids[index] for index in indices(name))


@cache
def class_names(name: str) -> tuple[str, ...]:
    """Return OpenAI's names of a data set's classes, in its class order."""
    import open_clip

    return tuple(open_clip.IMAGENET_CLASSNAMES[index] for index in indices(name))


def read(name: str, data_root: str) -> Dataset:
    """Read a data set in `INFO`, found under `data_root` or at `data_root` itself."""
    expected = folders(name)
    root = locate(name, data_folder(data_root), expected)
    warn_if_partial(name, root, expected)
    listing = listed(root, expected)
    if not listing.files:
        raise ValueError(f"the class folders of {name} in {root} hold no pictures")
    return Dataset(
        name=name,
        ids=listing.ids,
        labels=listing.labels,
        class_names=class_names(name),
        read=Files(listing.files, upright=False),
        skipped=listing.skipped,
        files=listing.files,
    )


def locate(name: str, data_root: Path, expected: Sequence[str]) -> Path:
    """Find the folder that holds the class folders of this data set.

    The archive may be unpacked into a folder of its own name, once or twice. Raises
    FileNotFoundError if there is none, ValueError if there is one that holds other
    class folders too, or the validation images without class folders.
    """
    tops = [data_root / subfolder for subfolder in SUBFOLDERS[name]]
    pairs = [(top, root) for top in tops for root in nested(top)]
    for top, root in pairs:
        found = class_folders(root)
        known = set(found) & set(expected)
        foreign = sorted(set(found) - set(expected))
        if known and foreign and root.name == top.name:
            raise ValueError(
                f"{root} is not {name}: {len(foreign)} of its {len(found)} class "
                f"folders are not in that set ({', '.join(foreign[:3])}, …)"
            )
        if known and not foreign:
            return root
        if name == "imagenet" and next(root.glob("ILSVRC2012_val_*"), None):
            raise ValueError(
                f"{root} holds the validation pictures without class folders: "
                "torchvision.datasets.ImageNet(root, split='val') arranges them when "
                "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz lie in root"
            )
    info = INFO[name]
    raise FileNotFoundError(
        f"no class folders of {name} in any of {', '.join(map(str, tops))}. Get it at "
        f"{info.page} ({info.megabytes:,} MB) and unpack it as {info.layout}"
    )


def _timm_table(file: str) -> tuple[str, ...]:
    table = resources.files("timm.data") / "_info" / file
    return tuple(table.read_text(encoding="utf-8").split())
