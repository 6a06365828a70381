"""The doctor: what it finds wrong before a study runs, and what it says of it."""

import lookalikes
import numpy as np
import pytest
from PIL import Image

from helpers import data, paths
from helpers.data import dataset as images
from helpers.models import embedded
from helpers.results import predictions
from helpers.study import doctor, parameters

RANDOM = {"backbone": "RN50-quickgelu", "weights": "random"}


@pytest.fixture(autouse=True)
def outputs(tmp_path_factory, monkeypatch):
    """Caches and outputs of the test's own."""
    folder = tmp_path_factory.mktemp("study")
    monkeypatch.setattr(images, "CACHE", folder / "cache")
    monkeypatch.setattr(doctor, "OUTPUTS", folder / "outputs")
    return folder / "outputs"


def diagnose(dataset: str, root="", **parameters) -> doctor.Report:
    values = {"study": "s", "dataset": dataset, "data_root": str(root), **RANDOM}
    return doctor.diagnose({**values, **parameters})


def found(report: doctor.Report, topic: str, mark: str) -> str:
    """All lines with this topic and mark, joined."""
    return "\n".join(text for t, m, text in report.lines if (t, m) == (topic, mark))


def test_a_sound_study_is_ready(tmp_path, outputs):
    root = lookalikes.photos(tmp_path / "pets", {"cat": 3, "dog": 4})
    report = diagnose("folder", root)
    assert report.ok
    good = found(report, "folder", "✓")
    assert f"7 images of 2 classes in {root}" in good
    assert "label 0: cat/000.jpg = 'cat'" in good
    assert "label 1: dog/000.jpg = 'dog'" in good
    assert "all 7 pictures can be decoded" in good
    assert report.text().endswith("ready to run")
    assert (outputs / "s/doctor/pets.png").is_file()


def test_missing_data_come_with_address_size_and_layout(tmp_path):
    report = diagnose("imagenet-r", tmp_path)
    assert not report.ok
    bad = found(report, "imagenet-r", "✗")
    assert "github.com/hendrycks/imagenet-r" in bad
    assert "2,190 MB" in bad
    assert "imagenet-r/n01443537/art_0.jpg" in bad
    assert "not ready" in report.text()


def test_five_known_labels_are_shown(tmp_path):
    lookalikes.imagenet_layout(tmp_path, "imagenet-a")
    report = diagnose("imagenet-a", tmp_path, images=10)
    good = found(report, "imagenet-a", "✓")
    assert good.count("label ") == 5
    assert "label 0: n01498041/img_0.jpg = 'stingray'" in good
    assert "label 199: n12267677/img_0.jpg = 'acorn'" in good
    assert "this study uses 10 of the images" in good
    assert "README.txt" in good
    assert "the official set has 7,500" in found(report, "imagenet-a", "!")


def test_partial_copy_and_twin_names_are_told(tmp_path):
    lookalikes.imagenet_layout(tmp_path, "imagenet-sketch", every=2)
    report = diagnose("imagenet-sketch", tmp_path, images=20)
    notes = found(report, "imagenet-sketch", "!")
    assert "500 of 1000 class folders are missing" in notes
    assert "500 classes have no image" in notes
    assert "great white shark" not in notes  # index 2 is there
    assert "missile, sunglasses" in notes
    assert report.ok


def test_damaged_and_foreign_files_are_listed(tmp_path):
    root = lookalikes.photos(tmp_path / "pets", {"cat": 3, "dog": 4})
    damaged = lookalikes.damaged(root / "dog")
    (root / "dog" / "notes.txt").write_text("x")
    notes = found(diagnose("folder", root), "folder", "!")
    for name in (*damaged, "notes.txt"):
        assert f"dog/{name}" in notes
    assert "3 damaged files" in notes


def test_numbers_of_images_that_differ_are_explained(tmp_path):
    root = lookalikes.photos(tmp_path / "pets", {"cat": 3, "dog": 4})
    lookalikes.damaged(root / "dog")
    good = found(diagnose("folder", root), "folder", "✓")
    assert "10 images of 2 classes" in good
    assert "this study uses 7 of the images: 3 are damaged" in good
    good = found(diagnose("folder", root, images=2), "folder", "✓")
    assert "of the images: the parameter images is 2" in good


def test_a_class_without_a_sound_picture_is_told_once(tmp_path):
    root = lookalikes.photos(tmp_path / "pets", {"cat": 3, "dog": 4, "eel": 0})
    (root / "fox").mkdir()
    (root / "fox" / "a.jpg").write_bytes(b"no picture")
    notes = found(diagnose("folder", root), "folder", "!")
    assert "1 class has no image and only serves as a wrong answer: eel" in notes
    assert "1 class has damaged images alone and only serves as a wrong" in notes
    assert notes.count("eel") == 1


