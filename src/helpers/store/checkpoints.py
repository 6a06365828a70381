"""Training states on disk: a state is either complete or absent."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from helpers.files import replacing


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the state at `path` by a new one of tensors and plain values.

    Raises:
        files.DiskFull: the disk is full.
    """
    # Given a path, torch would not say why it cannot write.
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load(path: Path) -> dict[str, Any] | None:
    """The state on the CPU, or None if it is missing or damaged.

    torch.load does not verify the checksums of the zip file that torch.save writes.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip() is None:
                return torch.load(path, weights_only=True, map_location="cpu")
    except Exception:  # damaged files raise exceptions of many types
        pass
    print(f"{path.parent.name}/{path.name} is damaged: training begins anew")
    return None


@dataclass(frozen=True)
class Checkpoint:
    """A folder from which `helpers.methods.training.train` resumes: its last state,
    `checkpoint.pt`, and its log for people, `log.csv`."""

    folder: Path

    def load(self) -> dict[str, Any] | None:
        """The last state, or None."""
        return load(self.folder / "checkpoint.pt")

    def save(self, state: dict[str, Any]) -> None:
        """Replace the last state; `state["rows"]` is the log."""
        with replacing(self.folder / "log.csv") as temporary:
            pd.DataFrame(state["rows"]).to_csv(temporary, index=False)
        save(self.folder / "checkpoint.pt", state)
