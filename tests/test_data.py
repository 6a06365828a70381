"""Data sets: layouts, labels, picture modes, damaged files, samples."""

import os
import pickle
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import lookalikes
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from helpers import data, paths
from helpers.data import dataset as images
from helpers.data import embedded, folder, imagenet, vision
from helpers.data.dataset import Dataset, Files, Pixels, open_image, to_rgb


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """What was found readable goes to a folder of the test's own."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(images, "CACHE", path)
    return path


def memory_set(n: int = 12, classes: int = 3) -> Dataset:
    """Class i % classes; picture i is grey level i."""
    return Dataset(
        name="grey",
        ids=tuple(f"grey/{i:02d}" for i in range(n)),
        labels=np.arange(n) % classes,
        class_names=tuple(f"class {c}" for c in range(classes)),
        read=Pixels(np.arange(n, dtype=np.uint8)[:, None, None].repeat(4, 1)),
        facts=pd.DataFrame({"level": range(n)}),
    )


# Dataset


def test_image_is_rgb_and_belongs_to_its_position():
    dataset = memory_set()
    image = dataset.image(7)
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == (7, 7, 7)


def test_subset_keeps_pictures_labels_and_facts_together():
    part = memory_set().subset([5, 2, 9]).subset([2, 0])
    assert part.ids == ("grey/09", "grey/05")
    assert part.labels.tolist() == [0, 2]
    assert part.facts["level"].tolist() == [9, 5]
    assert [part.image(i).getpixel((0, 0))[0] for i in range(2)] == [9, 5]


def test_subset_survives_the_way_to_a_loader_process():
    part = pickle.loads(pickle.dumps(memory_set().subset([4])))
    assert part.image(0).getpixel((0, 0))[0] == 4


@pytest.mark.parametrize("n", [1, 3, 4, 7, 11])
def test_sample_is_balanced_ordered_and_nested(n):
    dataset = memory_set()
    sample = dataset.sample(n, seed=3)
    counts = np.bincount(sample.labels, minlength=3)
    assert len(sample) == n
    assert counts.max() - counts.min() <= 1
    assert list(sample.ids) == sorted(sample.ids)
    assert set(sample.ids) <= set(dataset.sample(n + 1, seed=3).ids)
    assert sample.ids == dataset.sample(n, seed=3).ids


def test_sample_takes_what_small_classes_have():
    labels = [0] * 8 + [1]
    dataset = Dataset(
        "uneven", tuple("abcdefghi"), labels, ("x", "y"), read=lambda i: None
    )
    assert np.bincount(dataset.sample(4).labels).tolist() == [3, 1]


def test_sample_differs_by_seed_and_zero_is_all():
    dataset = memory_set(60)
    assert dataset.sample(9, seed=0).ids != dataset.sample(9, seed=1).ids
    assert dataset.sample(0) is dataset
    assert dataset.sample(60) is dataset
    with pytest.raises(ValueError, match="0 \\(all\\) or more"):
        dataset.sample(-1)


def test_fingerprint_tells_data_apart_and_not_calls():
    dataset = memory_set()
    assert dataset.fingerprint == memory_set().fingerprint
    assert dataset.fingerprint != dataset.subset(range(11)).fingerprint
    assert dataset.fingerprint != dataset.subset(range(12)[::-1]).fingerprint
    brighter = Dataset(
        dataset.name,
        dataset.ids,
        dataset.labels,
        dataset.class_names,
        read=Pixels(dataset.read.array + 1),
    )
    assert dataset.fingerprint != brighter.fingerprint


def test_labels_and_class_names_do_not_make_other_pictures():
    dataset = memory_set()
    other = replace(
        dataset,
        labels=np.full(len(dataset), -1),
        class_names=tuple(name.upper() for name in dataset.class_names),
    )
    assert other.key == dataset.key  # what is kept for them is found again
    assert other.fingerprint != dataset.fingerprint
    assert dataset.key != dataset.subset(range(11)).key
    brighter = replace(dataset, read=Pixels(dataset.read.array + 1))
    assert brighter.key != dataset.key


def test_fingerprint_sees_a_replaced_file(tmp_path):
    root = lookalikes.photos(tmp_path / "pets", {"cat": 2, "dog": 2})
    before = data.read("folder", str(root)).fingerprint
    assert data.read("folder", str(root)).fingerprint == before
    lookalikes.picture(root / "cat" / "000.jpg", seed=99, size=(80, 60))
    assert data.read("folder", str(root)).fingerprint != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ()}, "no images"),
        ({"ids": ("a", "a", "b")}, "occur twice"),
        ({"labels": [0, 1]}, "2 labels for 3"),
        ({"labels": [0, 1, 2]}, "2 class names"),
        ({"labels": [0, -2, 1]}, "run from -2"),
        ({"names": (("x",), ("z", "y"))}, "names must begin as class_names"),
        ({"class_names": ("x",)}, "at least two"),
        ({"facts": pd.DataFrame({"x": [1]})}, "1 facts for 3"),
    ],
)
def test_impossible_data_sets_are_refused(change, message):
    values = {"ids": tuple("abc"), "labels": [0, 1, 1], "class_names": ("x", "y")}
    with pytest.raises(ValueError, match=message):
        Dataset("bad", read=lambda i: None, **{**values, **change})


# Picture modes


def grey16(mode: str = "I;16") -> Image.Image:
    """A 16-bit ramp with known values."""
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    image = Image.fromarray(values)
    return image if mode == "I;16" else image.convert(mode)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled_not_clipped(mode):
    pixels = np.asarray(to_rgb(grey16(mode)))[0]
    assert pixels.tolist() == [[v] * 3 for v in (0, 1, 128, 255)]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_files_are_scaled(tmp_path, suffix):
    grey16().save(tmp_path / f"x.{suffix}")
    image = to_rgb(open_image(tmp_path / f"x.{suffix}", upright=True))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_sixteen_bit_pgm_is_scaled(tmp_path):
    values = np.array([0, 257, 32896, 65535], dtype=">u2").tobytes()
    (tmp_path / "x.pgm").write_bytes(b"P5 4 1 65535\n" + values)
    image = to_rgb(open_image(tmp_path / "x.pgm", upright=True))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_become_white(mode, tmp_path):
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    if mode == "RGB":  # a colour key in the PNG, as paint programs write it
        image = Image.new("RGB", (2, 1), (200, 0, 0))
        image.putpixel((1, 0), (1, 2, 3))
        image.save(tmp_path / "x.png", transparency=(1, 2, 3))
    else:
        image.convert(mode).save(tmp_path / "x.png")
    left, right = np.asarray(to_rgb(open_image(tmp_path / "x.png", upright=True)))[0]
    assert right.tolist() == [255, 255, 255]
    assert left.tolist() != [255, 255, 255]


def test_half_transparent_is_half_white():
    image = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert np.asarray(to_rgb(image))[0, 0] == pytest.approx([127] * 3, abs=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV"])
def test_every_common_mode_gives_rgb(mode):
    if mode == "LAB":  # Pillow does not convert to it: full lightness, no colour
        image = Image.new("LAB", (5, 3), (255, 128, 128))
    else:
        image = Image.new("RGB", (5, 3), "white").convert(mode)
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    assert rgb.size == (5, 3)
    assert np.asarray(rgb).min() > 250


def test_cmyk_jpeg_keeps_its_colour(tmp_path):
    Image.new("RGB", (8, 8), (250, 10, 10)).convert("CMYK").save(tmp_path / "x.jpg")
    image = to_rgb(open_image(tmp_path / "x.jpg", upright=True))
    assert np.asarray(image)[4, 4] == pytest.approx([250, 10, 10], abs=8)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animations_give_their_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), c) for c in ((255, 0, 0), (0, 0, 255))]
    path = tmp_path / f"x.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    image = to_rgb(open_image(path, upright=True))
    assert image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_rotation_is_applied_where_asked(tmp_path, suffix):
    image = Image.new("RGB", (40, 20), "blue")
    image.paste("red", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    path = tmp_path / f"x.{suffix}"
    image.save(path, exif=exif)
    upright = to_rgb(open_image(path, upright=True))
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5))[0] > 200  # red is at the top now
    if suffix != "tif":  # Pillow itself turns TIFF
        assert open_image(path, upright=False).size == (40, 20)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    path = lookalikes.damaged_exif(tmp_path / "x.jpg")
    assert to_rgb(open_image(path, upright=True)).size == (40, 20)


def test_damaged_notes_cost_no_picture_and_too_many_pixels_do(tmp_path, monkeypatch):
    root = lookalikes.photos(tmp_path / "x", {"a": 2, "b": 1})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    lookalikes.picture(root / "a" / "larger.png", size=(60, 50))
    unreadable = lookalikes.picture(root / "b" / "wild.jpg")
    monkeypatch.setattr(ImageOps, "exif_transpose", _failing(unreadable))
    skipped = dict(data.load("folder", str(root)).skipped)
    assert skipped.keys() == {"a/larger.png"}
    assert skipped["a/larger.png"].startswith("over 0 million pixels")


def _failing(path):
    """Pillow's way to turn a picture, which fails at one as at some damaged notes."""
    original = ImageOps.exif_transpose

    def turned(image):
        if image.filename == str(path):
            raise SyntaxError("not a TIFF file")
        return original(image)

    return turned


