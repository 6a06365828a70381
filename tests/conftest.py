"""No test writes into the repository, reaches the network, or opens a window."""

import os
import shutil
import tempfile

SCRATCH = tempfile.mkdtemp(prefix="clip-test-time-")

# Before any test imports helpers or a library, which read these once.
os.environ.update(
    STUDY_OUTPUTS=os.path.join(SCRATCH, "outputs"),
    STUDY_CACHE=os.path.join(SCRATCH, "cache"),
    HF_HUB_OFFLINE="1",
    MPLBACKEND="agg",
)
os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the kernels of `study run`


def pytest_unconfigure() -> None:
    shutil.rmtree(SCRATCH, ignore_errors=True)
