"""The committed run is that of the notebooks and parameters as they stand."""

import json
import warnings

import pytest

from helpers import paths
from helpers.study import fingerprints, parameters

FOLDER = paths.ROOT / "outputs" / "reference" / "picto_full"
JOBS = parameters.plan("picto_full", paths.PARAMS, paths.NOTEBOOKS)
CURE = "`make reference` runs it anew"


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.notebook.stem)
def test_reference_was_made_from_this_notebook_and_these_parameters(job):
    name = job.notebook.stem
    notes = json.loads((FOLDER / "provenance.json").read_text(encoding="utf-8"))
    if "made_from" not in notes.get(name, {}):
        pytest.skip(f"the reference run does not tell what {name} was made from")
    made = notes[name]["made_from"]
    assert made["notebook"] == fingerprints.cells(job.notebook), (
        f"{job.notebook.name} has changed since the reference run; {CURE}"
    )
    before = fingerprints.other_parameters(FOLDER / job.notebook.name, job)
    assert not before, f"{name} was made with {'; '.join(before)}; {CURE}"
    if made["code"] != fingerprints.code():
        warnings.warn(
            f"the code of {name} has changed since the reference run; {CURE}",
            stacklevel=1,
        )
