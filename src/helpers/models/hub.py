"""The Hugging Face hub: is it within reach, and what of it is on this machine?

The hub's library repeats each failed request for half a minute, for every file anew,
even if the file is in its cache. Here one connection decides.
"""

import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
from huggingface_hub import constants
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from helpers.paths import from_root

PATIENCE = 10.0  # seconds


def out_of_reach() -> str:
    """Why the hub cannot be asked, in words, or "".

    If it does not answer, its library is told to look into its cache alone, for as long
    as this process lives.
    """
    if constants.HF_HUB_OFFLINE and not _answers.cache_info().currsize:
        return "HF_HUB_OFFLINE is set"
    if _answers():
        return ""
    constants.HF_HUB_OFFLINE = True
    return f"{urlsplit(constants.ENDPOINT).hostname} does not answer"


def source(name: str) -> str:
    """The folder that a model's name means, or else the name: a page of the hub.

    Whether that is within reach is settled, as its cache may do.
    """
    folder = from_root(name)
    if folder.is_dir():
        return str(folder)
    out_of_reach()
    return name


@cache
def _answers() -> bool:
    """Whether the hub's host accepts a connection; taken for granted behind a proxy."""
    address = urlsplit(constants.ENDPOINT)
    port = address.port or {"http": 80}.get(address.scheme, 443)
    try:
        if not getproxies():
            socket.create_connection((address.hostname, port), PATIENCE).close()
    except OSError:
        return False
    return True


def download(config: Mapping[str, Any]) -> tuple[str, str]:
    """Where open_clip gets a tag's weights: their address, and the file, "" if away.

    Args:
        config: of `open_clip.get_pretrained_cfg`.
    """
    if config.get("hf_hub"):
        repository, file = os.path.split(config["hf_hub"])
        files = [file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
        known = (huggingface_hub.try_to_load_from_cache(repository, f) for f in files)
        found = next((path for path in known if isinstance(path, str)), "")
        return f"{constants.ENDPOINT}/{repository}", found
    target = Path("~/.cache/clip").expanduser() / os.path.basename(config["url"])
    return config["url"], str(target) if target.is_file() else ""