def test_pillow_s_warnings_are_not_shown(tmp_path):
    path = lookalikes.damaged_exif(tmp_path / "x.jpg")
    code = f"""
import sys, logging
from dataclasses import replace
from pathlib import Path
from helpers.data.dataset import open_image
open_image(Path({str(path)!r}), upright=True)
logging.getLogger("PIL.TiffImagePlugin").error("of which file?")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)),
        Image.fromarray(np.full((2, 2), 70_000, dtype=np.int32)),
    ],
)
def test_values_of_unknown_range_are_refused(image):
    with pytest.raises(data.UnreadableImage, match="no known range"):
        to_rgb(image)


# Folders


def test_folder_names_become_class_names(tmp_path):
    root = lookalikes.photos(
        tmp_path / "my photos!",
        {
            "golden_retriever": ["a.jpg", "b.PNG", "2024/deep/c.JPEG"],
            "african-elephant": ["été.webp", "空.jpg"],
            "zebra": [],
        },
    )
    dataset = data.load("folder", str(root))
    assert dataset.name == "my photos_"
    assert dataset.class_names == ("african elephant", "golden retriever", "zebra")
    assert dataset.ids == (
        "african-elephant/été.webp",
        "african-elephant/空.jpg",
        "golden_retriever/2024/deep/c.JPEG",
        "golden_retriever/a.jpg",
        "golden_retriever/b.PNG",
    )
    assert dataset.labels.tolist() == [0, 0, 1, 1, 1]
    assert dataset.image(1).size == (24, 18)
    assert dataset.skipped == ()  # a class without pictures is one all the same


def test_order_does_not_depend_on_the_file_system(tmp_path):
    names = [f"{i:02d}.png" for i in range(10)]
    first = lookalikes.photos(tmp_path / "a" / "x", {"p": names, "q": names})
    second = lookalikes.photos(
        tmp_path / "b" / "x", {"q": names[::-1], "p": names[::-1]}
    )
    read = [data.read("folder", str(root)) for root in (first, second)]
    assert read[0].ids == read[1].ids
    assert read[0].labels.tolist() == read[1].labels.tolist()


def test_classes_csv_names_the_classes(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"01": 1, "02": 1})
    table = lookalikes.classes_csv(root, {"02": "Hund, groß", "01": "cat"})
    assert data.read("folder", str(root)).class_names == ("cat", "Hund, groß")
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())  # as spreadsheets save it
    dataset = data.read("folder", str(root))
    assert dataset.class_names == ("cat", "Hund, groß")
    assert dataset.skipped == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("folder|name\na|cat\nb|dog\n", "comma-separated with a header 'folder,name'"),
        ("folder,name\na,cat, big\nb,dog\n", "'a' has more cells .* into quotes"),
        ("folder,name\na,cat\nb,dog\n,cow\n", "name 'cow' is for folder ''"),
        ("folder,name\na,cat\n", "'b' is not in the table"),
        ("folder,name\na,cat\nb,dog\nc,cow\n", "'c', which does not exist"),
        ("folder,name\na,cat\na,dog\n", "lists folder 'a' twice"),
        ("folder,name\na,cat\nb,\n", "'b' .* empty class name"),
        ("folder,name\na,cat\nb, CAT \n", "'a' and 'b' .* both class"),
        ("", "header"),
        ("folder,name\na,caf\xe9\nb,dog\n", "not UTF-8"),
    ],
)
def test_wrong_class_tables_say_what_is_wrong(tmp_path, content, message):
    root = lookalikes.photos(tmp_path / "x", {"a": 1, "b": 1})
    (root / "classes.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        data.read("folder", str(root))


@pytest.mark.parametrize(
    "content",
    [
        "folder;name\r\nCafé;Café, groß\r\nb ;dog\r\n;\r\n",
        "sep=;\nFolder;Name;;\n Cafe\u0301 ;Café, groß;;\nb;dog;;\n;;;\n",
        'folder, name\nCafé, "Café, groß"\nb, dog \n\n,\n',
        "name\tfolder\nCafé, groß\tCafé\n dog\tb\N{ZERO WIDTH SPACE}\n\t\n",
        'folder,name\rCafé,"Cafe\u0301,\n groß"\rb,dog',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("folders", [("Café", "b"), ("Cafe\u0301 ", " b")])
def test_tables_of_all_spreadsheets_are_read(tmp_path, content, encoding, folders):
    root = lookalikes.photos(tmp_path / "x", dict.fromkeys(folders, 1))
    (root / "classes.csv").write_bytes(content.encode(encoding))
    dataset = data.read("folder", str(root))
    names = {name: label for label, name in enumerate(dataset.class_names)}
    assert names.keys() == {"Café, groß", "dog"}
    for file, label in zip(dataset.ids, dataset.labels, strict=True):
        assert label == names["dog" if "b" in file.partition("/")[0] else "Café, groß"]


def test_folders_that_look_alike_are_named(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"Café": 1, "Cafe\u0301": 1})
    if len(os.listdir(root)) < 2:
        pytest.skip("this disk takes them for one")
    with pytest.raises(ValueError, match="both class 'Café'"):
        data.read("folder", str(root))
    lookalikes.classes_csv(root, {"Café": "x", "Cafe\u0301": "y"})
    with pytest.raises(ValueError, match=r"two folders .* look alike"):
        data.read("folder", str(root))


def test_folders_that_share_a_name_are_named(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"sea_lion": 1, "Sea-Lion": 1})
    with pytest.raises(ValueError, match="'Sea-Lion' and 'sea_lion'"):
        data.read("folder", str(root))


def test_wordnet_ids_are_no_class_names(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"n01498041": 1, "n01531178": 1})
    with pytest.raises(ValueError, match="imagenet-a"):
        data.read("folder", str(root))


@pytest.mark.parametrize(
    "names",
    [
        {"n02085620-Chihuahua": "Chihuahua", "n02085936-Maltese_dog": "Maltese dog"},
        {"001.Black_footed_Albatross": "Black footed Albatross", "200.Wren": "Wren"},
        {"1_cat": "cat", "2_dog": "dog", "3_cow": "cow"},
        {"(1) cat": "cat", "(2) T-shirt": "T shirt"},
    ],
)
def test_codes_before_names_are_taken_off_with_a_warning(tmp_path, names):
    root = lookalikes.photos(tmp_path / "x", dict.fromkeys(names, 1))
    expected = tuple(names[name] for name in sorted(names))
    with pytest.warns(UserWarning, match="codes are taken off"):
        assert data.read("folder", str(root)).class_names == expected


@pytest.mark.parametrize(
    "names",
    [
        {"10 euro", "20 euro", "50 euro"},
        {"1 euro", "2 euro"},
        {"7-Eleven", "7-Up"},
        {"911 Turbo", "918 Spyder"},
        {"2CV", "3D printer", "4x4"},
        {"18-wheeler", "car", "bus"},
        {"01 euro", "02 euro"},
        {"01 cat", "01 dog"},
        {"0", "1", "2"},
        {"747-100", "737-800"},
    ],
)
def test_numbers_that_belong_to_names_stay(tmp_path, names):
    root = lookalikes.photos(tmp_path / "x", dict.fromkeys(names, 1))
    expected = tuple(name.replace("-", " ") for name in sorted(names))
    assert data.read("folder", str(root)).class_names == expected


FOREIGN = [
    *("@eaDir", "@tmp", "#recycle", "#snapshot", "@__thumb", ".@__thumb"),
    *("@Recycle", "@Recently-Snapshot", ".AppleDouble", ".AppleDB"),
    *("Network Trash Folder", "Temporary Items", "$RECYCLE.BIN", "RECYCLER"),
    *("System Volume Information", "FOUND.000", "lost+found", ".Trash-1000"),
    *(".Trashes", ".thumbnails", ".Spotlight-V100", ".fseventsd", "__MACOSX"),
    *(".stfolder", ".stversions", ".sync", ".dropbox.cache", ".tmp.drivedownload"),
    *("OneDriveTemp", ".git", ".ipynb_checkpoints", "__pycache__", "node_modules"),
    *("Fotos.photoslibrary", "Lightroom Previews.lrdata", "CaptureOne", "Thumbnails"),
    "_thumbs",
]
OWN = [
    *("trash", "Thumbs", "cache", "recycle", "$100", "@natgeo", "#1 dad"),
    *("_background_noise_", "lost", "found"),
]


def test_folders_of_systems_and_programs_are_no_classes_and_told(tmp_path):
    root = lookalikes.photos(tmp_path / "x", dict.fromkeys([*FOREIGN, *OWN], 1))
    inside = [*FOREIGN, "trash", "thumbs", "Cache"]
    lookalikes.photos(root / "lost", dict.fromkeys([*inside, "2024"], 1))
    dataset = data.read("folder", str(root))
    folders = {name.rpartition("/")[0] for name in dataset.ids}
    assert folders == {*OWN, "lost/2024"}
    assert len(dataset.class_names) == len(OWN)
    skipped = dict(dataset.skipped)
    assert skipped.keys() == {*FOREIGN, *(f"lost/{name}" for name in inside)}
    assert all("rename the folder if it is one" in skipped[name] for name in FOREIGN)
    assert "network drive" in skipped["@eaDir"]
    assert "network drive" in skipped["lost/@eaDir"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({}, "no class folders"),
        ({"@eaDir": 1, "lost+found": 1}, "no class folders"),
        ({".git": 1, "__MACOSX": 1}, "no class folders"),
        ({"only": 3}, "one class folder, only, but .* at least two"),
        ({"a": [], "b": []}, "no pictures in the class folders"),
    ],
)
def test_folders_without_classes_or_pictures(tmp_path, classes, message):
    root = lookalikes.photos(tmp_path, classes)
    with pytest.raises(ValueError, match=message):
        data.read("folder", str(root))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Fotos Köln 2023", "Fotos Köln 2023"),
        ("folder", "folder"),
        ("Picto-A", "Picto-A folder"),  # else its results would be those of picto-a
        ("...", "folder"),
    ],
)
def test_results_call_a_folder_by_its_own_name(tmp_path, folder, name):
    root = str(lookalikes.photos(tmp_path / folder, {"a": 1, "b": 1}))
    assert data.called("folder", root) == name
    assert data.read("folder", root).name == name
    assert data.load("folder", root, images=2).subset([0]).name == name


@pytest.mark.parametrize("name", ["picto-a", "digits"])
def test_other_data_sets_are_called_by_their_parameter(name):
    assert data.called(name, "anywhere") == name == data.read(name).name


def test_missing_data_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.read("folder", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="needs data_root"):
        data.read("folder", "")
    file = lookalikes.picture(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match=r"x\.jpg is a file"):
        data.read("folder", str(file))


def test_pictures_without_class_folder_are_refused_or_listed(tmp_path):
    lookalikes.picture(tmp_path / "loose.jpg")
    with pytest.raises(ValueError, match="no class folders"):
        data.read("folder", str(tmp_path))
    lookalikes.photos(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "README.txt").write_text("hello")
    assert dict(data.read("folder", str(tmp_path)).skipped) == {
        "README.txt": folder.BESIDE,
        "loose.jpg": folder.NO_CLASS,
    }


def test_whatever_is_left_out_is_listed(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"a": ["ok.jpg"], "b": ["ok.jpg"]})
    (root / "a" / "notes.txt").write_text("x")
    (root / "a" / "IMG_1.HEIC").write_bytes(b"x")
    (root / "a" / ".DS_Store").write_bytes(b"x")
    (root / "a" / "no_suffix").write_bytes(b"x")
    (root / "a" / "empty.png").write_bytes(b"")
    (root / "b" / "gone.jpg").symlink_to(root / "nothing.jpg")
    (root / "b" / "loop").symlink_to(root, target_is_directory=True)
    (root / "b" / ".hidden").mkdir()
    (root / "__MACOSX").mkdir()
    with open(os.fsencode(root / "b") + b"/\xff.jpg", "wb") as file:
        file.write(b"x")
    dataset = data.load("folder", str(root))
    reasons = {
        "a/notes.txt": "no picture suffix",
        "a/IMG_1.HEIC": "export the photo as JPEG",
        "a/.DS_Store": "hidden",
        "a/no_suffix": "no picture suffix",
        "a/empty.png": "empty file",
        "b/gone.jpg": "broken link",
        "b/loop": "link to a folder",
        "b/.hidden": "hidden",
        "__MACOSX": "hidden",
        "b/\\udcff.jpg": "not valid UTF-8",
    }
    assert dataset.ids == ("a/ok.jpg", "b/ok.jpg")
    skipped = dict(dataset.skipped)
    assert skipped.keys() == reasons.keys()
    for file, reason in reasons.items():
        assert reason in skipped[file]


# Damaged files


def test_damaged_pictures_are_left_out_and_listed(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"a": 3, "b": 2})
    reasons = lookalikes.damaged(root / "a")
    dataset = data.load("folder", str(root))
    assert len(dataset) == 5
    assert all(image[2:].startswith("00") for image in dataset.ids)
    skipped = dict(dataset.skipped)
    assert skipped.keys() == {f"a/{name}" for name in reasons}
    for name, word in reasons.items():
        assert word in skipped[f"a/{name}"]
        assert skipped[f"a/{name}"]
    for i in range(len(dataset)):
        dataset.image(i)


def test_reading_a_damaged_picture_names_it_and_the_cure(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"a": 0, "b": 1})
    lookalikes.damaged(root / "a")
    dataset = data.read("folder", str(root))
    position = dataset.ids.index("a/truncated.jpg")
    with pytest.raises(data.UnreadableImage, match=r"truncated\.jpg.*study doctor"):
        dataset.image(position)


def test_nothing_readable_is_an_error(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"a": 0, "b": 0})
    lookalikes.damaged(root / "a")
    with pytest.raises(ValueError, match="none of the 3 pictures"):
        data.load("folder", str(root))


def test_files_are_decoded_once_until_they_change(tmp_path, monkeypatch):
    root = lookalikes.photos(tmp_path / "x", {"a": 2, "b": 2})
    decoded = []
    plain = images.open_image

    def counting(path, **options):
        decoded.append(path.name)
        return plain(path, **options)

    monkeypatch.setattr(images, "open_image", counting)
    data.load("folder", str(root), images=2)
    assert len(decoded) == 2
    data.load("folder", str(root))
    assert len(decoded) == 4
    data.load("folder", str(root))
    assert len(decoded) == 4
    changed = root / "b" / "001.jpg"
    changed.write_bytes(changed.read_bytes()[:300])
    assert [name for name, _ in data.load("folder", str(root)).skipped] == ["b/001.jpg"]
    assert decoded[4:] == ["001.jpg"]


def test_a_broken_ledger_of_checked_files_is_made_anew(tmp_path, cache):
    root = lookalikes.photos(tmp_path / "x", {"a": 1, "b": 1})
    data.load("folder", str(root))
    (ledger,) = (cache / "verified").iterdir()
    whole = ledger.read_text()
    ledger.write_text(whole[:20])
    assert len(data.load("folder", str(root))) == 2
    assert ledger.read_text() == whole


def test_a_deleted_file_is_listed(tmp_path):
    root = lookalikes.photos(tmp_path / "x", {"a": 2, "b": 1})
    dataset = data.read("folder", str(root))
    (root / "a" / "001.jpg").unlink()
    assert data.verify(dataset) == [("a/001.jpg", "the file is gone")]


# ImageNet and its variants

KNOWN = {
    "imagenet": [("n01440764", 0, "tench"), ("n15075141", 999, "toilet paper")],
    "imagenet-a": [
        ("n01498041", 0, "stingray"),
        ("n02236044", None, "praying mantis"),
        ("n07760859", None, "cherimoya (custard apple)"),
        ("n12267677", 199, "acorn"),
    ],
    "imagenet-r": [("n01443537", 0, "goldfish"), ("n12267677", 199, "acorn")],
    "imagenet-v2": [("10", 10, "brambling"), ("2", 2, "great white shark")],
    "imagenet-sketch": [("n01440764", 0, "tench"), ("n02123045", 281, "tabby cat")],
}


@pytest.mark.parametrize("name", KNOWN)
def test_labels_and_names_of_known_folders(tmp_path, name):
    lookalikes.imagenet_layout(tmp_path, name)
    dataset = data.read(name, str(tmp_path))
    assert len(dataset.class_names) == data.describe(name).classes == len(dataset)
    folders = [image.partition("/")[0] for image in dataset.ids]
    for wanted, label, text in KNOWN[name]:
        position = folders.index(wanted)
        found = dataset.labels[position]
        assert dataset.class_names[found] == text
        assert label in (None, found)
    assert np.all(np.diff(dataset.labels) > 0)
    assert dataset.image(0).mode == "RGB"


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_readme_beside_the_classes_is_no_class(tmp_path, name):
    lookalikes.imagenet_layout(tmp_path, name)
    assert data.read(name, str(tmp_path)).skipped == (("README.txt", folder.BESIDE),)


@pytest.mark.parametrize(
    ("name", "place"),
    [(name, place) for name, places in imagenet.SUBFOLDERS.items() for place in places],
)
def test_every_usual_place_is_found(tmp_path, name, place):
    root = tmp_path / (place or "direct")
    lookalikes.imagenet_layout(tmp_path, name, place or "direct", every=97)
    with pytest.warns(UserWarning, match="is partial"):
        dataset = data.read(name, str(tmp_path if place else root))
    assert dataset.files[0].parent.parent == root


@pytest.mark.parametrize("name", KNOWN)
def test_archives_unpacked_into_themselves_are_found(tmp_path, name):
    top = tmp_path / imagenet.SUBFOLDERS[name][0]
    for inside in (top.name, f"{top.name}/{top.name}", "another/name"):
        place = f"{imagenet.SUBFOLDERS[name][0]}/{inside}"
        root = lookalikes.imagenet_layout(tmp_path, name, place, every=97)
        (top / "__MACOSX").mkdir()
        for given in (tmp_path, top):
            with pytest.warns(UserWarning, match="is partial"):
                found = data.read(name, str(given))
            assert found.files[0].parent.parent == root
        shutil.rmtree(top)


def test_another_set_is_not_taken_for_one_unpacked_twice(tmp_path):
    lookalikes.imagenet_layout(tmp_path, "imagenet-r")
    with pytest.raises(FileNotFoundError, match="natural-adv-examples"):
        data.read("imagenet-a", str(tmp_path))


@pytest.mark.parametrize("inside", ["pets", "pets/pets", "2024/export"])
def test_own_images_may_lie_one_folder_deeper(tmp_path, inside):
    root = lookalikes.photos(tmp_path / "pets" / inside, {"cat": 1, "dog": 2})
    with pytest.warns(UserWarning, match="the folders there are the classes"):
        dataset = data.read("folder", str(tmp_path / "pets"))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.ids[0] == "cat/000.jpg"
    assert dataset.files[0].parent.parent == root


def test_deeper_folders_of_a_single_class_are_no_classes(tmp_path):
    root = lookalikes.photos(tmp_path / "pets", {"cat/2023": 1, "cat/2024": 1})
    lookalikes.picture(root / "cat" / "a.jpg")
    with pytest.raises(ValueError, match="at least two"):
        data.read("folder", str(root))


@pytest.mark.parametrize("name", KNOWN)
def test_partial_copies_keep_their_labels(tmp_path, name):
    lookalikes.imagenet_layout(tmp_path, name, per_class=2, every=7)
    with pytest.warns(UserWarning, match="class folders are missing"):
        dataset = data.load(name, str(tmp_path))
    assert len(dataset.class_names) == data.describe(name).classes
    for image, label in zip(dataset.ids, dataset.labels, strict=True):
        assert imagenet.folders(name)[label] == image.partition("/")[0]


def test_a_whole_copy_warns_of_nothing(tmp_path):
    lookalikes.imagenet_layout(tmp_path, "imagenet-a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(data.load("imagenet-a", str(tmp_path), images=5)) == 5


def test_a_variant_under_another_name_is_refused(tmp_path):
    root = lookalikes.imagenet_layout(tmp_path, "imagenet-r", "somewhere")
    with pytest.raises(ValueError, match="is not imagenet-a: 114 of its 200"):
        data.read("imagenet-a", str(root))


def test_missing_imagenet_tells_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"natural-adv-examples.*690 MB"):
        data.read("imagenet-a", str(tmp_path))


def test_flat_validation_archive_gets_a_cure(tmp_path):
    lookalikes.picture(tmp_path / "imagenet/val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(ValueError, match="ILSVRC2012_devkit_t12"):
        data.read("imagenet", str(tmp_path))


def test_imagenet_ignores_exif_as_published_evaluations_do(tmp_path):
    root = lookalikes.imagenet_layout(tmp_path, "imagenet-a", every=50)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(root / "n01498041" / "img_0.jpg", exif=exif)
    with pytest.warns(UserWarning, match="partial"):
        assert data.read("imagenet-a", str(tmp_path)).image(0).size == (40, 20)


# Sets that other libraries read


def test_digits_are_the_known_ones():
    dataset = data.load("digits")
    assert len(dataset) == data.describe("digits").images
    assert dataset.class_names[:3] == ("zero", "one", "two")
    assert dataset.labels[:5].tolist() == [0, 1, 2, 3, 4]
    pixels = np.asarray(dataset.image(0))
    assert pixels.shape == (8, 8, 3)
    assert pixels[0, 3].tolist() == [207] * 3  # 13 of 16
    assert np.asarray(dataset.image(1)).max() == 255


def test_cifar10_reads_torchvision_s_layout(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10, cifar

    pixels = lookalikes.cifar10(tmp_path)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5: True)
    dataset = data.load("cifar10", str(tmp_path))
    assert dataset.class_names[3] == "cat"
    assert dataset.labels[13] == 3
    assert dataset.ids[13] == "cifar10/00013"
    assert np.array_equal(np.asarray(dataset.image(13)), pixels[13])


def test_eurosat_has_readable_names(tmp_path):
    lookalikes.photos(tmp_path / "eurosat/2750", dict.fromkeys(vision.EUROSAT, 2))
    dataset = data.load("eurosat", str(tmp_path))
    assert dataset.class_names[0] == "Annual Crop Land"
    assert dataset.class_names[-1] == "Sea or Lake"
    assert dataset.ids[2] == "eurosat/2750/Forest/000.jpg"
    assert dataset.labels[2] == 1
    assert dataset.image(2).size == (24, 18)
    for place in ("@eaDir", "Forest/@eaDir/000.jpg"):
        lookalikes.picture(tmp_path / "eurosat/2750" / place / "SYNOPHOTO_THUMB_M.jpg")
    again = data.load("eurosat", str(tmp_path))
    assert again.ids == dataset.ids
    assert again.class_names == dataset.class_names
    (skipped,) = again.skipped
    assert skipped[0] == "eurosat/2750/Forest/@eaDir/000.jpg/SYNOPHOTO_THUMB_M.jpg"
    assert "drive" in skipped[1]


def test_dtd_reads_the_first_test_split(tmp_path):
    lookalikes.photos(tmp_path / "dtd/dtd/images", {"banded": 2, "polka-dotted": 2})
    labels = tmp_path / "dtd/dtd/labels"
    labels.mkdir()
    (labels / "test1.txt").write_text("polka-dotted/001.jpg\nbanded/000.jpg\n")
    dataset = data.load("dtd", str(tmp_path))
    assert dataset.class_names == ("banded", "polka-dotted")
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.ids[0].endswith("polka-dotted/001.jpg")


def test_food_names_have_spaces(tmp_path):
    base = tmp_path / "food-101"
    lookalikes.photos(base / "images", {"apple_pie": 1, "beef_tartare": 1})
    (base / "meta").mkdir()
    (base / "meta/test.json").write_text(
        '{"beef_tartare": ["beef_tartare/000"], "apple_pie": ["apple_pie/000"]}'
    )
    dataset = data.load("food101", str(tmp_path))
    assert dataset.class_names == ("apple pie", "beef tartare")
    assert dataset.labels.tolist() == [1, 0]


def test_pets_follow_their_annotation_file(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    for i, image in enumerate(("Abyssinian_2", "american_bulldog_7")):
        lookalikes.picture(base / "images" / f"{image}.jpg", i)
    (base / "annotations").mkdir()
    (base / "annotations/test.txt").write_text(
        "american_bulldog_7 2 2 1\nAbyssinian_2 1 1 1\n"
    )
    dataset = data.load("oxford-iiit-pet", str(tmp_path))
    assert dataset.class_names == ("Abyssinian", "American Bulldog")
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.image(0).size == (24, 18)


def test_flowers_take_labels_from_the_official_files(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import Flowers102

    base = tmp_path / "flowers-102"
    for i in (1, 2, 3):
        lookalikes.picture(base / f"jpg/image_{i:05d}.jpg", i)
    savemat(base / "imagelabels.mat", {"labels": [60, 1, 102]})
    savemat(base / "setid.mat", {"tstid": [3, 1], "trnid": [2], "valid": [2]})
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: True)
    dataset = data.load("flowers102", str(tmp_path))
    assert len(dataset.class_names) == 102
    assert [dataset.class_names[c] for c in dataset.labels] == [
        "blackberry lily",
        "pink and yellow dahlia",
    ]


@pytest.mark.parametrize("name", vision.INFO)
def test_missing_torchvision_sets_tell_how_to_get_them(tmp_path, monkeypatch, name):
    monkeypatch.delenv(vision.DOWNLOAD, raising=False)
    with pytest.raises(FileNotFoundError) as caught:
        data.load(name, str(tmp_path / "absent"))
    message = str(caught.value)
    assert "STUDY_DOWNLOAD=1" in message
    assert data.describe(name).page in message
    assert f"{data.describe(name).megabytes:,} MB" in message
    assert not (tmp_path / "absent").exists()


def test_download_happens_only_where_allowed(tmp_path, monkeypatch):
    from torchvision.datasets import DTD

    asked = []
    monkeypatch.setattr(DTD, "_download", lambda self: asked.append(self.root))
    monkeypatch.setenv(vision.DOWNLOAD, "1")
    with pytest.raises(FileNotFoundError):
        data.load("dtd", str(tmp_path))
    monkeypatch.setenv(vision.DOWNLOAD, "0")
    with pytest.raises(FileNotFoundError):
        data.load("dtd", str(tmp_path))
    assert len(asked) == 1


# The registry


def test_every_name_is_described():
    for name in data.names():
        info = data.describe(name)
        assert info.layout
        assert info.images >= 0


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"did you mean imagenet-a\?.*cifar10"):
        data.load("imagenet_a")


def test_data_root_may_be_relative_or_at_home(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    lookalikes.photos(tmp_path / "pics", {"a": 1, "b": 1})
    lookalikes.photos(tmp_path / "home/pics", {"c": 1, "d": 1})
    lookalikes.photos(tmp_path / "data/eurosat/2750", dict.fromkeys(vision.EUROSAT, 1))
    assert data.read("folder", "pics").class_names == ("a", "b")
    assert data.read("folder", "~/pics").class_names == ("c", "d")
    assert len(data.read("eurosat")) == 10


def test_files_are_opened_by_position(tmp_path):
    paths = tuple(lookalikes.picture(tmp_path / f"{i}.png", i) for i in range(2))
    read = Files(paths, upright=True)
    assert not np.array_equal(np.asarray(read(0)), np.asarray(read(1)))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("picto", "picto"),
        ("picto-r", "picto-r"),
        ("picto-c", "picto-c"),
        ("picto-dev", "picto-dev"),
        ("picto-few-shot", "few-shot"),
        ("picto-unlabelled", "unlabelled"),
        ("picto-s-unlabelled", "unlabelled-s"),
        ("picto-a-unlabelled", "unlabelled-a"),
    ],
)
def test_picto_pictures_labels_and_facts_belong_together(name, split):
    from picto import splits

    dataset = data.load(name, images=120, seed=1)
    assert len(dataset.class_names) == data.describe(name).classes
    for position in (0, 60, 119):
        index = int(dataset.ids[position].removeprefix(f"{name}/"))
        scene = splits.scene(split, index)
        assert dataset.class_names[dataset.labels[position]] == scene.class_name
        assert dataset.facts["style"][position] == scene.style
        pixels = np.asarray(dataset.image(position))
        assert np.array_equal(pixels, splits.image(split, index))


@pytest.mark.parametrize(
    ("pools", "dataset", "pool"),
    [
        ("{}-unlabelled", "picto", "picto-unlabelled"),
        ("{}-unlabelled", "picto-s", "picto-s-unlabelled"),
        ("{}-unlabelled", "imagenet-a", ""),
        ("picto-unlabelled", "picto", "picto-unlabelled"),
        ("picto-unlabelled", "picto-s", ""),
        ("", "picto", ""),
    ],
)
def test_the_pool_of_a_data_set_is_found_by_its_name(pools, dataset, pool):
    assert data.pool_name(pools, dataset, first="picto") == pool


def test_the_few_shot_set_has_as_many_photos_of_each_class():
    few = data.load("picto-few-shot")
    assert np.bincount(few.labels).tolist() == [16] * 64
    assert set(few.facts["style"]) == {"photo"}
    fewer = data.load("picto-few-shot", images=2 * 64)
    assert np.bincount(fewer.labels).tolist() == [2] * 64
    assert set(fewer.ids) < set(few.ids)


def test_a_class_without_pictures_is_one_all_the_same(tmp_path):
    lookalikes.photos(tmp_path, {"cat": 2, "dog": 1, "eel": 0})
    found = data.load("folder", str(tmp_path))
    assert found.class_names == ("cat", "dog", "eel")
    assert found.skipped == ()  # the doctor tells that it is empty


def test_the_embedded_clips_are_no_judges_of_photographs():
    assert embedded.strange("picto", ["picto", "picto-s"]) == ""
    assert embedded.strange("openai", ["folder"]) == ""
    assert "say -p backbone ViT" in embedded.strange("picto", ["picto", "folder"])
