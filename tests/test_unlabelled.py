"""Photographs without a folder per class: in any folders, with some labels or none."""

import os
import shutil
import time
from itertools import pairwise
from pathlib import Path

import lookalikes
import numpy as np
import pytest
from lookalikes import PHOTOGRAPHS

from helpers import data
from helpers.data.dataset import Dataset

NAMES = "cat | kitten, cup of coffee, Raumfähre, sea-lion"
STEMS = sorted(file.name for file in PHOTOGRAPHS)


def flat_folder(root: Path, *names: str) -> Path:
    """Bundled photographs in one folder, all or those of these names."""
    root.mkdir(parents=True, exist_ok=True)
    for file in PHOTOGRAPHS:
        if not names or file.name in names:
            shutil.copy(file, root / file.name)
    return root


def read(root: Path, class_names: object = NAMES) -> Dataset:
    return data.read("folder", str(root), class_names)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_every_photograph_of_a_flat_folder_is_an_image_without_a_label(tmp_path):
    root = flat_folder(tmp_path / "Ferien 2023")
    dataset = data.load("folder", str(root), class_names=NAMES, labelled=False)
    assert dataset.name == root.name
    assert dataset.ids == tuple(STEMS)
    assert dataset.class_names == ("cat", "cup of coffee", "Raumfähre", "sea-lion")
    assert dataset.labels.tolist() == [-1] * len(STEMS)
    assert not dataset.labelled.any()
    names, owner = dataset.every_name
    assert names == ("cat", "kitten", *dataset.class_names[1:])
    assert owner.tolist() == [0, 0, 1, 2, 3]
    assert dataset.image(STEMS.index("chelsea.png")).size == (451, 300)
    assert dataset.skipped == ()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("class_names.txt", "cat|kitten\ncup of coffee\nRaumfähre\nsea-lion\n"),
        (
            "class_names.csv",
            "name;other_names\ncat;kitten\ncup of coffee;\nRaumfähre;\nsea-lion;\n",
        ),
    ],
)
def test_a_file_in_the_folder_names_the_classes(tmp_path, file, text):
    root = flat_folder(tmp_path / "x")
    given = read(root)
    write(root / file, text)
    found = read(root, "")
    assert (found.class_names, found.names) == (given.class_names, given.names)
    assert found.skipped == ()  # the file is no picture, and nobody takes it for one
    assert read(root, "dog, cow").class_names == ("dog", "cow")  # the parameter wins


def test_names_are_kept_apart_only_where_a_class_has_several(tmp_path):
    root = flat_folder(tmp_path / "x")
    one, several = read(root, "cat, dog"), read(root, "cat, dog | hound")
    assert one.names == ()
    assert one.every_name[0] == ("cat", "dog")
    assert one.fingerprint != several.fingerprint


def test_folders_that_bear_a_name_give_labels_whatever_the_depth(tmp_path):
    root = tmp_path / "x"
    for folder in (
        *("2024/Kitten/May", "cat/Sea_Lion", "raumfähre", "dog", "Cat"),
        *("coffee", "Cup  of-coffee"),
    ):
        flat_folder(root / folder, "coins.png")
    labels = {
        name.rpartition("/")[0]: label
        for name, label in zip(read(root).ids, read(root).labels.tolist(), strict=True)
    }
    assert labels == {
        "2024/Kitten/May": 0,
        "cat/Sea_Lion": 3,  # the nearest counts
        "Cat": 0,
        "Cup  of-coffee": 1,
        "coffee": -1,
        "dog": -1,
        "raumfähre": 2,
    }


def test_a_table_of_labels_wins_over_folders(tmp_path):
    root = flat_folder(tmp_path / "x")
    flat_folder(root / "cat", "chelsea.png", "coffee.png")
    flat_folder(root / "Cup of coffee", "horse.png")
    (root / "old.heic").write_bytes(b"x")
    write(
        root / "labels.csv",
        "path;name;note\nrocket.jpg;RAUMFÄHRE;by me\ncat/coffee.png;Cup of coffee;\n"
        "Cup of coffee/horse.png;cat;\n"
        "coins.png;;\nold.heic;cat;\n;;\n",
    )
    dataset = read(root)
    labels = dict(zip(dataset.ids, dataset.labels.tolist(), strict=True))
    assert {k: v for k, v in labels.items() if v >= 0} == {
        "rocket.jpg": 2,
        "cat/coffee.png": 1,
        "Cup of coffee/horse.png": 0,
        "cat/chelsea.png": 0,
    }
    assert dataset.labelled.sum() == 4
    assert [file for file, _ in dataset.skipped] == ["old.heic"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,name\ngone.jpg,cat\n", "no picture 'gone.jpg' in .*/x: write its path"),
        (
            "path,name\ncoins.png,cta\n",
            r"'coins.png' is labelled 'cta', .*mean cat\?\): .* or none for a picture",
        ),
        ("path,name\ncoins.png,Raumfahre\n", r"did you mean Raumfähre\?"),
        ("path,name\ncoins.png,cat\ncoins.png,cat\n", "lists 'coins.png' twice"),
        ("file,name\ncoins.png,cat\n", "a header 'path,name'"),
    ],
)
def test_wrong_labels_are_refused_by_table_and_row(tmp_path, table, message):
    root = flat_folder(tmp_path / "x")
    write(root / "labels.csv", table)
    with pytest.raises(ValueError, match=f"labels.csv.*{message}"):
        read(root)


