"""The whole of `my_images` on folders as people have them: few, many, named anyhow.

Chapters run cell by cell in this process, which spares the start of a kernel for each.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from lookalikes import PHOTOGRAPHS, check_captions
from PIL import Image
from traitlets.config import Config

from helpers import data, paths, store
from helpers.models import clip
from helpers.paths import number_of
from helpers.results import predictions
from helpers.study import check, parameters, site

OURS = {"backbone": "picto-vit", "second_backbone": "picto-rn", "weights": "picto"}
OURS |= {"captioner": "picto-captioner", "embeddings": "clip"}
OURS |= {"diffusion": "picto-diffusion", "diffusion_steps": 1, "device": "cpu"}
FAST = {"view_images": 20, "view_count": 10, "dev_images": 4, "view_counts": [10]}
FAST |= {"fractions": [0.1, 0.5], "step_counts": [1], "learning_rates": [0.005]}
FAST |= {"augmentations": ["preaugment", "augmix"], "strength": 0.35}
FAST |= {"strengths": [0.35], "shares": [0.0, 1.0], "beams": 1, "part_images": 4}
FAST |= {"noise_shares": [0.0, 1.0], "template_counts": [4], "draws": 1, "repeats": 2}
FAST |= {"text_steps": 5, "seeds": 1, "visual_prompts": 2, "epochs": 2, "batch": 16}
FAST |= {"long_epochs": 2, "prompt_counts": [0, 2], "feature_epochs": 2}
FAST |= {"episodic_images": 2, "upl_epochs": 2}

PROTOCOLS = {"lafter": "inductive", "lafter_transductive": "transductive"}
PROTOCOLS |= {"tent_online": "transductive", "tent_marginal": "episodic"}
THREE = {"Hund": 3, "Straßenbahn": 2, "sports_car": 2}
TWELVE = ["dog", "cat", "car", "house", "tree", "Äpfel", "Brücke", "boat", "horse"]
TWELVE = dict.fromkeys([*TWELVE, "rocket", "coffee", "flower"], 5)


def photographs(root: Path, classes: dict[str, int]) -> Path:
    """A class-per-folder directory of small photographs and parts of them, no twins."""
    whole = [Image.open(file).convert("RGB") for file in PHOTOGRAPHS]
    rng, number = np.random.default_rng(0), 0
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            image = whole[number % len(whole)]
            if number >= len(whole):
                side = int(min(image.size) * rng.uniform(0.4, 0.8))
                x, y = (int(rng.integers(length - side)) for length in image.size)
                image = image.crop((x, y, x + side, y + side))
            image.resize((64, 64)).save(root / name / f"Bild {i}.jpg")
            number += 1
    return root


class _Shown(DisplayHook):
    """Keeps what the last line of a cell shows, as a kernel would send it."""

    def write_format_data(self, format_dict: dict, md_dict: dict | None = None) -> None:
        self.shell.shown.append(format_dict)

    def write_output_prompt(self) -> None:
        pass


class _Shell(InteractiveShell):
    displayhook_class = _Shown

    def run(self, code: str) -> tuple[bool, list]:
        """Run a cell: whether it came to its end, and its outputs."""
        self.shown: list[dict] = []
        with capture_output() as seen:
            done = self.run_cell(code, store_history=False).success
        shown = [*(rich.data for rich in seen.outputs), *self.shown]
        stream = nbformat.v4.new_output("stream", text=seen.stdout + seen.stderr)
        rich = [nbformat.v4.new_output("display_data", data=d) for d in shown]
        return done, [stream, *rich]


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """A shell of its own, which reads and writes nobody's profile and history."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    yield
    _Shell.clear_instance()


def run(study: str, root: Path, *only: str, **given: object) -> str:
    """Run chapters of `my_images`, all or these, as a study of this name; what they
    showed."""
    given = {"study": study, "data_root": str(root), **OURS, **FAST, **given}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in given.items()}
    jobs = parameters.plan("my_images", paths.PARAMS, paths.NOTEBOOKS, (), texts)
    jobs = [j for j in jobs if not only or number_of(j.notebook.stem) in only]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("error", UserWarning)
        return "\n".join(_run(job, paths.OUTPUTS / study) for job in jobs)


