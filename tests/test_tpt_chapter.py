"""Chapter 02 as a user runs it: on the embedded world, and on other people's images."""

import json
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from lookalikes import imagenet_layout

from helpers import data, paths, store
from helpers.chapters import adaptation
from helpers.methods import tpt
from helpers.models import clip
from helpers.models.prompts import PromptTower
from helpers.results import findings, predictions
from helpers.study import check, main

FAST = {
    "view_count": 10,
    "dev_images": 2,
    "view_counts": [10],
    "fractions": [0.1],
    "step_counts": [1],
    "learning_rates": [0.005],
}
METHODS = ["vote_mean", "vote_random", "vote", "vote_reference", "zero", "mta", "tps"]
TUNED = ["tpt", "tpt_revote", "tpt_cots", "ctpt", "atpt"]


def run(study: str, outputs, **overrides):
    """Run chapter 02 of a study on a CPU; the folder of its results."""
    options = {"device": "cpu", **FAST, **overrides}
    pairs = [part for k, v in options.items() for part in ("-p", k, json.dumps(v))]
    plain = [part.strip('"') for part in pairs]
    assert main(["run", study, "--only", "02", "--outputs", str(outputs), *plain]) == 0
    return outputs / study


def texts(folder) -> str:
    """All that the executed chapter printed; nothing of it on stderr."""
    (executed,) = folder.glob("02_*.ipynb")
    cells = nbformat.read(executed, as_version=4).cells
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    assert not [out.text for out in outputs if out.get("name") == "stderr"]
    return "".join(out.text for out in outputs if out.output_type == "stream")


def test_every_method_sees_the_same_images_on_every_augmentation(smoke_study):
    results = pd.read_csv(smoke_study / "results.csv")
    focus = results.query("dataset == 'picto-a' and backbone == 'picto-rn'")
    recipes = ["preaugment", "augmix", "autoaugment"]
    expected = {f"{m}-{r}" for m in [*METHODS, *TUNED, "tpt_linear"] for r in recipes}
    learned = {"coop", "tpt_coop-preaugment", "cocoop", "tpt_cocoop-preaugment"}
    focus = focus[focus["method"].isin(expected | learned | {"zero_shot"})]
    assert set(focus["method"]) == expected | learned | {"zero_shot"}
    assert set(focus["n"]) == {64}
    elsewhere = results[results["dataset"].ne("picto-a")]
    elsewhere = elsewhere[elsewhere["method"].isin(expected)]
    assert set(elsewhere["dataset"]) == {"picto", "picto-s"}
    assert set(elsewhere["n"]) == {64}
    paired = pd.read_csv(smoke_study / "tables" / "02_paired.csv")
    assert len(paired) == (3 + 2 + 1) * len([*METHODS, *TUNED, "tpt_linear"])
    assert (paired["ci_low"] <= paired["difference"]).all()


def test_the_ledger_of_tpt_is_tpts(smoke_study):
    """Image by image from the store's views, whatever the chapter's shortcuts."""
    path = (
        smoke_study / "predictions" / "picto-a" / "picto-rn" / "tpt-preaugment.parquet"
    )
    kept = predictions.read(path)
    model = clip.load("picto-rn", "picto", device="cpu")
    dataset = data.load("picto-a", "", 128).sample(64)
    assert kept["image_id"].tolist() == list(dataset.ids)
    views = store.view_features(model, dataset, "preaugment", 10)
    tower = PromptTower(model, dataset.class_names)
    exact = tpt.tpt(views, tower.features, model.logit_scale, tower.context)
    assert np.allclose(predictions.logits(kept), exact, atol=2e-3)
    looking = store.view_seconds_per_image(model, dataset, "preaugment", 10)
    assert kept.attrs["seconds_per_image"] > looking
    assert kept.attrs["settings"]["views"] == "preaugment"


def test_the_matched_step_is_the_best_on_dev(smoke_study):
    grid = pd.read_csv(smoke_study / "tables" / "02_steps.csv")
    assert len(grid) == 2 * 2 * 2  # backbones, steps, rates
    written = smoke_study / "predictions" / "picto-a"
    for name, part in grid.groupby("backbone"):
        kept = predictions.read(written / name / "tpt_matched-preaugment.parquet")
        step = adaptation.best_step(part)
        assert step.items() <= kept.attrs["settings"].items()
        model = clip.load(name, "picto", device="cpu")
        dataset = data.load("picto-a", "", 128).sample(64).sample(16)
        assert kept["image_id"].tolist() == list(dataset.ids)
        views = store.view_features(model, dataset, "preaugment", 10)
        tower = PromptTower(model, dataset.class_names)
        side = tower.features, model.logit_scale, tower.context
        exact = tpt.tpt(views, *side, **step)
        assert np.allclose(predictions.logits(kept), exact, atol=5e-3)
    table = pd.read_csv(smoke_study / "tables" / "02_matched.csv")
    assert table["n"].eq(16).all()
    found = set(zip(table["dataset"], table["backbone"], table["method"], strict=True))
    expected = {(d, "picto-rn") for d in ("picto", "picto-s", "picto-a")}
    expected |= {("picto-a", "picto-vit")}
    expected = {(*place, m) for place in expected for m in ("tpt", "tpt_matched")}
    expected |= {("picto-a", "picto-rn", m) for m in ("ctpt", "ctpt_matched")}
    assert found == expected
    coop = written / "picto-rn" / "tpt_coop_matched-preaugment.parquet"
    assert len(predictions.read(coop)) == 16


