"""Optional models besides CLIP, and whether they are on this machine.

A captioner, sentence embeddings and a diffusion pipeline are pages of the Hugging Face
hub, or folders. Chapters skip the parts that need a missing one, and the doctor says so
beforehand. Nothing is loaded or downloaded to find out.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.paths import from_root

CONFIG = "config.json", r"config\.json"
WEIGHTS = "weights", r".*\.(safetensors|bin)"
TOKENS = "tokenizer.json", r"tokenizer\.json|vocab\..*|.*\.model"
PARTS = {
    "captioner": (CONFIG, WEIGHTS, TOKENS, ("preprocessor_config.json", r"prepro.*")),
    "embeddings": (CONFIG, WEIGHTS, TOKENS),
    "diffusion": (("model_index.json", r"model_index\.json"),),
}
"""Parameter that names a model -> (name, pattern) of each file that it must have."""
REVISIONS = {"lambdalabs/sd-image-variations-diffusers": "v2.0"}


class MissingModel(FileNotFoundError):
    """An optional model that is not on this machine and cannot be fetched.

    `key` is the parameter that names it; `told` says what is missing and which command
    fetches it; the message also has the cause.
    """

    def __init__(self, key: str, told: str, cause: Exception) -> None:
        super().__init__(f"{told}. The cause: {cause}")
        self.key, self.told = key, told


def wanted(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return {parameter: name} of each requested model that does not ship with us."""
    named = {key: str(parameters.get(key, "")) for key in PARTS}
    return {
        key: name
        for key, name in named.items()
        if name not in ("", "clip") and not name.startswith("picto-")
    }


def page(key: str, name: str) -> str:
    """Return the model's page on the hub."""
    owner = "" if key != "embeddings" or "/" in name else "sentence-transformers/"
    return f"{owner}{name}"


def command(key: str, name: str) -> str:
    """Return the command that fetches the model."""
    revision = f" --revision {REVISIONS[name]}" if name in REVISIONS else ""
    return f"hf download {page(key, name)}{revision}"


def lacking(key: str, name: str) -> str:
    """Say what this machine lacks of a model, in words; "" if nothing."""
    folder = from_root(name)
    if not folder.is_dir():
        found = _snapshot(page(key, name), REVISIONS.get(name))
        if found is None:
            return "not on this machine"
        folder = found
    parts = [("", part) for part in PARTS[key]]
    if key == "diffusion":
        parts += _components(folder)
    gone = [
        f"{inside}{words}"
        for inside, (words, pattern) in parts
        if not _holds(folder / inside, pattern)
    ]
    return f"incomplete, without {', '.join(gone)}" if gone else ""


def _snapshot(repository: str, revision: str | None) -> Path | None:
    """The folder of a page in the hub's cache, None if it is not there."""
    import huggingface_hub

    for file in ("config.json", "model_index.json", "modules.json"):
        found = huggingface_hub.try_to_load_from_cache(
            repository, file, revision=revision
        )
        if isinstance(found, str):
            return Path(found).parent
    return None


def _components(pipeline: Path) -> list[tuple[str, tuple[str, str]]]:
    """(folder, required file) of each part of a diffusion pipeline."""
    named = _json(pipeline / "model_index.json")
    parts = [k for k, made_by in named.items() if isinstance(made_by, list)]
    parts = [f"{part}/" for part in parts if named[part][1:] != [None]]
    neural = [part for part in parts if _holds(pipeline / part, CONFIG[1])]
    settings = "settings", r".*\.json"
    return [(part, WEIGHTS if part in neural else settings) for part in parts]


def _holds(folder: Path, pattern: str) -> bool:
    """Whether the folder has a file that matches; of sharded weights, all shards."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if path.is_file()}
    for index in [name for name in names if name.endswith(".index.json")]:
        shards = set(_json(folder / index).get("weight_map", {}).values())
        if not shards <= names:
            names -= shards
    return any(re.fullmatch(pattern, name) for name in names)


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