def _run(job: parameters.Job, folder: Path) -> str:
    _Shell.clear_instance()
    shell = _Shell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.display_formatter.active_types = ["text/plain", "text/html"]
    book, said = nbformat.read(job.notebook, as_version=4), ""
    for number, cell in enumerate(c for c in book.cells if c.cell_type == "code"):
        done, cell.outputs = shell.run(cell.source)
        cell.execution_count = number + 1
        if "parameters" in cell.metadata.get("tags", []):
            shell.push(job.injected)
        text = cell.outputs[0]["text"]
        assert done, f"{job.notebook.stem}:\n{cell.source}\n{text[-3000:]}"
        assert "Traceback" not in text, f"{job.notebook.stem}:\n{cell.source}\n{text}"
        shown = [out["data"].get("text/html", "") for out in cell.outputs[1:]]
        said += text + " ".join(shown)
    plt.close("all")
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, folder / job.notebook.name)
    return said


@pytest.fixture
def quick_gelu(monkeypatch):
    """CLIPs that load under another name than they are asked for, as OpenAI's RN50."""
    load, plain = clip.load, clip.with_quick_gelu

    def renamed(name: str, *options: object, **more: object) -> clip.Backbone:
        with pytest.MonkeyPatch.context() as loading:
            loading.setattr(clip, "with_quick_gelu", plain)
            found = load(name, *options, **more)
        return replace(found, name=f"{name}-quickgelu")

    monkeypatch.setattr(clip, "load", renamed)
    monkeypatch.setattr(clip, "with_quick_gelu", lambda name, _: f"{name}-quickgelu")


def test_three_classes_of_seven_photographs_under_names_of_their_own(
    tmp_path, quick_gelu
):
    """In bfloat16, so that each chapter runs in it."""
    root = photographs(tmp_path / "Fotos Köln 2023", THREE)
    texts = tmp_path / "texts.json"
    names = ["Hund", "Straßenbahn", "sports car"]
    texts.write_text(json.dumps({name: [f"A {name}.", "Big."] for name in names}))
    said = run("own_three", root, precision="bfloat16", texts=str(texts))
    folder = paths.OUTPUTS / "own_three"
    results = pd.read_csv(folder / "results.csv")
    assert set(results["dataset"]) == {root.name}
    loaded = ["picto-vit-quickgelu", "picto-rn-quickgelu"]
    assert set(results["backbone"]) == set(loaded)
    methods = {"ensemble_80", "tpt-preaugment", "caption", "autoclip_80", "lafter"}
    assert methods | {"vote-both", "rlcf_prompt"} <= set(results["method"])
    assert f"one prompt is right on {_accuracy(results):.1%} of {root.name}" in said
    page = site.build(folder).read_text(encoding="utf-8")
    assert root.name in page
    assert f"With {loaded[0]} unless another is named" in page
    assert f"{root.name} with {', '.join(loaded)}" in said  # the first is the first
    board = pd.read_csv(folder / "tables" / "07_leaderboard.csv")
    assert board["gain"].notna().any()
    told = "no learned starts", "no rows with a matched step", "one data set: no other"
    assert all(sentence in said for sentence in told)
    assert not (folder / "figures" / "06_visits.png").exists()  # nowhere to go
    assert not (folder / "tables" / "05_rates.csv").exists()  # no labels to choose by
    settings = results.set_index("method")["settings"]
    for method, protocol in PROTOCOLS.items():
        assert json.loads(settings[method])["protocol"] == protocol
    # The file has sentences alone: no descriptors, so that nothing can be pooled.
    assert "cupl" in set(results["method"])
    assert not {"dclip", "autoclip_pooled"} & set(results["method"])
    check_captions(folder, "Fotos_Köln_2023", 7)


def _accuracy(results: pd.DataFrame) -> float:
    rows = results.set_index(["backbone", "method"])
    return rows["top1"]["picto-vit-quickgelu", "zero_shot_photo"]


def test_twelve_classes_of_sixty_photographs(tmp_path):
    """The folder is the pool, the sweeps' set and the few-shot set as well, which is
    something else to chapters 02, 05 and 05b; there are no texts for 04."""
    root = photographs(tmp_path / "Zwölf Klassen", TWELVE)
    everything = dict.fromkeys(["unlabelled", "dev", "few_shot"], "folder")
    few = {"few_shot_images": 24, "few_shot_views": 2, "coop_epochs": 2}
    few |= {"cocoop_epochs": 2, "cocoop_images": 12}
    chapters = "02", "04", "05", "05b", "07"
    said = run("own_twelve", root, *chapters, **everything, **few)
    folder = paths.OUTPUTS / "own_twelve"
    results = pd.read_csv(folder / "results.csv")
    assert set(results["dataset"]) == {root.name}
    assert {"tpt_coop-preaugment", "lafter"} <= set(results["method"])
    assert "30 of the pool are tested" in said
    assert root.name in site.build(folder).read_text(encoding="utf-8")
    assert not {"cupl", "dclip"} & set(results["method"])  # no texts


