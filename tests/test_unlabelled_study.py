"""A study of photographs without labels: what is left out, and what is said of it."""

import json
from dataclasses import replace
from pathlib import Path

import lookalikes
import nbformat
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from nbformat import v4
from test_unlabelled import NAMES, STEMS, flat_folder, write

from helpers import paths
from helpers.data import dataset as images
from helpers.prompts.names import alike, told_alike, too_long
from helpers.study import check, doctor, fingerprints, main, parameters, site

DECLARES = """study: str = "mine"  # the folder of results
dataset: str = "folder"  # the folder of pictures
data_root: str = ""  # where it is
backbone: str = "picto-vit"  # CLIP
weights: str = "picto"  # its weights
images: int = 0  # all
seed: int = 0  # of samples
"""
OWN = 'class_names: str = ""  # of the folder\n'
LABELS = {"needs": {"labels": "all"}}
WORK = """from helpers import data
from helpers.results import predictions
own = data.load(dataset, data_root, images, seed, class_names, labelled=False)
print(len(own), "images of", *own.class_names)
predictions.write(
    OUTPUTS, dataset=own.name, backbone=backbone, method="zero_shot", ids=own.ids,
    labels=own.labels, logits=[range(len(own.class_names))] * len(own),
    seconds_per_image=0, settings={},
)"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The parameter file of a study of a flat folder, and three chapters for it."""
    for name in ("params", "notebooks", "outputs"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(paths, name.upper(), tmp_path / name)
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(doctor, "OUTPUTS", tmp_path / "outputs")
    flat_folder(tmp_path / "my photos")
    chapter("01_one", DECLARES, LABELS)
    chapter("07_two", DECLARES, LABELS)
    work = WORK.replace("OUTPUTS", repr(str(tmp_path / "outputs" / "mine")))
    chapter("08_eight", DECLARES + OWN, {}, work)
    lines = [f"data_root: {tmp_path / 'my photos'}", f'class_names: "{NAMES}"']
    return write(paths.PARAMS / "mine.yaml", "\n".join(["study: mine", *lines, ""]))


def chapter(stem: str, declares: str, says: dict, *cells: str) -> Path:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "study": {"question": "", **says}}
    book = v4.new_notebook(metadata=metadata)
    tagged = v4.new_code_cell(declares, metadata={"tags": ["parameters"]})
    book.cells = [v4.new_markdown_cell("# One"), tagged, *map(v4.new_code_cell, cells)]
    path = paths.NOTEBOOKS / f"{stem}.ipynb"
    nbformat.write(book, path)
    return path


def planned(**overrides: str) -> tuple[list[str], list[str]]:
    """Chapters of the plan, and what is told."""
    told: list[str] = []
    options = [paths.PARAMS, paths.NOTEBOOKS, (), overrides]
    jobs = parameters.plan("mine", *options, log=told.append)
    return [job.notebook.stem for job in jobs], told


def test_chapters_that_need_labels_are_left_out_in_a_sentence(study, tmp_path):
    root = tmp_path / "my photos"
    write(root / "class_names.txt", "cat\ncup of coffee\nRaumfähre\nsea-lion\n")
    lacking = "images of my photos have no label"
    told = f"01_one, 07_two are left out: 8 of the 8 {lacking}"
    assert planned() == (["08_eight"], [told])
    rows = [f"{name},cat" for name in STEMS]
    write(root / "labels.csv", "\n".join(["path,name", *rows[2:]]))
    fewer, cure = planned()[1]
    assert fewer == told.replace("8 of", "2 of")
    assert cure.startswith(f"{STEMS[0]}, {STEMS[1]} lie in no folder of a class")
    write(root / "labels.csv", "\n".join(["path,name", *rows]))
    assert planned() == (["01_one", "07_two", "08_eight"], [])
    (root / "class_names.txt").unlink()
    chapters, (told,) = planned()
    assert chapters == ["08_eight"]
    assert "read from class_names.txt in data_root there, not from the param" in told


def test_class_folders_need_no_names_and_leave_nothing_out(study, tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"dog": 2, "cat": 1})
    study.write_text(f"study: mine\ndata_root: {root}\n")
    assert planned() == (["01_one", "07_two", "08_eight"], [])
    chapters, (told,) = planned(class_names="dog, cat, bird")  # one more
    assert chapters == ["08_eight"]
    assert "class names are read from" in told


