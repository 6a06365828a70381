"""Handwritten digits that scikit-learn ships: 1,797 real pictures of 8 x 8 pixels.

Scans of digits written by 43 people (Alpaydin & Kaynak 1998, UCI), white on black with
17 grey levels. The backbone's preprocessing enlarges them.
"""

import numpy as np

from helpers.data.dataset import Dataset, Info, Pixels

CLASS_NAMES = (
    *("zero", "one", "two", "three", "four"),
    *("five", "six", "seven", "eight", "nine"),
)
INFO = {
    "digits": Info(
        page="https://archive.ics.uci.edu/dataset/80",
        megabytes=0,
        layout="nothing to do: scikit-learn ships it",
        images=1797,
        classes=10,
    )
}


def read(name: str, data_root: str) -> Dataset:
    """Return the whole data set; `data_root` is not used."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    return Dataset(
        name=name,
        ids=tuple(f"digits/{i:04d}" for i in range(len(grey))),
        labels=digits.target,
        class_names=CLASS_NAMES,
        read=Pixels(grey),
    )
