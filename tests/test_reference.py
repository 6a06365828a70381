"""The committed run is that of the notebooks and parameters as they stand, and its
verdicts and means are those of the protocol, recomputed from its tables."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

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


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / "tables" / f"07_{name}.csv")


@pytest.mark.parametrize("outcome", ["gain", "over"])
def test_every_verdict_is_that_of_one_corrected_family(outcome):
    board = table("leaderboard")
    tested = board[board[f"{outcome}_verdict"].notna()]
    assert len(tested) > 200
    assert tested["headline"].all()
    if outcome == "gain":  # the board has the wins and losses of this baseline
        pairs = tested[["wins", "losses"]].astype(int).to_numpy()
        p = [binomtest(w, w + k).pvalue if w + k else 1.0 for w, k in pairs]
        holm = multipletests(p, method="holm")[1]
        assert np.allclose(holm, tested["gain_p_holm"], atol=1e-5)
    decided = tested[f"{outcome}_p_holm"] < 0.05
    words = np.where(tested[outcome] > 0, "gains", "loses")
    assert tested[f"{outcome}_verdict"].where(decided, "no").tolist() == list(
        np.where(decided, words, "no")
    )
    rest = tested.loc[~decided, f"{outcome}_verdict"]
    assert rest.str.startswith("no detectable difference").all()


def test_summaries_are_means_over_data_sets_and_not_pooled():
    board, summary = table("leaderboard"), table("summary")
    summary = summary[summary["outcome"] == "one prompt"]
    names = board["backbone"].unique()
    apart = 0
    for row in summary.itertuples():
        among = [n for n in names if n.startswith(f"{row.backbone}-")]
        part = board[board["method"] == row.method]
        part = part[part["backbone"].isin([row.backbone, *among])]
        of_sets = part.groupby(["dataset", "backbone"])["gain"].mean()
        macro = of_sets.groupby("dataset").mean().mean()
        assert row.difference == pytest.approx(macro, abs=1e-5), row
        pooled = np.average(part["gain"], weights=part["n"])
        apart += abs(pooled - macro) > 1e-3
    assert apart > 5  # the two would not be taken for each other
