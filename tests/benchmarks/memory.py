"""How much memory a chapter takes with models of true size, next to what is told.

    python tests/benchmarks/memory.py [CHAPTER BACKBONE ...]

Weights are random, and the pictures look-alikes of ImageNet-A's 200 classes, 500 x 375
pixels large: sizes are what counts. The peak is that of the chapter's kernel, looked at
every tenth of a second. `memory.csv` holds the peaks of the machine named in its first
line, on one thread; `tests/test_resources.py` holds what is told against them.
"""

import csv
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from lookalikes import imagenet_layout, picture

FILE = Path(__file__).with_suffix(".csv")
STUDY = "imagenet_a_vit_b16"
BACKBONES = ("RN50-quickgelu", "ViT-B-32-quickgelu", "ViT-B-16-quickgelu")
FEW = {"images": 200, "weights": "random", "device": "cpu"}
SETTINGS = {
    "02": {
        "view_images": 2,
        "dev_images": 2,
        "view_count": 10,
        "view_counts": [10],
        "fractions": [0.25],
        "step_counts": [1],
        "learning_rates": [0.005],
        "memory": 1.0,
    },
    "05": {
        "pool_images": 16,
        "test_images": 16,
        "text_templates": "photo",
        "tap_templates": "photo",
        "text_steps": 5,
        "seeds": 1,
        "epochs": 2,
        "long_epochs": 2,
        "batch": 16,
        "prompt_counts": [0, 50],
    },
    "05b": {
        "pool_images": 16,
        "test_images": 16,
        "text_templates": "photo",
        "epochs": 2,
        "batch": 16,
        "upl_epochs": 2,
        "feature_epochs": 2,
        "view_count": 16,
        "episodic_images": 2,
    },
}


def overrides(chapter: str, backbone: str) -> dict[str, object]:
    """The parameters that a chapter was measured with."""
    return {**FEW, **SETTINGS[chapter], "backbone": backbone}


def measured() -> list[tuple[str, str, float]]:
    """(chapter, backbone, bytes at the peak) of each line of the file."""
    lines = [s for s in FILE.read_text().splitlines() if not s.startswith("#")]
    return [(c, b, 1e9 * float(gb)) for c, b, gb in [*csv.reader(lines)][1:]]


def peak(chapter: str, backbone: str) -> int:
    """Bytes that the chapter's kernel held at most."""
    from helpers.study import main

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        imagenet_layout(root, "imagenet-a")
        for seed, path in enumerate(sorted(root.rglob("*.jpg"))):
            picture(path, seed, (500, 375))
        given = overrides(chapter, backbone) | {"data_root": str(root)}
        pairs = [
            part
            for key, value in given.items()
            for part in ("-p", key, value if type(value) is str else json.dumps(value))
        ]
        command = ["run", STUDY, "--only", chapter, "--outputs", str(root / "out")]
        most, done = 0, threading.Event()

        def look() -> None:
            nonlocal most
            while not done.wait(0.1):
                for process in psutil.Process().children(recursive=True):
                    try:
                        most = max(most, process.memory_info().rss)
                    except psutil.Error:  # it is gone
                        continue

        watching = threading.Thread(target=look)
        watching.start()
        try:
            status = main([*command, *pairs])
        finally:
            done.set()
            watching.join()
        if status:
            sys.exit(status)
        return most


if __name__ == "__main__":
    chapters = [a for a in sys.argv[1:] if a in SETTINGS] or [*SETTINGS]
    backbones = [a for a in sys.argv[1:] if a not in SETTINGS] or BACKBONES
    with tempfile.TemporaryDirectory() as cache:
        os.environ["STUDY_CACHE"] = cache  # before helpers are imported
        for chapter in chapters:
            for backbone in backbones:
                print(f"{chapter},{backbone},{peak(chapter, backbone) / 1e9:.2f}")
