"""Optional models besides CLIP, and whether they are on this machine.

A captioner, sentence embeddings and a diffusion pipeline are pages of the Hugging Face
hub, or folders. Chapters skip the parts that need a missing one, and the doctor says so
beforehand. Nothing is loaded or downloaded to find out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.paths import from_root

MODELS = ("captioner", "embeddings", "diffusion")
"""Parameters that name such a model."""
REVISIONS = {"lambdalabs/sd-image-variations-diffusers": "v2.0"}


class MissingModel(FileNotFoundError):
    """An optional model that is not on this machine and cannot be fetched.

    `key` is the parameter that names it; `remedy` says what is missing and which
    command fetches it; the message also has the cause.
    """

    def __init__(self, key: str, remedy: str, cause: Exception) -> None:
        super().__init__(f"{remedy}. The cause: {cause}")
        self.key, self.remedy = key, remedy


def wanted(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return {parameter: name} of each requested model that does not ship with us."""
    named = {key: str(parameters.get(key, "")) for key in MODELS}
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
    """Say what this machine lacks of a model, in words; "" if it has weights of it."""
    import huggingface_hub

    folder = from_root(name)
    if not folder.is_dir():
        found = (
            huggingface_hub.try_to_load_from_cache(
                page(key, name), file, revision=REVISIONS.get(name)
            )
            for file in ("config.json", "model_index.json")
        )
        config = next((path for path in found if isinstance(path, str)), None)
        if config is None:
            return "not on this machine"
        folder = Path(config).parent
    suffixes = {path.suffix for path in folder.rglob("*")}
    there = suffixes & {".safetensors", ".bin"}
    return "" if there else "incomplete, without weights"
