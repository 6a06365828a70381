"""Where features lie: folders named by a hash of all that made them."""

import hashlib
from pathlib import Path

from helpers.data.dataset import Dataset
from helpers.models.clip import Backbone
from helpers.paths import CACHE


def folder(kind: str, backbone: Backbone, content: str) -> Path:
    """The folder of what this backbone makes of this content."""
    made_by = f"{kind}|{backbone.key}|{content}"
    digest = hashlib.sha256(made_by.encode()).hexdigest()[:20]
    return CACHE / "bank" / f"{kind}-{digest}"


def pictures(dataset: Dataset) -> str:
    """What names the data set's pictures: also a file that was edited in place."""
    times = [file.stat().st_mtime_ns for file in dataset.files]
    return f"{dataset.fingerprint}|{times}"
