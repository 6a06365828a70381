"""`study classify`: pictures, names and methods on the command line, no study."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import lookalikes
import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from helpers import data, store
from helpers.chapters import adaptation
from helpers.chapters.notebook import Run
from helpers.data.dataset import Dataset, Files
from helpers.data.naming import parse
from helpers.methods import autoclip, registry, zero_shot
from helpers.models import clip
from helpers.prompts.templates import TEMPLATES
from helpers.results import predictions
from helpers.study import classify, main

SKIMAGE = Path(skimage.__file__).parent / "data"
NAMES = "airplane, apple, cat, umbrella"
DEFAULT = {"zero_shot", "vote", "autoclip", "tpt"}
COMMAND = "import sys; from helpers.study import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A drawn picture of each of `NAMES`, as PNG under its class's name."""
    folder, names = tmp_path_factory.mktemp("drawn"), NAMES.split(", ")
    dataset = data.read("picto-few-shot")
    for name in names:
        position = int(np.argmax(dataset.labels == dataset.class_names.index(name)))
        dataset.image(position).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def model():
    return clip.load("picto-rn", "picto", device="cpu")


def asked(capsys, *arguments, status=0):
    """The JSON object that the command prints."""
    assert main(["classify", *map(str, arguments), "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_methods_know_the_drawn_pictures(drawn, capsys):
    files = sorted(drawn.iterdir())
    found = asked(capsys, *files, "--names", NAMES)
    assert found["names"] == [[name] for name in NAMES.split(", ")]
    assert found["seconds"].keys() == {"load", "prompts", "templates"}
    assert [image["path"] for image in found["images"]] == list(map(str, files))
    for file, image in zip(files, found["images"], strict=True):
        assert (image["width"], image["height"]) == Image.open(file).size
        assert image["methods"].keys() == DEFAULT
        assert image["agree"]
        shared = image["seconds"]
        for key, answer in image["methods"].items():
            assert answer["prediction"] == file.stem
            assert answer["confidence"] == answer["probabilities"][file.stem]
            assert sum(answer["probabilities"].values()) == pytest.approx(1)
            looking = shared["views" if key in ("vote", "tpt") else "image"]
            alone = shared["read"] + looking + answer["seconds"]
            assert answer["seconds_alone"] == pytest.approx(alone)
            assert answer["seconds"] > 0


def test_answers_are_those_of_the_chapters(drawn, model, tmp_path):
    """Of every method that one image suffices for, from the same views."""
    files = sorted(drawn.iterdir())
    names = tuple(NAMES.split(", "))
    dataset = Dataset(
        "drawn",
        ids=tuple(file.name for file in files),
        labels=np.arange(len(files)),
        class_names=names,
        read=Files(tuple(files), upright=True),
        files=tuple(files),
    )
    run = Run("02_x", "toy", tmp_path / "toy", 3, torch.device("cpu"))
    text = adaptation.prepare(model, names)
    features = store.image_features(model, dataset)
    templates = store.template_features(model, names, TEMPLATES["openai_80"])
    case = features, templates, model.logit_scale
    classes = zero_shot.ensemble(templates)
    expected = {
        "autoclip": autoclip.autoclip(*case),
        "mean": autoclip.uniform(*case),
        "ensemble": zero_shot.zero_shot(features, classes, model.logit_scale),
    }
    plain = {"zero_shot": adaptation.first_view}
    ledgers = adaptation.evaluate(run, model, dataset, text, plain)
    functions = classify.chosen(sorted(classify.usable()))
    others = functions.keys() - expected.keys() - plain.keys()
    assert others >= {"vote", "zero", "mta", "tps", "tpt", "tpt_revote", "ctpt", "atpt"}
    methods = {
        key: adaptation.by_tuning(functions[key])
        if "tpt" in key
        else adaptation.in_feature_space(functions[key])
        for key in others
    }
    made = dataset, text, methods, "preaugment", 12
    ledgers += adaptation.evaluate(run, model, *made)
    for ledger in ledgers:
        key = ledger.attrs["method"].removesuffix("-preaugment")
        expected[key] = torch.tensor(predictions.logits(ledger))
    classifier = classify.Classifier(
        model, parse(NAMES), functions, views=12, seed=run.seed
    )
    for i, file in enumerate(files):
        answers = classifier(file)["methods"]
        assert answers.keys() == expected.keys()
        for key, answer in answers.items():
            shares = expected[key][i].softmax(dim=-1).tolist()
            found = list(answer["probabilities"].values())
            assert found == pytest.approx(shares, abs=2e-3), key


def test_the_order_of_names_and_files_does_not_matter(drawn, capsys):
    files = sorted(drawn.iterdir())[:2]
    one = asked(capsys, *files, "--names", NAMES)["images"]
    turned = ", ".join(reversed(NAMES.split(", ")))
    other = asked(capsys, *files[::-1], "--names", turned)["images"][::-1]
    again = asked(capsys, files[1], "--names", NAMES)["images"][0]
    for a, b in zip(one, other, strict=True):
        for key in DEFAULT:
            shares = a["methods"][key]["probabilities"]
            assert b["methods"][key]["probabilities"] == pytest.approx(shares, abs=1e-4)
    for key, answer in one[1]["methods"].items():
        assert again["methods"][key]["probabilities"] == answer["probabilities"]


def test_seed_and_name_decide_the_views(drawn, capsys, tmp_path):
    twin = tmp_path / "other" / "cat.png"
    twin.parent.mkdir()
    twin.write_bytes((drawn / "cat.png").read_bytes())
    renamed = twin.with_name("renamed.png")
    renamed.write_bytes(twin.read_bytes())
    given = ["--names", NAMES, "--method", "vote,zero_shot"]
    images = asked(capsys, drawn / "cat.png", twin, renamed, *given)["images"]
    (seeded,) = asked(capsys, twin, *given, "--seed", 1)["images"]

    def shares(image, key):
        return image["methods"][key]["probabilities"]

    assert shares(images[0], "vote") == shares(images[1], "vote")
    for image in (images[2], seeded):
        assert shares(image, "vote") != shares(images[0], "vote")
        assert shares(image, "zero_shot") == shares(images[0], "zero_shot")


@pytest.mark.parametrize(
    ("option", "value", "moved"),
    [
        ("context", "a sketch of a", {"zero_shot", "vote", "tpt"}),
        ("templates", "styles", {"autoclip"}),
        ("recipe", "augmix", {"vote", "tpt"}),
        ("views", 20, {"vote", "tpt"}),
    ],
)
def test_an_option_moves_the_methods_that_use_it(drawn, model, option, value, moved):
    methods = classify.chosen(classify.METHODS)
    said = [
        classify.Classifier(model, parse(NAMES), methods, **{"views": 10} | given)(
            drawn / "umbrella.png"
        )["methods"]
        for given in ({}, {option: value})
    ]
    same = {
        key
        for key in methods
        if said[0][key]["probabilities"] == said[1][key]["probabilities"]
    }
    assert same == methods.keys() - moved


def test_a_class_has_its_best_name(drawn, capsys):
    given = [drawn / "cat.png", "--method", "zero_shot", "--names"]
    plain = asked(capsys, *given, "cat, apple")["images"][0]
    several = asked(capsys, *given, "ladder | cat, apple | sun")
    assert several["names"] == [["ladder", "cat"], ["apple", "sun"]]
    answer = several["images"][0]["methods"]["zero_shot"]
    assert answer["prediction"] == "ladder"
    assert answer["probabilities"].keys() == {"ladder", "apple"}
    assert plain["methods"]["zero_shot"]["prediction"] == "cat"


def test_table_says_who_says_what(drawn, capsys):
    method = ["--method", "zero-shot, AutoCLIP", "--method", "ZERO"]
    assert main(["classify", str(drawn / "apple.png"), "--names", NAMES, *method]) == 0
    told = capsys.readouterr().out
    assert "64 classes only. For photographs" in told
    assert "320 of openai_80" in told
    rows = [line.split() for line in told.splitlines()]
    assert [row[0] for row in rows[-5:-2]] == ["zero-shot", "AutoCLIP", "ZERO"]
    assert all(row[1] == "apple" for row in rows[-5:-2])
    assert told.endswith("All say apple.\n")


def test_disagreement_is_told():
    said = {"zero_shot": "cat", "tpt": "fox", "vote": "cat"}
    answers = {key: {"prediction": name} for key, name in said.items()}
    assert classify.verdict(answers) == (
        "They disagree: cat (zero-shot, vote of views); fox (TPT)."
    )


def test_foreign_names_are_told(model):
    classes = parse("tabby | cat, fox, badger, elk, lynx")
    assert "not fox, badger, elk and 1 others. For" in classify.about(model, classes)


def test_names_that_are_hard_to_tell_apart_are_told(drawn, capsys):
    given = [str(drawn / "cat.png"), "--method", "zero_shot", "--names"]
    for names, told in (("cat, cat!", True), ("cat | cat!, apple", False)):
        assert main(["classify", *given, names]) == 0
        assert ("'cat' and 'cat!'" in capsys.readouterr().err) == told


def test_photographs_of_all_kinds(capsys, tmp_path):
    """Grey, transparent, turned by EXIF; a damaged one is named and left out."""
    grey, clear = SKIMAGE / "camera.png", SKIMAGE / "logo.png"
    turned, bad = tmp_path / "turned.jpg", tmp_path / "bad.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), "red").save(turned, exif=exif)
    bad.write_bytes(b"no picture")
    heic = tmp_path / "photo.HEIC"
    heic.write_bytes(b"heic")
    files = [grey, bad, clear, heic, turned, tmp_path, tmp_path / "gone.jpg"]
    given = ["--names", "cat, dog", "--weights", "random", "--method", "vote"]
    assert main(["classify", *map(str, files), *given, "--json"]) == 1
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert "random" in found["about"]
    images = found["images"]
    assert [image["path"] for image in images] == list(map(str, files))
    errors = [image.get("error", "") for image in images]
    words = [
        "",
        "no picture",
        "",
        "export the photo as JPEG",
        "",
        "chapter 08",
        "no su",
    ]
    for file, error, word in zip(files, errors, words, strict=True):
        assert bool(error) == bool(word)
        assert word in error
        assert (f"{file}: {error}" in told.err) == bool(error)
    assert (images[4]["width"], images[4]["height"]) == (40, 60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--names", "cat"], "at least two"),
        (["--names", "gone.txt"], "no file .*gone.txt"),
        (["--names", NAMES, "--method", "tippt"], "'tippt' is unknown; .* tpt,"),
        (["--names", NAMES, "--method", "TENT"], "a stream of .*: chapter 05b"),
        (["--names", NAMES, "--method", "coop"], "labelled images: chapter 02"),
        (["--names", NAMES, "--method", "caption"], "a captioner: chapter 03"),
        (["--names", NAMES, "--method", "difftpt"], "a diffusion model: chapter 02b"),
        (["--names", NAMES, "--method", "lafter"], "unlabelled .*: chapter 05"),
        (["--names", NAMES, "--method", "rlcf"], "another CLIP: chapter 05b"),
        (["--names", NAMES, "--method", "tent_marginal"], "more than prompts and"),
        (["--names", NAMES, "--method", "tpt-more"], "variant: chapter 02b"),
        (["--names", "cat, " + 80 * "dog "], "class name 'dog .*shorter name"),
        (["--names", NAMES, "--model", "ViT-B-3"], "--model: .*ViT-B-32"),
        (["--names", NAMES, "--views", "9"], "--views: .*at least 10"),
        (["--names", NAMES, "--recipe", "crop"], "--recipe: .*preaugment"),
        (["--names", NAMES, "--templates", "80"], "--templates: .*openai_80"),
    ],
)
def test_wrong_input_is_told_before_a_model_is_loaded(
    drawn, capsys, monkeypatch, arguments, message
):
    monkeypatch.setattr(clip, "load", None)
    monkeypatch.chdir(drawn)
    assert main(["classify", "cat.png", *arguments]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert re.search(message, told.err)


def test_one_file_that_is_missing_ends_with_status_2(capsys, monkeypatch):
    monkeypatch.setattr(clip, "load", None)
    assert main(["classify", "gone.jpg", "--names", NAMES]) == 2
    assert "gone.jpg: no such file" in capsys.readouterr().err


def test_every_other_method_is_refused_with_its_chapter():
    possible = classify.usable()
    for key in registry.entries():
        if key in possible:
            assert classify.chosen([key]) == {key: possible[key]}
        else:
            with pytest.raises(ValueError, match=r": chapter 0\d\w? runs it; possible"):
                classify.chosen([key])


def test_from_any_folder_stdout_is_json_and_nothing_is_written(drawn, tmp_path):
    photo = lookalikes.picture(tmp_path / "photo one.jpg")
    (tmp_path / "names.txt").write_text("apple\ncat | dog\n")
    before = sorted(tmp_path.rglob("*"))
    places = {"STUDY_OUTPUTS": "outputs", "STUDY_CACHE": "cache", "HOME": "home"}
    given = ["--names", "names.txt", "--json", "--method", "tpt"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "classify", photo.name, *given],
        cwd=tmp_path,
        env=os.environ | {key: str(tmp_path / name) for key, name in places.items()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["names"] == [["apple"], ["cat", "dog"]]
    assert sorted(tmp_path.rglob("*")) == before
