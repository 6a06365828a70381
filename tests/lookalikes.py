"""Write small data sets with the layouts of real ones into a test's folder."""

import csv
import io
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skimage
import sklearn
from PIL import Image

from helpers.data import imagenet

SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
PHOTOGRAPHS = [SKIMAGE / "astronaut.png", SKIMAGE / "coffee.png", SKIMAGE / "horse.png"]
PHOTOGRAPHS += [SKIMAGE / "chelsea.png", SKIMAGE / "rocket.jpg", SKIMAGE / "coins.png"]
PHOTOGRAPHS += [SKLEARN / "flower.jpg", SKLEARN / "china.jpg"]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (24, 18)) -> Path:
    """Write a small picture in the format of the suffix; seeds give other pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def photos(root: Path, classes: Mapping[str, int | Sequence[str]]) -> Path:
    """Write a folder per class: folder -> number of pictures, or their names."""
    seed = 0
    for folder, wanted in classes.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        files = (
            wanted
            if not isinstance(wanted, int)
            else [f"{i:03d}.jpg" for i in range(wanted)]
        )
        for file in files:
            picture(root / folder / file, seed)
            seed += 1
    return root


def classes_csv(root: Path, names: Mapping[str, str]) -> Path:
    """Write the table of class names."""
    path = root / "classes.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("folder", "name"), *names.items()])
    return path


def imagenet_layout(
    data_root: Path, name: str, subfolder: str = "", per_class: int = 1, every: int = 1
) -> Path:
    """Write ImageNet or one of its variants in its official layout, with its README.

    `subfolder` is below `data_root` (default: the reader's first), `every` keeps each
    n-th class folder only. Suffixes are those of the real files.
    """
    root = data_root / (subfolder or imagenet.SUBFOLDERS[name][0])
    suffix = {"imagenet-a": "jpg", "imagenet-r": "jpg", "imagenet-v2": "jpeg"}
    kept = imagenet.folders(name)[::every]
    source = picture(root / kept[0] / f"img_0.{suffix.get(name, 'JPEG')}")
    content = source.read_bytes()
    for folder in kept:
        (root / folder).mkdir(exist_ok=True)
        for i in range(per_class):
            (root / folder / f"img_{i}{source.suffix}").write_bytes(content)
    if name in ("imagenet-a", "imagenet-r"):
        (root / "README.txt").write_text("about this data set\n")
    return root


def cifar10(data_root: Path, images: int = 20) -> np.ndarray:
    """Write CIFAR-10's test batch in torchvision's layout; return its pixels.

    Its hash differs from the real file's, so that a test must switch off torchvision's
    integrity check.
    """
    folder = data_root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    batch = {
        "data": pixels.transpose(0, 3, 1, 2).reshape(images, -1),
        "labels": [i % 10 for i in range(images)],
    }
    names = ["airplane", "automobile", "bird", "cat", "deer"]
    names += ["dog", "frog", "horse", "ship", "truck"]
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return pixels


def damaged_exif(path: Path) -> Path:
    """Write a sound JPEG of 40 x 20 pixels with truncated EXIF data."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "blue").save(buffer, "jpeg")
    content = buffer.getvalue()
    body = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 999) + b"\xff" * 7
    app1 = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    path.write_bytes(content[:2] + app1 + content[2:])
    return path


def damaged(folder: Path) -> dict[str, str]:
    """Write files that cannot be decoded: file name -> a word of the reason to skip it.

    Only the empty file is recognised without decoding.
    """
    whole = picture(folder / "whole.jpg", size=(640, 480)).read_bytes()
    sound_png = picture(folder / "sound.png", size=(64, 64)).read_bytes()
    inverted = bytes(byte ^ 255 for byte in sound_png[60:120])
    contents = {
        "empty.jpg": (b"", "empty"),
        "truncated.jpg": (whole[: len(whole) // 2], "truncated"),
        "text.png": (b"<html>404 not found</html>", "no picture"),
        "flipped.png": (sound_png[:60] + inverted + sound_png[120:], ""),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "whole.jpg").unlink()
    (folder / "sound.png").unlink()
    return {name: word for name, (_, word) in contents.items()}


def check_captions(folder: Path, dataset: str, images: int) -> None:
    """Assert what chapter 03 leaves of photographs: captions, and steps that add up."""
    captions = pd.read_csv(folder / "tables" / f"03_captions_{dataset}.csv")
    assert list(captions) == ["image_id", "caption", "keyword", "template"]
    assert len(captions) == images
    blame = pd.read_csv(folder / "figures" / "03_blame.csv")
    assert blame["step"].tolist() == ["plain", "captioner", "keyword", "assembly"]
    total = blame["top1"].iloc[-1] - blame["top1"].iloc[0]
    assert blame["difference"].sum() == pytest.approx(total)
