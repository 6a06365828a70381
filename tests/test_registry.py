"""The registry of methods: what an entry gives, and what is refused."""

import importlib.util
import subprocess
import sys

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from test_synthesis import ledger, names

from helpers import figures, notebooks
from helpers.figures import chapter_07 as drawn
from helpers.methods import registry
from helpers.methods.registry import method
from helpers.paths import ROOT
from helpers.results import findings, synthesis

MINE = """
from helpers.methods.registry import method

@method(
    "majority",
    name="Majority of views",
    family="votes",
    needs="image",
    chapter="02",
    colour="#123456",
    headline=True,
)
def majority(views, class_features, logit_scale):
    return views
"""


@pytest.fixture
def entered(monkeypatch):
    """Whatever a test enters is forgotten afterwards."""
    registry.entries()  # the methods of the package are entered for good
    monkeypatch.setattr(registry, "_given", dict(registry._given))
    yield
    registry.entries.cache_clear()


def read(path):
    """A Python file, imported anew under its own name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_method_in_a_file_of_its_own_is_on_the_leader_board(tmp_path, entered):
    """One file with a decorator: no table of the package is edited."""
    path = tmp_path / "own_method.py"
    path.write_text(MINE)
    read(path)
    study = tmp_path / "study"
    ids = names(0, 60)
    ledger(study, "zero_shot_photo", ids, names(0, 20))
    ledger(study, "majority-crops", ids, names(0, 50), seconds=0.1)
    ledger(study, "majority_twice-crops", ids, names(0, 50))
    ledger(study, "not_entered", ids, names(0, 40))
    scores = synthesis.load(study)
    board = synthesis.leaderboard(scores).set_index("method")
    traits = ["name", "family", "panel"]
    mine = ["Majority of views", "votes", "episodic"]
    assert board.loc["majority-crops", traits].tolist() == mine
    assert board.loc["majority_twice-crops", traits].tolist() == ["", *mine[1:]]
    assert board.loc["not_entered", traits].tolist() == ["not_entered", "own", "own"]

    assert figures.colour("majority") == "#123456"
    rows = synthesis.on_equal_images(scores, board.reset_index(), "d", "b")
    fig, data = drawn.frontier(rows)
    assert set(data["name"]) == {"Majority of views", "not_entered"}
    plt.close(fig)

    decided = findings.decisions(scores, board.reset_index())
    assert decided.set_index("have")["use"]["the image alone"] == "majority-crops"


def test_variants_belong_to_the_longest_key_and_inherit(entered):
    assert registry.find("tpt_linear-augmix").key == "tpt"
    assert registry.find("vote_reference-augmix").key == "vote"
    assert registry.find("lafter_wo_aug").key == "lafter"
    assert registry.find("tptx").key == ""
    revote, tpt = registry.find("tpt_revote-augmix"), registry.find("tpt")
    assert (revote.key, revote.paper, revote.family) == (
        "tpt_revote",
        tpt.paper,
        tpt.family,
    )

    @method("tpt_linear", needs="labels")
    def linear():
        """A variant that needs more than its method."""

    variant = registry.find("tpt_linear-augmix")
    assert (variant.key, variant.needs) == ("tpt_linear", "labels")
    assert (variant.family, variant.name) == (tpt.family, "")


def test_every_speaker_is_of_its_method():
    for entry in registry.entries().values():
        if entry.speaker:
            assert registry.find(entry.speaker) == entry
            assert entry.name
    shown = [entry.name for entry in registry.entries().values() if entry.speaker]
    assert len(shown) == len(set(shown))


def test_every_claim_is_about_methods_that_are_entered():
    claims = [claim for chapter in notebooks.chapters() for claim in chapter.claims]
    assert claims
    for claim in claims:
        rivals = claim["against"] or registry.ledgers(claim["over"])
        for ledger_name in (claim["method"], *rivals):
            assert registry.find(ledger_name.format("crops")).key, ledger_name


def test_a_second_method_of_a_key_is_refused(entered):
    with pytest.raises(ValueError, match=r"'zero' of .*other is already .*zero\.zero"):

        @method("zero", family="votes", needs="image")
        def other():
            """Not the one that has the key."""

    assert registry.find("zero").name == "ZERO"


def test_a_cell_that_runs_again_enters_its_method_anew(tmp_path, entered):
    path = tmp_path / "own_method.py"
    path.write_text(MINE)
    read(path)
    path.write_text(MINE.replace('"votes"', '"entropy"'))
    read(path)
    assert registry.find("majority").family == "entropy"


@pytest.mark.parametrize(
    ("traits", "message"),
    [
        ({"family": "voting"}, r"unknown family 'voting'; use 'prompts', 'votes'"),
        ({"needs": "images"}, r"unknown need 'images'; use 'nothing', 'image'"),
        ({"role": "best"}, r"unknown role 'best'; use 'candidate', 'one prompt'"),
    ],
)
def test_an_unknown_trait_is_refused_with_those_that_there_are(traits, message):
    with pytest.raises(ValueError, match=f"method 'mine': {message}"):
        method("mine", **traits)


def test_the_command_and_the_site_import_no_method():
    code = "import helpers.study.command, helpers.study.site, sys; "
    code += "print({'torch', 'open_clip', 'helpers.methods.zero'} & set(sys.modules))"
    run = [sys.executable, "-c", code]
    said = subprocess.run(run, capture_output=True, text=True, check=True, timeout=600)
    assert said.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("ledger", "title"),
    [
        ("zero", "ZERO"),
        ("vote_mean-preaugment", "mean of views, crops and flips"),
        ("lafter_wo_stop_grad", "LaFTer, teacher not frozen"),
        ("ensemble_7", "7 prompts"),
        ("vote-more_crops", "vote of crops alone"),
        ("a photo of a {}.", "a photo of a {}."),
        ("tptish", "tptish"),
    ],
)
def test_figures_call_a_prediction_file_by_its_methods_name(ledger, title):
    assert registry.title(ledger) == title


def test_every_prediction_file_of_the_reference_run_has_a_title_of_its_own():
    written = pd.read_csv(ROOT / "outputs/reference/picto_full/results.csv")
    for _, group in written.groupby(["dataset", "backbone", "seed"]):
        ledgers = sorted(set(group["method"]))
        controls = registry.ledgers(registry.ONE) + registry.ledgers(registry.CONTROL)
        titles = [registry.title(x) for x in ledgers if x not in controls]
        assert len(set(titles)) == len(titles)
        assert not [title for title in titles if "_" in title]