def test_the_doctor_says_which_images_have_no_label(tmp_path):
    root = lookalikes.photos(tmp_path / "pets", {"cat": 3, "dog": 4})
    lookalikes.picture(root / "loose.jpg")
    notes = found(diagnose("folder", root, class_names="cat, dgo"), "folder", "!")
    assert "folder dog: no class has its name (did you mean dgo?)" in notes
    assert "loose.jpg lies in no folder of a class: move it" in notes


def test_shifts_are_checked_too(tmp_path):
    report = diagnose("digits", tmp_path, shifts=["imagenet-v2"])
    assert "1,797 images of 10 classes" in found(report, "digits", "✓")
    assert "ImageNetV2" in found(report, "imagenet-v2", "✗")


def test_no_time_is_told_while_images_are_missing(tmp_path):
    jobs = parameters.plan("imagenet_a_rn50", paths.PARAMS, paths.NOTEBOOKS)
    merged = {key: value for job in jobs for key, value in job.parameters.items()}
    given = {**merged, "data_root": str(tmp_path), **RANDOM}
    assert not any(t == "time" for t, *_ in doctor.diagnose(given, jobs).lines)


def test_numbers_as_names_are_pointed_out(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"0": 1, "1": 1})
    assert "classes.csv" in found(diagnose("folder", root), "folder", "!")


def test_numbers_before_most_names_are_pointed_out(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"12_dog": 1, "57_cat": 1, "cow": 1})
    notes = found(diagnose("folder", root), "folder", "!")
    assert "12 dog, 57 cat" in notes
    assert "classes.csv" in notes


def test_codes_that_are_taken_off_are_told(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"01.cat": 1, "02.Maltese_dog": 1})
    report = diagnose("folder", root)
    assert report.ok
    assert "01.cat is 'cat'" in found(report, "folder", "!")


def test_contact_sheet_shows_each_picture_above_its_name(tmp_path):
    root = tmp_path / "x"
    for i, colour in enumerate(("red", "lime", "blue")):
        (root / f"class {i}").mkdir(parents=True)
        Image.new("RGB", (30, 30), colour).save(root / f"class {i}" / "a.png")
    dataset = data.read("folder", str(root))
    sheet = Image.open(doctor.contact_sheet(dataset, tmp_path / "sheet.png"))
    colours = [sheet.getpixel((128 * i + 64, 64)) for i in range(3)]
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    names = np.asarray(sheet.convert("L"))[128:]
    assert all((names[:, 128 * i : 128 * (i + 1)] < 128).any() for i in range(3))
    assert (names[:, 3 * 128 :] == 255).all()


def test_long_names_stay_in_their_tile(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"w" * 60: 1, "b": 0})
    lookalikes.picture(root / "b" / "strip.png", size=(900, 1))
    dataset = data.read("folder", str(root))
    sheet = Image.open(doctor.contact_sheet(dataset, tmp_path / "sheet.png"))
    names = np.asarray(sheet.convert("L"))[128:]
    assert (names[:, :3] == 255).all()
    assert (names[:, 253:] == 255).all()


# Weights


def check_weights(backbone: str, weights: str) -> tuple[doctor.Report, bool]:
    report = doctor.Report()
    return report, doctor.check_weights(report, backbone, weights)


def test_plain_backbone_with_openai_weights_is_pointed_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    report, _ = check_weights("RN50", "openai")
    assert "write that" in found(report, "RN50, openai", "!")


def test_weights_to_download_are_told_with_their_page(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a: None)
    monkeypatch.setattr("helpers.models.hub.out_of_reach", lambda: "")
    report, local = check_weights("RN50-quickgelu", "openai")
    note = found(report, "RN50-quickgelu, openai", "!")
    assert not local
    assert "https://huggingface.co/timm/resnet50_clip.openai" in note
    assert "0.4 GB" in note  # 102 million parameters
    monkeypatch.setattr("helpers.models.hub.out_of_reach", lambda: "no network")
    report, _ = check_weights("RN50-quickgelu", "openai")
    assert not report.ok
    assert "and no network: download them elsewhere from https://" in report.text()


def test_weights_in_the_cache_are_found(monkeypatch, tmp_path):
    file = tmp_path / "open_clip_model.safetensors"
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda repository, name: str(file) if name == file.name else None,
    )
    report, local = check_weights("ViT-B-16-quickgelu", "openai")
    assert local
    assert str(file) in found(report, "ViT-B-16-quickgelu, openai", "✓")