def test_the_reference_projects_rows_stand_beside_ours(smoke_study):
    beside = pd.read_csv(smoke_study / "tables" / "02_reference.csv").set_index("row")
    ours = beside["our_difference"].dropna()
    assert set(ours.index) == {
        "vote AugMix",
        '"TPT+CoOp" AugMix',
        "vote PreAugment",
        "vote AutoAugment",
    }
    assert beside["gain"]["vote AugMix"] == pytest.approx(0.0692)


@pytest.mark.parametrize("number", ["02", "02b"])
def test_a_chapter_asks_thrice_and_answers_at_its_top(smoke_study, number):
    (executed,) = smoke_study.glob(f"{number}_*.ipynb")
    cells = nbformat.read(executed, as_version=4).cells
    first = next(cell for cell in cells if cell.get("outputs"))
    answer = first.outputs[0].data["text/markdown"]
    assert "**What to do.**" in answer
    assert re.search(r"points \[[-+\d.]+, [-+\d.]+\]", answer)
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert sum("**Predict, then run.**" in text for text in prose) == 3
    told = "".join(o.text for c in cells for o in c.get("outputs", []) if "text" in o)
    assert len(re.findall("[Tt]he guess", told)) >= 3


def test_a_tested_difference_is_told_by_its_verdict():
    row = {"difference": -0.062, "ci_low": -0.108, "ci_high": -0.021}
    assert findings.tested(row | {"verdict": "loses"}) == "loses 6.2 points [2.1, 10.8]"
    told = findings.tested(row | {"verdict": "no detectable difference"})
    assert told == "shows no detectable difference: -6.2 points [-10.8, -2.1]"


@pytest.mark.soak
def test_the_chapter_on_the_layout_of_imagenet_a(tmp_path):
    """Nothing labelled to learn from; random weights, since theirs are a download."""
    imagenet_layout(tmp_path, "imagenet-a")
    folder = run(
        "imagenet_a_rn50",
        tmp_path / "out",
        data_root=str(tmp_path),
        backbone="RN50-quickgelu",
        weights="random",
        view_images=2,
        augmentations=["preaugment"],
    )
    printed = texts(folder)
    assert "no learned starts" in printed
    assert "no rows with a matched step" in printed
    assert "at most" in printed  # memory, told beforehand
    results = pd.read_csv(folder / "results.csv")
    expected = {f"{m}-preaugment" for m in [*METHODS, *TUNED]}
    assert set(results["method"]) == expected | {"zero_shot"}
    assert set(results["n"]) == {2}


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("focus", "picto-dev", "picto, picto-a"),
        ("augmentations", ["augmix", "mixup"], "preaugment"),
        ("augmentations", ["augmix", "augmix"], "without repetition"),
        ("view_count", 9, "at least 10"),
        ("view_counts", [8, 16], "from 10 on"),
        ("fractions", [0.01], "1/64"),
        ("fractions", [1.5], "to 1"),
        ("step_counts", [0], "from 1 on"),
        ("learning_rates", [-0.005], "above 0"),
        ("matched_images", 1, "at least 2"),
        ("memory", 0.0, "above 0"),
        ("more_backbones", ["picto-rn"], "none of the other two"),
        ("more_backbones", ["picto-vit", "picto-vit"], "each once"),
        ("more_backbones", ["picto-vitt"], "picto-vit"),
        ("dev", "picto-devv", "picto-dev"),
        ("few_shot", "few-shot", 'or "" for none'),
        ("few_shot_views", 1, "at least 2"),
        ("coop_epochs", 1, "at least 2"),
        ("coop_file", "missing.pt", "a file that is there"),
    ],
)
def test_impossible_settings_stop_the_study(key, value, accepted):
    given = {"dataset": "picto", "shifts": ["picto-a"], "view_counts": [10, 64]}
    given |= {"focus": "picto-a", "augmentations": ["augmix"], "weights": "picto"}
    given |= {"backbone": "picto-rn", "more_backbones": ["picto-vit"]}
    check(given, "params/x/02.yaml")
    with pytest.raises(ValueError, match=accepted):
        check({**given, key: value}, "params/x/02.yaml")


def test_paths_of_checkpoints_count_from_the_repository():
    check({"coop_file": "pyproject.toml"}, "x")
    check({"coop_file": str(paths.ROOT / "pyproject.toml"), "cocoop_file": ""}, "x")
