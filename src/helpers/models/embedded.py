"""The embedded CLIPs, known to open_clip by name like any other.

Each is four files in `picto/assets/`: `NAME.json` (open_clip's model config),
`NAME.safetensors` (fp16 weights), `NAME.card.json` (how it was trained, what it
reaches, the hash of its weights), and the tokenizer's merges, which all share.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import open_clip

ASSETS = Path(__file__).resolve().parents[2] / "picto" / "assets"
MERGES = ASSETS / "picto-bpe.txt.gz"
TAG = "picto"


def names() -> list[str]:
    """Architectures that ship with the package."""
    return sorted(path.stem for path in ASSETS.glob("picto-*.json") if _plain(path))


@cache
def register() -> None:
    """Make the embedded architectures known to open_clip; safe to call again."""
    for name in names():
        open_clip.add_model_config(ASSETS / f"{name}.json")


def weights_file(name: str) -> Path:
    """The weights of an embedded CLIP."""
    if name not in names():
        raise ValueError(
            f"weights {TAG!r} exist for {', '.join(names())}, not for {name}"
        )
    return asset(name)


def asset(name: str) -> Path:
    """Weights that ship with the package, refused unless their hash is the card's."""
    path = ASSETS / f"{name}.safetensors"
    cure = f"restore it with `git checkout -- {path.name}` or `study train {name}`"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {cure}")
    if sha256(path) != card(name)["sha256"]:
        raise ValueError(f"{path} is not the file its card describes: {cure}")
    return path


def card(name: str) -> dict:
    """How an embedded model was made and what it reaches."""
    return json.loads((ASSETS / f"{name}.card.json").read_text())


def train(what: str, options: Sequence[str]) -> int:
    """Make an embedded model anew: the command line of `study train`."""
    from picto import make  # it imports this module

    return make.main(what, options)


def tokenizer_options(name: str) -> dict:
    """Extra arguments of the model's tokenizer: the embedded ones have own merges."""
    return {"bpe_path": str(MERGES)} if name in names() else {}


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(path: Path) -> bool:
    return not path.name.endswith(".card.json")