def test_the_plan_says_which_images_have_no_label(study, tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"rabbit": 2, "cat": 1})
    study.write_text(f"study: mine\ndata_root: {root}\n")
    _, (told, cure) = planned(class_names="rabit, cat")
    assert "2 of the 3 images of x have no label" in told
    assert "2 images in the folder rabbit: no class" in cure
    assert "did you mean rabit?" in cure
    lookalikes.picture(root / "loose.jpg")
    _, (told, cure) = planned(class_names="rabbit, cat")
    assert "1 of the 4 images of x has no label" in told
    assert cure.startswith("loose.jpg lies in no folder of a class")


def test_a_run_without_labels_does_the_rest_and_succeeds(study, capsys):
    assert main(["run", "mine"]) == 0
    output = capsys.readouterr().out
    assert "01_one, 07_two are left out: 8 of the 8 images of my photos have" in output
    folder = paths.OUTPUTS / "mine"
    book = nbformat.read(folder / "08_eight.ipynb", as_version=4)
    said = [out.get("text") for cell in book.cells for out in cell.get("outputs", [])]
    assert "8 images of cat cup of coffee Raumfähre sea-lion\n" in said
    (row,) = pd.read_csv(folder / "results.csv").to_dict("records")
    assert (row["n"], row["dataset"]) == (0, "my photos")
    assert "08" in site.build(folder).read_text(encoding="utf-8")


def test_the_doctor_says_what_is_there_and_what_is_left_out(study, tmp_path, capsys):
    root = tmp_path / "my photos"
    words = lookalikes.damaged(root)
    write(root / "labels.csv", "path,name\nrocket.jpg,Raumfähre\n")
    main(["doctor", "mine"])
    output = capsys.readouterr().out
    assert "01_one, 07_two are left out: 10 of the 11 images of my photos" in output
    assert f"11 images of 4 classes in {root}" in output
    assert "10 of the 11 images of my photos have no label: chapters that" in output
    assert "class names: 'cat' or 'kitten', 'cup of coffee', 'Raumfähre'" in output
    assert "label 2: rocket.jpg = 'Raumfähre'" in output
    assert all(name in output for name in words)
    assert "only serve as wrong answers" not in output
    assert (paths.OUTPUTS / "mine/doctor/my photos.png").is_file()


def test_the_doctor_speaks_of_no_labels_where_there_are_none(study, capsys):
    main(["doctor", "mine"])
    output = capsys.readouterr().out
    assert "look at the pictures: " in output
    assert "labels, images and class names" not in output


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("cat", "class_names is 'cat'; .* is one class"),
        ("gone.txt", "no file .*gone.txt"),
        (["cat", 3], "3 is no text"),
        (3, "accepted: text"),
    ],
)
def test_wrong_names_are_refused_by_key_before_the_work(given, fault):
    with pytest.raises(ValueError, match=fault):
        check({"dataset": "folder", "class_names": given}, "x.yaml")
    for fine in ("", [], "cat, dog", ["cat", ["dog", "hound"]]):
        check({"dataset": "folder", "class_names": fine}, "x.yaml")
    with pytest.raises(ValueError, match="unless dataset is folder"):
        check({"dataset": "picto", "class_names": "cat, dog"}, "x.yaml")


def test_lists_and_files_of_names_reach_the_chapter(study):
    text = study.read_text().replace(f'"{NAMES}"', "[dog, [cat, kitten]]")
    study.write_text(text)
    options = [paths.PARAMS, paths.NOTEBOOKS]
    (job,) = parameters.plan("mine", *options)
    assert job.parameters["class_names"] == ["dog", ["cat", "kitten"]]
    names = write(paths.PARAMS / "names.txt", "dog\ncat\n")
    study.write_text(text.replace("[dog, [cat, kitten]]", "names.txt"))
    (job,) = parameters.plan("mine", *options)  # from the file's own folder, as data
    assert job.parameters["class_names"] == str(names)


def test_a_change_of_names_or_labels_is_another_data_set(study, tmp_path):
    (job,) = parameters.plan("mine", paths.PARAMS, paths.NOTEBOOKS)
    before = fingerprints.data(job.parameters)
    assert fingerprints.data(job.parameters) == before
    renamed = job.parameters | {"class_names": "cat, digits"}
    assert fingerprints.data(renamed) != before
    write(tmp_path / "my photos" / "labels.csv", "path,name\ncoins.png,cat\n")
    assert fingerprints.data(job.parameters) != before


