"""No test writes into the repository, reaches the network, or opens a window."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

SCRATCH = tempfile.mkdtemp(prefix="clip-test-time-")

# Before any test imports helpers or a library, which read these once.
os.environ.update(
    STUDY_OUTPUTS=os.path.join(SCRATCH, "outputs"),
    STUDY_CACHE=os.path.join(SCRATCH, "cache"),
    HF_HUB_OFFLINE="1",
    MPLBACKEND="agg",
)
os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the kernels of `study run`
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes: one process runs all tests of a file, and one all that
    use the smoke study, to share their fixtures. The slowest come first."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=_quickness)


def _group(item: pytest.Item) -> str:
    smoke = "smoke_study" in getattr(item, "fixturenames", ())
    return "smoke" if smoke else item.path.stem


def _quickness(item: pytest.Item) -> int:
    group = _group(item)
    if group == "smoke":
        return 0
    long = ("own_images", "chapter", "faults", "parallel", "picto_train", "site")
    return 1 if any(name in group for name in long) else 2


@pytest.fixture(scope="session")
def smoke_study(tmp_path_factory) -> Path:
    """The folder of the smoke study's results, run once for all tests.

    Chapters 01 and 05 come first: `first_predictions` beside it holds what they wrote
    before later chapters wrote the same ledgers again.
    """
    from helpers.study import main

    outputs = tmp_path_factory.mktemp("smoke-study")
    command = ["run", "smoke", "--outputs", str(outputs)]
    assert main([*command, "--only", "01", "05"]) == 0
    folder = outputs / "smoke"
    shutil.copytree(folder / "predictions", outputs / "first_predictions")
    assert main(command) == 0
    return folder


def pytest_unconfigure() -> None:
    shutil.rmtree(SCRATCH, ignore_errors=True)