def test_none_is_no_label_but_an_answer(tmp_path):
    root = flat_folder(tmp_path / "x")
    flat_folder(root / "cat", "coffee.png")
    table = "path,name\nrocket.jpg,Raumfähre\ncoins.png,\n"
    before = write(root / "labels.csv", table) and read(root)
    assert before.looked_at.sum() == 2
    write(root / "labels.csv", f"{table}horse.png, NONE\ncat/coffee.png,none\n")
    dataset = read(root)
    assert dataset.shows_none == ("cat/coffee.png", "horse.png")
    assert dataset.labelled.sum() == 1
    seen = [id for id, yes in zip(dataset.ids, dataset.looked_at, strict=True) if yes]
    assert seen == ["cat/coffee.png", "horse.png", "rocket.jpg"]
    part = dataset.subset([dataset.ids.index("coins.png"), dataset.ids.index(seen[1])])
    assert part.looked_at.tolist() == [False, True]
    assert dataset.fingerprint != before.fingerprint  # chapter 08 runs again
    named = read(root, f"{NAMES}, none")  # a class of the user's goes first
    assert (named.shows_none, named.labelled.sum()) == ((), 3)


def test_images_without_a_label_are_told_with_the_cure(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"rabbit": 3, "cat/2024": 2, "dog": 2})
    assert data.without_label(read(root, "rabbit, cat, dog")) == []
    (line,) = data.without_label(read(root, "rabit, cat, dog"))
    assert line.startswith("3 images in the folder rabbit: no class has its name")
    assert "(did you mean rabit?)" in line
    (line,) = data.without_label(read(root, "rabbit, caat, dog"))
    assert "2 images in the folder cat/2024: no" in line
    assert "did you mean caat?" in line
    for i in range(5):
        lookalikes.picture(root / f"IMG_{i}.jpg")
    (line,) = data.without_label(read(root, "rabbit, cat, dog"))
    assert line.startswith(
        "IMG_0.jpg, IMG_1.jpg, IMG_2.jpg and 2 more lie in no folder"
    )
    assert "labels.csv" in line
    with pytest.raises(ValueError, match=r"IMG_0\.jpg, IMG_1\.jpg"):
        data.load("folder", str(root), class_names="rabbit, cat, dog")
    assert data.without_label(read(root, "tea, coffee")) == []  # no label was given
    rows = [f"IMG_{i}.jpg,none" for i in range(5)]
    write(root / "labels.csv", "\n".join(["path,name", *rows]))
    (line,) = data.without_label(read(root, "rabbit, cat, dog"))
    assert "IMG_2.jpg and 2 more: none in labels.csv" in line


def test_a_path_is_found_however_it_spells_an_umlaut(tmp_path):
    root = tmp_path / "x"
    lookalikes.picture(root / "Ba\u0308r.jpg")
    lookalikes.picture(root / "Bär  2.jpg")
    write(root / "labels.csv", "path,name\nB\u00e4r.jpg,cat\nBa\u0308r  2.jpg,cat\n")
    assert read(root).labels.tolist() == [0, 0]


def test_files_are_left_out_by_the_rules_of_class_folders(tmp_path):
    inside = {".hidden.jpg": b"x", "IMG.HEIC": b"x", "empty.jpg": b"", "note.txt": b"x"}
    for where in ("", "deep/"):
        (tmp_path / "x" / where).mkdir(exist_ok=True)
        for file, content in inside.items():
            (tmp_path / "x" / where / file).write_bytes(content)
        os.symlink(tmp_path / "nowhere.jpg", tmp_path / "x" / where / "broken.jpg")
    root = flat_folder(tmp_path / "x")
    flat_folder(root / "deep" / "thumbs", "coins.png")  # a cache inside, but
    flat_folder(root / "thumbs", "coins.png")  # a pose of the hand beside it
    flat_folder(root / "@eaDir", "coins.png")
    os.symlink(root / "deep", root / "thumbs" / "link")
    os.symlink(flat_folder(tmp_path / "other", "coins.png"), root / "linked")
    dataset = read(root)
    assert set(dataset.ids) == {*STEMS, "thumbs/coins.png", "linked/coins.png"}
    reasons = dict(dataset.skipped)
    expected = {f"{w}{file}" for file in (*inside, "broken.jpg") for w in ("", "deep/")}
    assert reasons.keys() == {*expected, "deep/thumbs", "@eaDir", "thumbs/link"}
    assert "export the photo as JPEG" in reasons["deep/IMG.HEIC"]