def test_another_spelling_of_the_same_names_is_no_other_parameter(study, tmp_path):
    def job(**changed: object) -> parameters.Job:
        return replace(eight, parameters=eight.parameters | changed)

    (eight,) = parameters.plan("mine", paths.PARAMS, paths.NOTEBOOKS)
    first = job(class_names="cat, dog|hound")
    file = write(tmp_path / "names.txt", "cat\ndog | hound\n")
    spellings = "cat,dog | hound", ["cat", ["dog", "hound"]], str(file)
    made = fingerprints.made_from(first, tmp_path)
    book = {"cells": [], "metadata": {"run": {**made, "files": []}}}
    executed = write(tmp_path / eight.notebook.name, json.dumps(book))
    noted = {"made_from": fingerprints.hashes(made)}
    write(tmp_path / "provenance.json", json.dumps({executed.stem: noted}))
    root = eight.parameters["data_root"]
    again = [job(class_names=spelling) for spelling in spellings]
    again.append(job(class_names="cat, dog|hound", data_root=f"{root}/../my photos/"))
    for one in again:
        assert not fingerprints.other_parameters(executed, one)
        now = fingerprints.made_from(one, tmp_path)
        assert fingerprints.is_complete(executed, now)
    assert fingerprints.other_parameters(executed, job(class_names="dog|hound, cat"))
    assert fingerprints.other_parameters(executed, job(class_names="cat, dog"))


@pytest.mark.parametrize(
    "given",
    [
        "a sketch of a {}.",
        "[a sketch of a {}.]",
        '["a sketch of a {}."]',
        "my photos: a sketch of a {}.",
        "[my photos: a sketch of a {}.]",
        '{"my photos": "a sketch of a {}."}',
        '["my photos: a sketch of a {}."]',
    ],
)
def test_a_true_wording_may_be_short_where_there_is_one_data_set(study, given):
    chapter("01_one", DECLARES + "true_wordings: list = []  # what images are\n", {})
    options = paths.PARAMS, paths.NOTEBOOKS, ["01"]
    (job,) = parameters.plan("mine", *options, {"true_wordings": given})
    assert job.injected["true_wordings"] == ["my photos: a sketch of a {}."]
    assert job.parameters["true_wordings"] == job.injected["true_wordings"]
    wrong = {"true_wordings": '["my photo: a sketch of a {}."]'}
    with pytest.raises(ValueError, match=r"no data set \(did you mean my photos\?\)"):
        parameters.plan("mine", *options, wrong)


def test_names_too_long_for_a_prompt_are_refused_before_the_work(study):
    long = " ".join(["very"] * 80) + " old cat"
    with pytest.raises(ValueError, match=r"class name 'very .*…' has \d+ tokens, but"):
        planned(class_names=f"dog, {long}")
    (line,) = too_long("ViT-B-32", ["dog", long])
    assert "inside a prompt ViT-B-32 reads 6" in line
    assert "shorter name" in line
    fits = " ".join(["very"] * 50)
    assert too_long("ViT-B-32", ["dog", fits] * 1000) == []
    assert too_long("picto-vit", ["dog"]) == []


def features(*angles: float) -> torch.Tensor:
    """Unit features in the plane, with noise in no direction."""
    at = torch.tensor(angles)
    return torch.stack([at.cos(), at.sin()], dim=1)


def test_names_that_clip_cannot_tell_apart_are_paired():
    found = features(0.0, 1.0, 0.1, 1.01, 2.5)
    names = ["sofa", "cat", "couch", "kitten", "car"]
    assert alike(found, names) == [("cat", "kitten"), ("sofa", "couch")]
    assert alike(found, names, above=0.999) == [("cat", "kitten")]
    owner = torch.tensor([0, 1, 2, 1, 3])
    assert alike(found, names, owner=owner) == [("sofa", "couch")]
    assert alike(found, names, most=1) == [("cat", "kitten")]
    told = told_alike(alike(found, names), shown=1)
    assert "'cat' and 'kitten' and 1 more pair" in told
    assert "cat | kitten" in told
    assert told_alike([]) == ""


def test_thousands_of_names_are_compared_in_blocks():
    generator = torch.Generator().manual_seed(0)
    found = F.normalize(torch.randn(3000, 64, generator=generator), dim=1)
    found[2999] = found[7]
    names = [str(i) for i in range(3000)]
    assert alike(found, names) == [("7", "2999")]
    assert len(alike(torch.ones(3000, 1), names)) == 100  # of millions
