"""Digests of the smoke study's prediction files.

To update tests/smoke_digests.json after a change that is meant to change results:

    .venv/bin/study run smoke --again
    .venv/bin/python tests/digests.py outputs/smoke
"""

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from helpers.results import predictions

FILE = Path(__file__).with_name("smoke_digests.json")
SHOWN = 3  # logits of a file's first image in its digest


def digests(folder: Path) -> dict[str, dict]:
    """Return n, top-1, predictions as hexadecimal bytes, some logits of each file."""
    found = {}
    for frame in predictions.read_all(folder):
        name = "/".join(str(frame.attrs[k]) for k in ("dataset", "backbone", "method"))
        name += f"/{frame.attrs['seed']}"
        first = predictions.logits(frame)[0, :SHOWN].astype(float)
        found[name] = {
            "n": len(frame),
            "top1": round(float((frame["prediction"] == frame["label"]).mean()), 6),
            "predictions": frame["prediction"].to_numpy(np.uint8).tobytes().hex(),
            "logits": [round(value, 3) for value in first.tolist()],
        }
    return found


def machine() -> dict[str, str | int]:
    """Return what rounding depends on besides the code."""
    return {
        "torch": version("torch"),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or torch.get_num_threads(),
    }


def unsure(folder: Path, name: str, tolerance: float) -> np.ndarray:
    """Return, bool [N], whether the two best logits differ by less than `tolerance`,
    relative to the best."""
    dataset, backbone, method, seed = name.split("/")
    path = predictions.ledger_path(folder, dataset, backbone, method, int(seed))
    second, best = np.sort(predictions.logits(predictions.read(path)), axis=1)[:, -2:].T
    return best - second <= tolerance * np.abs(best)


if __name__ == "__main__":
    found = sorted(digests(Path(sys.argv[1])).items())
    lines = ",\n".join(f'  "{name}": {json.dumps(entry)}' for name, entry in found)
    made_on = json.dumps(machine())
    FILE.write_text(f'{{"made_on": {made_on},\n"ledgers": {{\n{lines}\n}}}}\n')
