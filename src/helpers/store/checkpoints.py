"""States of a training on disk: whole, or not there."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from helpers.files import replacing


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values over the one before.

    Raises `files.DiskFull` where the disk is full.
    """
    # Given a path, torch would not say why it cannot write.
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load(path: Path) -> dict[str, Any] | None:
    """The state on the CPU, or None where there is none, or a damaged one.

    torch.load looks at no checksum, though torch.save writes them: the file is a zip.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip() is None:
                return torch.load(path, weights_only=True, map_location="cpu")
    except Exception:  # as many kinds as there are ways to be damaged
        pass
    print(f"{path.parent.name}/{path.name} is damaged: training begins anew")
    return None


@dataclass(frozen=True)
class Checkpoint:
    """What `helpers.methods.training.train` goes on from: a folder with its last state,
    `checkpoint.pt`, and for people its log, `log.csv`."""

    folder: Path

    def load(self) -> dict[str, Any] | None:
        """The last state, or None."""
        return load(self.folder / "checkpoint.pt")

    def save(self, state: dict[str, Any]) -> None:
        """Take the place of the state before; `state["rows"]` is the log."""
        with replacing(self.folder / "log.csv") as temporary:
            pd.DataFrame(state["rows"]).to_csv(temporary, index=False)
        save(self.folder / "checkpoint.pt", state)
