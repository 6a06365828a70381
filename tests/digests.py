"""What the smoke study's ledgers hold, in a few bytes each.

To renew tests/smoke_digests.json after a change that is meant to move results:

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
SHOWN = 3  # logits that are kept of a ledger's first image


def digests(folder: Path) -> dict[str, dict]:
    """Of each ledger: n, top-1, all predictions as hexadecimal bytes, some logits."""
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
    """What rounding depends on besides the code."""
    return {
        "torch": version("torch"),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or torch.get_num_threads(),
    }


def unsure(folder: Path, name: str, tolerance: float) -> np.ndarray:
    """bool [N]: the two best logits are within `tolerance` of the best, relatively."""
    dataset, backbone, method, seed = name.split("/")
    path = predictions.ledger_path(folder, dataset, backbone, method, int(seed))
    second, best = np.sort(predictions.logits(predictions.read(path)), axis=1)[:, -2:].T
    return best - second <= tolerance * np.abs(best)


if __name__ == "__main__":
    ledgers = digests(Path(sys.argv[1]))
    told = [f'  "{k}": {json.dumps(v)}' for k, v in sorted(ledgers.items())]
    made_on = json.dumps(machine())
    lines = ",\n".join(told)
    FILE.write_text(f'{{"made_on": {made_on},\n"ledgers": {{\n{lines}\n}}}}\n')