def test_models_besides_clip_are_looked_for(monkeypatch, tmp_path):
    lacking = {"captioner": "", "embeddings": "not on this machine"}
    monkeypatch.setattr(doctor.optional, "lacking", lambda key, name: lacking[key])
    report = doctor.Report()
    given = {"captioner": str(tmp_path), "embeddings": "all-MiniLM-L6-v2"}
    doctor.check_models(report, given)
    assert report.ok, "a study does without them"
    assert report.text().endswith("ready to run, leaving out what is marked ○")
    (_, here, _), (_, mark, text) = report.lines
    assert (here, mark) == (doctor.GOOD, doctor.LEFT_OUT)
    assert "hf download sentence-transformers/all-MiniLM-L6-v2" in text
    assert "leaves out what needs a keyword in chapter 03" in text


def test_weights_files_must_exist(tmp_path):
    file = tmp_path / "mine.safetensors"
    report, local = check_weights("RN50-quickgelu", str(file))
    assert not local
    assert f"no weights file at {file}" in report.text()
    assert "choose one of" not in report.text()
    report, _ = check_weights("RN50-quickgelu", "opanai")
    assert "(did you mean openai?)" in report.text()
    file.write_bytes(b"x" * 2_000_000)
    report, local = check_weights("RN50-quickgelu", str(file))
    assert not local
    assert f"{file} is no weights file" in report.text()
    own = embedded.weights_file("picto-rn")
    report, local = check_weights("picto-rn", str(own))
    assert local
    size = f"{own.stat().st_size / 1e6:,.0f} MB"
    assert f"state dict: {own}, {size}" in found(report, f"picto-rn, {own}", "✓")


def test_unknown_backbone_is_an_error():
    assert not check_weights("RN51", "openai")[0].ok


# Published numbers


def write_ledger(outputs, root, accuracy: float, backbone: str) -> None:
    """A zero-shot ledger of the study that is right on this share of the images."""
    dataset = data.read("imagenet-a", str(root))
    right = np.arange(len(dataset)) < accuracy * len(dataset)
    guesses = np.where(right, dataset.labels, (dataset.labels + 1) % 200)
    predictions.write(
        outputs / "s",
        dataset="imagenet-a",
        backbone=backbone,
        method="zero_shot_photo",
        ids=dataset.ids,
        labels=dataset.labels,
        logits=np.eye(200, dtype=np.float32)[guesses],
        seconds_per_image=0.0,
        settings={},
    )


@pytest.mark.parametrize(
    ("accuracy", "mark", "text"),
    [(0.22, "✓", "published 21.83%"), (0.005, "✗", "shifted")],
)
def test_zero_shot_is_compared_with_the_papers(
    tmp_path, outputs, monkeypatch, accuracy, mark, text
):
    monkeypatch.setattr(doctor, "check_weights", lambda *arguments: False)
    lookalikes.imagenet_layout(tmp_path, "imagenet-a")
    write_ledger(outputs, tmp_path, accuracy, "RN50-quickgelu")
    report = diagnose("imagenet-a", tmp_path, weights="openai")
    assert text in found(report, "imagenet-a, zero-shot", mark)


def test_before_the_run_the_expected_accuracy_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "check_weights", lambda *arguments: False)
    lookalikes.imagenet_layout(tmp_path, "imagenet-a")
    report = diagnose("imagenet-a", tmp_path, weights="openai", backbone="RN50")
    assert "expect 21.83%" in found(report, "imagenet-a, zero-shot", "✓")


PUBLISHED = {"a paper": 0.2183, "its code": 0.2188}


@pytest.mark.parametrize(
    ("top1", "n", "mark", "text"),
    [
        (0.2180, 7500, "✓", "difference -0.03"),
        (0.2237, 7500, "✓", "its code"),  # the nearest source counts: +0.49
        (0.2239, 7500, "!", "ensemble"),
        (0.2324, 7500, "!", "ensemble"),
        (0.2020, 7500, "!", "curated"),
        (0.1500, 7500, "!", "QuickGELU"),
        (0.0050, 7500, "✗", "0.5%"),
        (0.2500, 200, "✓", "on 200 images"),  # within twice the standard error
    ],
)
def test_accuracies_are_judged(top1, n, mark, text):
    verdict = doctor.judge(top1, n=n, full=7500, classes=200, published=PUBLISHED)
    assert verdict[0] == mark
    assert text in verdict[1]


def test_chance_without_published_numbers_is_noted():
    assert doctor.judge(0.10, 500, 0, 10, {})[0] == "!"
    assert doctor.judge(0.40, 500, 0, 10, {})[0] == "✓"


def test_another_rasteriser_is_noticed(monkeypatch):
    report = diagnose("picto", images=64)
    assert "drawn as picto-rn saw it" in found(report, "picto", "✓")
    monkeypatch.setattr("picto.pool.world_hash", lambda: "0123456789ab")
    report = diagnose("picto", images=64)
    noted = found(report, "picto", "!")
    assert f"pip install pillow=={embedded.card('picto-rn')['pillow']}" in noted
    assert report.ok
