"""The embedded models. open_clip knows the CLIPs among them by name.

A CLIP has three files in `picto/assets/`: `NAME.json` (open_clip's model config),
`NAME.safetensors` (fp16 weights) and `NAME.card.json` (training, accuracy, hash of the
weights). All share the tokenizer's merges. `NAME-2`, `NAME-3` are trained as `NAME` is,
from other seeds.
"""

import hashlib
import json
from functools import cache
from pathlib import Path

import open_clip

ASSETS = Path(__file__).resolve().parents[2] / "picto" / "assets"
MERGES = ASSETS / "picto-bpe.txt.gz"
TAG = "picto"


def names() -> list[str]:
    """Return the CLIPs that ship with the package: those that have a card."""
    return [x for x in configured() if (ASSETS / f"{x}.card.json").is_file()]


def configured() -> list[str]:
    """Return the CLIPs that ship with the package or can be trained."""
    paths = ASSETS.glob("picto-*.json")
    return sorted(path.stem for path in paths if not path.match("*.card.json"))


@cache
def register() -> None:
    """Register the embedded architectures with open_clip, once."""
    for name in configured():
        open_clip.add_model_config(ASSETS / f"{name}.json")


def weights_file(name: str) -> Path:
    """Return the weights file of an embedded CLIP; ValueError for another name."""
    if name not in names():
        raise ValueError(
            f"weights {TAG!r} exist for {', '.join(names())}, not for {name}"
        )
    return asset(name)


def asset(name: str) -> Path:
    """Return a weights file that ships with the package.

    Raises FileNotFoundError if it is missing, ValueError unless its hash is the card's.
    """
    path = ASSETS / f"{name}.safetensors"
    cure = f"restore it with `git checkout -- {path.name}` or `study train {name}`"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {cure}")
    if sha256(path) != card(name)["sha256"]:
        raise ValueError(f"{path} is not the file its card describes: {cure}")
    return path


def card(name: str) -> dict:
    """Read how an embedded model was trained and what it reaches."""
    return json.loads((ASSETS / f"{name}.card.json").read_text())


def tokenizer_options(name: str) -> dict:
    """Return the arguments of a model's tokenizer: embedded models have own merges."""
    return {"bpe_path": str(MERGES)} if name in configured() else {}


def sha256(path: Path) -> str:
    """Return the hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
