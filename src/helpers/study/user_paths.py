"""Which parameters name files and folders, and what a relative one counts from.

A path on the command line counts from the current folder; one in a parameter file
from the repository that holds the file, or else from the file's own folder. Kernels
run in another folder and get absolute paths. Paths that count from this repository stay
as they are written, so that results say nothing about the machine.
"""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from helpers.paths import ROOT, located

PATHS = ("data_root", "coop_file", "cocoop_file")
ENDINGS = (".json", ".safetensors", ".pt", ".pth", ".bin")
LOCAL = "local-dir:"  # open_clip's mark of a folder


def resolve_all(parameters: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The parameters, with relative paths made absolute; they count from `base`."""
    if base == ROOT:
        return dict(parameters)
    return {
        key: resolve(key, value, base) if isinstance(value, str) and value else value
        for key, value in parameters.items()
    }


def resolve(key: str, value: str, base: Path) -> str:
    """The value of a parameter; a relative path is made absolute from `base`.

    Names of models, texts and data sets stay as they are.
    """
    if value.startswith(LOCAL):
        return LOCAL + str(located(value.removeprefix(LOCAL), base))
    if key == "class_names" and value.lower().endswith((".txt", ".csv")):
        return str(located(value, base))
    if key not in PATHS and key not in NAMES:
        return value
    if key in PATHS or _looks_like_a_path(value) or _is_there(key, value, base):
        return str(located(value, base))
    return value


def base_of(file: Path) -> Path:
    """The folder that relative paths in a parameter file count from."""
    file = file.absolute()
    if file.is_relative_to(ROOT):
        return ROOT
    repositories = (f for f in file.parents if (f / ".git").exists())
    return next(repositories, file.parent)


def _looks_like_a_path(value: str) -> bool:
    """Whether the text can only be a path: names of the hub are `owner/model`."""
    if value in (".", "..") or value.startswith(("/", "./", "../", "~")):
        return True
    return value.endswith(ENDINGS) or value.endswith("/") or value.count("/") > 1


def _is_there(key: str, value: str, base: Path) -> bool:
    return os.path.exists(located(value, base)) and value not in NAMES[key]()


def _tags() -> Collection[str]:
    import open_clip

    return {"picto", "random", *(tag for _, tag in open_clip.list_pretrained())}


def _texts() -> Collection[str]:
    from helpers.prompts import descriptions

    return descriptions.embedded()


# Names that win over a file of the same name. Listed only where there is such a file.
NAMES: dict[str, Callable[[], Collection[str]]] = {
    "weights": _tags,
    "texts": _texts,
    "captioner": lambda: ["picto-captioner"],
    "diffusion": lambda: ["picto-diffusion"],
    "embeddings": lambda: ["clip"],
    "model": lambda: [],  # of tools/generate.py
}