def test_broken_pictures_are_listed(tmp_path):
    root = flat_folder(tmp_path / "x", "coins.png", "rocket.jpg")
    words = lookalikes.damaged(root)
    dataset = data.load("folder", str(root), class_names=NAMES, labelled=False)
    assert dataset.ids == ("coins.png", "rocket.jpg")
    assert dict(dataset.skipped).keys() == words.keys()


def test_class_folders_without_names_are_read_as_ever(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"dog": 2, "sea_lion": 1})
    write(root / "labels.csv", "path,name\n")
    dataset = read(root, "")
    assert dataset.class_names == ("dog", "sea lion")
    assert dataset.labels.tolist() == [0, 0, 1]
    assert (dataset.names, dataset.labelled.all()) == ((), True)
    named = read(root, "sea lion, dog")
    assert named.labels.tolist() == [1, 1, 0]
    assert named.ids == dataset.ids


def test_a_folder_that_needs_names_says_how_to_give_them(tmp_path):
    for root in (flat_folder(tmp_path / "x"), flat_folder(tmp_path / "y" / "a").parent):
        with pytest.raises(ValueError, match=r"class_names\.txt .*parameter class_n"):
            read(root, "")


@pytest.mark.parametrize("file", ["IMG_1.HEIC", ""])
def test_an_empty_folder_is_refused_with_what_was_left_out(tmp_path, file):
    if file:
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(ValueError, match=f"no pictures in {tmp_path}.*{file}"):
        read(tmp_path)


def test_names_that_contradict_are_refused(tmp_path):
    root = flat_folder(tmp_path / "x")
    with pytest.raises(ValueError, match="'cat' is one class"):
        read(root, "cat")
    with pytest.raises(ValueError, match="picto-a has classes of its own"):
        data.read("picto-a", "", "cat, dog")
    write(root / "class_names.txt", "cat\ndog\n")
    write(root / "class_names.csv", "name\ncat\ndog\n")
    with pytest.raises(ValueError, match="both name classes: keep one"):
        read(root, "")


def test_work_that_needs_labels_refuses_to_start_without(tmp_path):
    root = flat_folder(tmp_path / "my photos")
    with pytest.raises(
        ValueError, match="8 of the 8 images of my photos have no label"
    ):
        data.load("folder", str(root), class_names=NAMES)
    rows = "\n".join(f"{name},cat" for name in STEMS[1:])
    write(root / "labels.csv", f"path,name\n{rows}\n")
    with pytest.raises(ValueError, match=r"1 of the 8 images .* has no label: .* 08"):
        data.load("folder", str(root), class_names=NAMES)
    write(root / "labels.csv", f"path,name\n{rows}\n{STEMS[0]},cat\n")
    assert data.load("folder", str(root), class_names=NAMES).labels.tolist() == [0] * 8


def test_a_sample_of_unlabelled_images_is_drawn_alike_and_grows(tmp_path):
    root = flat_folder(tmp_path / "x")
    write(root / "labels.csv", f"path,name\n{STEMS[0]},cat\n")
    dataset = read(root)
    samples = [set(dataset.sample(n, seed=1).ids) for n in range(1, 9)]
    assert [len(found) for found in samples] == list(range(1, 9))
    assert all(a < b for a, b in pairwise(samples))
    drawn = [STEMS[0] in dataset.sample(4, seed).ids for seed in range(200)]
    assert 0.4 < np.mean(drawn) < 0.6  # a class of its own would always be drawn


def test_thousands_of_names_and_images_are_listed_fast(tmp_path):
    for i in range(50):
        (tmp_path / f"animal {i}").mkdir()
        for k in range(20):
            (tmp_path / f"animal {i}" / f"{k}.jpg").write_bytes(b"x")
    start = time.process_time()  # other processes do not count
    dataset = read(tmp_path, [f"creature {i} | animal {i}" for i in range(3000)])
    assert time.process_time() - start < 5
    assert len(dataset) == 1000
    assert sorted(set(dataset.labels.tolist())) == list(range(50))