def test_chapter_08_starts_from_the_wording_that_is_asked_for(tmp_path):
    root, said = photographs(tmp_path / "sketches", {"": 3}), "a sketch of a {}."
    given = {"class_names": "dog, car", "wording": said}
    told = run("own", root, "08", **given)
    assert "the first prompt: 'a sketch of a dog.'" in told
    assert "Note: the weights picto know drawn pictures of 64 classes only" in told
    ledgers = paths.OUTPUTS / "own" / "predictions" / "sketches" / "picto-vit"
    kept = predictions.read(ledgers / "zero_shot_photo.parquet")
    model = clip.load("picto-vit", "picto", "cpu")
    classes = model.encode_texts([said.format(name) for name in ("dog", "car")])
    images = store.image_features(model, data.read("folder", str(root), "dog, car"))
    expected = model.logit_scale * images @ classes.T
    assert np.allclose(predictions.logits(kept), expected, atol=0.01)


def test_chapter_08_asks_nobody_twice_and_tells_of_the_labels_it_was_given(tmp_path):
    root = photographs(tmp_path / "Ferien", {"": 8})
    shown = [*["dog"] * 3, *["none"] * 5]
    rows = [f"Bild {i}.jpg,{name}" for i, name in enumerate(shown)]
    (root / "labels.csv").write_text("\n".join(["path,name", *rows]), encoding="utf-8")
    said = run("labels", root, "08", class_names="dog, cat, car, rocket, coffee")
    assert "3 of them with a label" in said
    assert "5 of them show none of the classes" in said
    folder = paths.OUTPUTS / "labels"
    assert pd.read_csv(folder / "to_label.csv").empty
    (answer,) = pd.read_csv(folder / "tables" / "08_findings.csv")["answer"]
    assert "The choice used none of the 3 labels. " in answer
    (settled,) = pd.read_csv(folder / "tables" / "08_settled.csv").to_dict("records")
    by = f"By the {settled['labelled']} labels of images on which they differ, the gain"
    assert (by in answer) == (settled["labelled"] > 0)
    assert "that are proposed" not in said


@pytest.mark.soak
@pytest.mark.parametrize("classes", [{"a": 1, "b": 0}, {"a": 1, "b": 1}])
def test_one_image_or_two_claim_nothing(classes, tmp_path):
    study = f"own_{sum(classes.values())}"
    said = run(study, photographs(tmp_path / "so few", classes))
    assert "no T from so few images" in said
    folder = paths.OUTPUTS / study
    answers = pd.read_csv(folder / "tables" / "07_findings.csv")["answer"]
    assert len(answers) > 4
    claims = answers.str.contains(r"\b(?:gains?|loses?) \d")
    assert not claims.any(), answers[claims].tolist()
    settings = pd.read_csv(folder / "results.csv").set_index("method")["settings"]
    protocol = json.loads(settings["lafter"])["protocol"]
    assert protocol == ("inductive" if classes["b"] else "transductive")
    assert "nan points" not in said


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"view_count": 2, "view_share": 0.25}, "a number from 1/2, one view of 2"),
        ({"prompt_sets": ["photo"], "closer": "photo"}, "two templates or more"),
        ({"transductive": "yes"}, "true or false"),
        ({"wording": "{}, sketched"}, "words that end with the name"),
        ({"wording": "a sketch"}, "words that end with the name"),
        ({"wording": "a {} of a {}."}, "words that end with the name"),
    ],
)
def test_settings_that_leave_nothing_are_refused_before_the_work(given, fault):
    with pytest.raises(ValueError, match=fault):
        check(given, "x")


def test_a_clip_is_not_compared_with_itself_under_another_name():
    names = {"backbone": "RN50", "second_backbone": "RN50-quickgelu"}
    with pytest.raises(ValueError, match="another one than backbone"):
        check({**names, "weights": "openai"}, "x")
    check({**names, "weights": "random"}, "x")
