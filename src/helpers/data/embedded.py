"""Picto, the world that is drawn on demand: no files, nothing to download.

`facts` tell what each picture shows (style, place, corruption, ...), for tables by
cause.
"""

from dataclasses import dataclass

from PIL import Image

from helpers.data.dataset import Dataset, Info
from helpers.picto.splits import CLASS_NAMES, SPLITS, facts, image

INFO = {
    name: Info(
        page="",
        megabytes=0,
        layout=f"nothing to do: {split.about}, drawn on demand",
        images=split.count or 0,
        classes=len(CLASS_NAMES),
    )
    for name, split in SPLITS.items()
    if name.startswith("picto")
}


def read(name: str, data_root: str) -> Dataset:
    """One of the splits; `data_root` is not used."""
    indices = range(SPLITS[name].size)
    shown = facts(name, indices)
    return Dataset(
        name=name,
        ids=tuple(f"{name}/{i:05d}" for i in indices),
        labels=shown["class_name"].map(CLASS_NAMES.index).to_numpy(),
        class_names=CLASS_NAMES,
        read=_Drawn(name),
        facts=shown,
    )


@dataclass(frozen=True)
class _Drawn:
    """`read` of a split: scene at this position, drawn now."""

    split: str

    def __call__(self, position: int) -> Image.Image:
        return Image.fromarray(image(self.split, position))
