"""Every chapter runs on other people's images: real photographs, official layouts."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import skimage
import sklearn
from lookalikes import imagenet_layout, picture

from helpers import paths
from helpers.methods import registry
from helpers.paths import number_of
from helpers.results import predictions
from helpers.study import main

SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
PHOTOGRAPHS = {
    "people": [SKIMAGE / "astronaut.png", SKIMAGE / "camera.png"],
    "things": [SKIMAGE / "coffee.png", SKIMAGE / "coins.png", SKIMAGE / "rocket.jpg"],
    "animals": [SKIMAGE / "chelsea.png", SKIMAGE / "horse.png"],
    "grass_and_flowers": [SKLEARN / "flower.jpg", SKIMAGE / "grass.png"],
    "buildings": [SKLEARN / "china.jpg", SKIMAGE / "brick.png"],
}


def papermill(notebook: Path, output: Path, params: str, **overrides: object) -> str:
    """Run a notebook as a user would, from another directory; what it printed."""
    command = [sys.executable, "-m", "papermill", str(notebook), str(output)]
    own = paths.PARAMS / params / f"{number_of(notebook.stem)}.yaml"
    for file in filter(Path.is_file, (paths.PARAMS / f"{params}.yaml", own)):
        command += ["-f", str(file)]
    command += ["--no-progress-bar"]
    for key, value in overrides.items():
        command += ["-p", key, str(value)]
    done = subprocess.run(command, cwd=output.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def chapter(number: str) -> Path:
    return next(paths.NOTEBOOKS.glob(f"{number}_*.ipynb"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A class-per-folder directory of photographs, one of them damaged."""
    root = tmp_path_factory.mktemp("photographs")
    for name, files in PHOTOGRAPHS.items():
        (root / name).mkdir()
        for file in files:
            shutil.copy(file, root / name)
    whole = (root / "people" / "astronaut.png").read_bytes()
    (root / "people" / "cut_off.png").write_bytes(whole[: len(whole) // 3])
    return root


def test_zero_shot_on_a_folder_of_photographs(photographs, tmp_path):
    """The full-size architecture, with random weights: theirs are a download."""
    output = tmp_path / "out.ipynb"
    printed = papermill(
        chapter("01"),
        output,
        "my_images",
        study="photographs",
        data_root=photographs,
        backbone="RN50-quickgelu",
        weights="random",
        device="cpu",
    )
    assert "unknown parameter" not in printed.lower()
    assert "warning" not in printed.lower(), printed
    results = pd.read_csv(paths.OUTPUTS / "photographs" / "results.csv")
    assert set(results["n"]) == {sum(map(len, PHOTOGRAPHS.values()))}
    assert set(results["backbone"]) == {"RN50-quickgelu"}
    text = nbformat.writes(nbformat.read(output, 4))
    assert "grass and flowers" in text
    assert "cut_off.png" in text  # what was left out is told


@pytest.mark.soak
def test_chapters_on_the_layout_of_imagenet_a(tmp_path):
    """One prompt, views that a diffusion model drew, and what to make of both."""
    imagenet_layout(tmp_path, "imagenet-a")
    given = {"study": "lookalike", "data_root": tmp_path, "device": "cpu"}
    given |= {"backbone": "picto-rn", "weights": "picto"}
    drawn = {"diffusion": "picto-diffusion", "view_images": 6, "view_count": 10}
    drawn |= {"dev_images": 6}
    for number in ("01", "02b", "07"):
        output, own = tmp_path / f"{number}.ipynb", drawn if number == "02b" else {}
        printed = papermill(chapter(number), output, "imagenet_a_rn50", **given, **own)
        assert "warning" not in printed.lower(), printed
    predictions = paths.OUTPUTS / "lookalike" / "predictions" / "imagenet-a"
    ledger = pd.read_parquet(predictions / "picto-rn" / "zero_shot_photo.parquet")
    assert ledger["label"].tolist() == list(range(200))
    assert ledger["image_id"][0].startswith("n01498041/")
    assert ledger["logits"].map(len).eq(200).all()
    tables = paths.OUTPUTS / "lookalike" / "tables"
    assert len(pd.read_csv(tables / "01_published.csv"))
    assert len(pd.read_csv(tables / "07_published.csv"))
    board = pd.read_csv(tables / "07_leaderboard.csv").set_index("method")
    assert board["n"]["difftpt-both"] == 6


SMALL = {
    "view_count": 10,
    "view_images": 4,
    "augmentations": "[preaugment]",
    "dev_images": 4,
    "view_counts": "[10]",
    "fractions": "[0.1]",
    "step_counts": "[1]",
    "learning_rates": "[0.005]",
    "prompt_sets": "[openai_7, styles]",
    "template_counts": "[4]",
    "draws": 1,
    "text_steps": 20,
    "epochs": 2,
    "long_epochs": 2,
    "upl_epochs": 2,
    "feature_epochs": 2,
    "seeds": 1,
    "visual_prompts": 2,
    "prompt_counts": "[0]",
    "episodic_images": 2,
    "orders": 2,
    "alphas": "[0.1]",
    "tails": "[10.0]",
    "batch_sizes": "[8]",
    "dose_images": 4,
}


@pytest.mark.soak
@pytest.mark.parametrize(
    ("backbone", "weights"), [("picto-rn", "picto"), ("RN50-quickgelu", "random")]
)
def test_the_study_runs_to_its_site_without_any_optional_model(
    tmp_path, capsys, backbone, weights
):
    """All of imagenet_a_rn50 on 40 images of its layout, embedded and of full size."""
    root = imagenet_layout(tmp_path, "imagenet-a", every=5)
    for seed, file in enumerate(sorted(root.glob("*/*.jpg"))):
        picture(file, seed, (96, 72))
    given = {"data_root": tmp_path, "backbone": backbone, "weights": weights}
    given |= {"device": "cpu", **SMALL}
    options = [part for k, v in given.items() for part in ("-p", k, str(v))]
    outputs = ["--outputs", str(tmp_path / "out")]
    assert main(["run", "imagenet_a_rn50", *options, *outputs]) == 0
    told = capsys.readouterr().out
    for chapter, page in (
        ("02b_diffusion_views", "stabilityai/sd-turbo"),
        ("03_caption_prompts", "nlpconnect/vit-gpt2-image-captioning"),
        ("03_caption_prompts", "sentence-transformers/all-MiniLM-L6-v2"),
    ):
        lines = [line for line in told.splitlines() if line.startswith(chapter)]
        assert any("left out what needs a model" in line for line in lines), told
        assert any(f"`hf download {page}`" in line for line in lines), told
    folder = tmp_path / "out" / "imagenet_a_rn50"
    chapters = len(list(paths.NOTEBOOKS.glob("*.ipynb")))
    assert len(list(folder.glob("*.ipynb"))) == chapters - 1  # 00 is picto's
    methods = set(pd.read_csv(folder / "results.csv")["method"])
    assert {"zero_shot_photo", "tpt-preaugment", "autoclip_styles", "lafter"} <= methods
    assert main(["site", "imagenet_a_rn50", *outputs]) == 0
    index = (folder / "site" / "index.html").read_text()
    assert all(f"{path.stem}.html" in index for path in folder.glob("*.ipynb"))


@pytest.mark.parametrize(
    "number",
    ["01", "02", *(pytest.param(n, marks=pytest.mark.soak) for n in ("04", "06"))],
)
def test_more_backbones_leave_ledgers_and_stay_out_of_the_figures(tmp_path, number):
    """As of a second backbone; tables of the chapter are about the first alone."""
    some = {"second_backbone": "", "more_backbones": '["picto-vit"]', "images": "24"}
    some |= {"02": {"augmentations": "[preaugment]", "few_shot": ""}}.get(number, {})
    pairs = [part for pair in some.items() for part in ("-p", *pair)]
    where = ["--outputs", str(tmp_path)]
    assert main(["run", "smoke", "--only", number, *where, *pairs]) == 0
    folder = tmp_path / "smoke"
    found = {m: set() for m in ("picto-rn", "picto-vit")}
    for ledger in predictions.read_all(folder):
        about = ledger.attrs
        found[about["backbone"]].add((about["dataset"], about["method"]))
    every = {dataset for dataset, _ in found["picto-rn"]}
    headline = {k for k, x in registry.entries().items() if x.headline}
    asked = {(d, m) for d, m in found["picto-rn"] if m.partition("-")[0] in headline}
    assert {d for d, _ in asked} == every == {"picto", "picto-s", "picto-a"}
    assert found["picto-vit"] <= found["picto-rn"]
    lacking = asked - found["picto-vit"]
    assert not lacking, lacking
    for path in folder.glob("tables/*.csv"):
        assert "picto-vit" not in path.read_text(), path
