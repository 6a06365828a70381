"""Properties that hold for whatever comes in, tried on input made at random.

The same examples every time, a few in `make test`, many in `make soak`.
"""

import json
import math
import os
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import data, notebooks, paths, views
from helpers.data import dataset as images
from helpers.models import clip, template_prompts
from helpers.models.prompts import PromptTower
from helpers.models.template_prompts import PLACEHOLDER, ContextWindow, fill
from helpers.prompts import captions
from helpers.results import predictions
from helpers.study import parameters
from helpers.words import composed

EFFORTS = pytest.mark.parametrize(
    "effort", [1, pytest.param(50, marks=pytest.mark.soak)]
)
ODD_TEXTS = [
    *("", " ", "{}", "{a}", "{0}", "}{", "{{}}", "%s", "\\", "'", '"', "<end_of_text>"),
    *("\x00", "\x1b[2J", "a\tb", "a\r\nb", "\u202egnp", "‏שלום", "ａｂ", "e\u0301"),
    *("👩‍👩‍👧", "🇮🇹", "ﷺ", "&amp;amp;", "null", "yes", "-1", "1e3", "../x", "a" * 3000),
]
TEXTS = st.one_of(st.text(max_size=30), st.sampled_from(ODD_TEXTS))


def examples(number: int):
    """So many examples, the same in every run, kept nowhere."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def told(error: Exception, *words: str) -> None:
    """The message holds one of these."""
    assert any(word in str(error) for word in words), error


@pytest.fixture(scope="module")
def picto() -> clip.Backbone:
    return clip.load("picto-rn", "picto", device="cpu")


# Parameters

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, 2, 10, 2**63, 10**400, 1e308, -0.0, math.inf, math.nan]),
    st.floats(),
    st.dates(),
    st.binary(max_size=5),
    TEXTS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def chapters() -> dict[str, tuple[type, object]]:
    """Keys of all notebooks, with types and defaults."""
    books = notebooks.files(paths.NOTEBOOKS)
    return {k: v for book in books for k, v in parameters.declared(book).items()}


def likely(default: object) -> st.SearchStrategy:
    """Values of the right type, or nearly."""
    if isinstance(default, list):
        return st.lists(st.one_of(VALUES, st.sampled_from(default or [0])), max_size=4)
    return st.one_of(st.just(default), VALUES)


@EFFORTS
def test_any_value_is_accepted_or_refused_by_name(
    effort, chapters, tmp_path, monkeypatch
):
    monkeypatch.setattr(parameters, "declared", cache(parameters.declared))
    file = tmp_path / "fuzz.yaml"
    known = sorted(chapters)

    @examples(60 * effort)
    @given(st.data())
    def holds(draw):
        values = {"study": "fuzz"}
        for key in draw.draw(st.lists(st.sampled_from(known), max_size=5)):
            values[key] = draw.draw(likely(chapters[key][1]))
        values |= draw.draw(st.dictionaries(TEXTS, VALUES, max_size=1))
        file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        try:
            jobs = parameters.plan("fuzz", tmp_path, paths.NOTEBOOKS)
        except ValueError as error:
            told(error, file.name, "notebooks/")  # a default that no longer fits
            told(error, *values, *known, "not YAML")
            return
        for job in jobs:  # what was accepted is what was written
            json.dumps(job.injected, default=str)
            for key, value in job.injected.items():
                assert type(value) is type(values[key])
                assert value == values[key]

    holds()


@EFFORTS
def test_any_text_is_a_parameter_file_or_no_yaml(effort, tmp_path):
    file = tmp_path / "fuzz.yaml"
    pieces = st.sampled_from(
        [
            *("{}[]&*!|>-?:,#%@`'\"\n\t "),
            *("a", "1", "~", "study: x\n", "<<: ", "2001-13-45", "..."),
            *("!!int ", "!!timestamp ", "!!bool ", "!!python/object:os.system"),
        ]
    )

    @examples(200 * effort)
    @given(st.one_of(st.lists(pieces, max_size=30).map("".join), st.text()))
    def holds(text):
        file.write_text(text, encoding="utf-8", newline="")
        try:
            found = parameters.read(file)
        except ValueError as error:
            told(error, file.name)
            return
        assert isinstance(found, dict)
        assert all(isinstance(key, str) for key in found)

    holds()


@EFFORTS
def test_any_command_line_is_accepted_or_refused_by_name(
    effort, chapters, tmp_path, monkeypatch
):
    monkeypatch.setattr(parameters, "declared", cache(parameters.declared))
    (tmp_path / "fuzz.yaml").write_text("study: fuzz\n")
    known = sorted(chapters)
    keys = st.sampled_from(known)
    values = st.one_of(TEXTS, VALUES.map(repr), st.just("[" * 1500))

    @examples(50 * effort)
    @given(st.dictionaries(keys, values, min_size=1, max_size=3))
    def holds(given_there):
        try:
            parameters.plan("fuzz", tmp_path, paths.NOTEBOOKS, (), given_there)
        except ValueError as error:
            told(error, parameters.COMMAND_LINE, "notebooks/")
            told(error, *known)

    holds()


# Prompts


@EFFORTS
def test_any_text_has_a_feature_or_is_too_long(effort, picto):
    @examples(40 * effort)
    @given(st.lists(TEXTS, min_size=1, max_size=4))
    def holds(texts):
        try:
            tokens = picto.tokenize(texts)
        except ValueError as error:
            told(error, "shorten")
            return
        assert tokens.shape == (len(texts), picto.context_length)
        features = picto.encode_texts(texts)
        norms = features.norm(dim=-1)
        assert torch.allclose(norms, torch.ones(len(texts)), atol=1e-5)

    holds()


@EFFORTS
def test_any_class_names_make_a_tower_that_agrees_with_clip(effort, picto):
    @examples(30 * effort)
    @given(st.lists(TEXTS, min_size=1, max_size=4))
    def holds(names):
        try:
            tower = PromptTower(picto, names, "a photo of a")
        except ValueError as error:
            told(error, "shorten", "end the context")
            return
        with torch.no_grad():
            features = tower.features(tower.context)
        literal = picto.encode_texts([f"a photo of a {name}." for name in names])
        assert torch.allclose(features, literal, atol=1e-4)
        assert tower.peak_bytes() > 0

    holds()


@EFFORTS
def test_slots_are_filled_once_and_features_are_those_of_the_prompts(effort, picto):
    @examples(30 * effort)
    @given(
        st.lists(st.one_of(TEXTS, st.just("a {} on {a}.")), min_size=1, max_size=3),
        st.lists(TEXTS, min_size=1, max_size=3),
    )
    def holds(found, names):
        prompts = [[fill(t, name) for name in names] for t in found]
        for template, row in zip(found, prompts, strict=True):
            pieces = PLACEHOLDER.split(template)
            for name, prompt in zip(names, row, strict=True):
                own = len(PLACEHOLDER.findall(template))
                least = sum(map(len, pieces)) + own * len(name)
                assert least <= len(prompt) <= least + own * len("an ")
        try:
            literal = [picto.encode_texts(row) for row in prompts]
            parts = list(template_prompts.features(picto, found, names))
        except ValueError as error:
            told(error, "shorten")
            return
        for chosen, features in parts:
            for i, row in zip(chosen, features, strict=True):
                assert torch.allclose(row, literal[i], atol=1e-4)

    holds()


# Captions

WORDS = st.sampled_from(["a", "an", "the", "dog", "Dog", "dogs", "hot-dog", "on", "{}"])


@EFFORTS
def test_any_caption_becomes_a_template(effort):
    @examples(300 * effort)
    @given(st.lists(st.one_of(WORDS, TEXTS), max_size=8).map(" ".join), st.data())
    def holds(caption, draw):
        words = caption.split() or [""]
        plainly = " ".join(caption.translate({ord("{"): " ", ord("}"): " "}).split())
        keyword = draw.draw(st.one_of(st.sampled_from(words), TEXTS))
        made = captions.template(caption, keyword)
        assert not set("{}") & set(PLACEHOLDER.sub("", made))  # no other braces
        assert PLACEHOLDER.search(made)
        prompt = fill(made, "okapi")
        assert "okapi" in prompt
        if made != captions.PLAIN:  # what stands around the keyword is the caption's
            around = PLACEHOLDER.split(made)
            assert len(around) == 2  # one place, "one" where it is said again
            rest = [" ".join(p.split()) for part in around for p in part.split("one")]
            assert all(part in composed(plainly) for part in rest)
        assert isinstance(captions.class_in(made, ["dog", "hot-dog"]), str)
        vocabulary = captions.vocabulary([made])
        assert PLACEHOLDER.search(captions.restricted(made, vocabulary))
        noisy = captions.noisy(made, 0.5, ["x"], random.Random(0))
        assert len(noisy.split()) == len(made.split())
        raw = captions.faithful_template(caption, keyword)
        assert set(PLACEHOLDER.findall(raw)) <= {"{}"}

    holds()


@EFFORTS
def test_long_captions_are_shortened_to_what_clip_reads(effort, picto):
    window = ContextWindow(picto)

    @examples(30 * effort)
    @given(st.lists(st.one_of(WORDS, TEXTS), max_size=40).map(" ".join))
    def holds(caption):
        made = captions.template(caption, "dog")
        try:
            short = captions.shorten(made, window, ["okapi", "ant"])
        except ValueError as error:
            told(error, "shorten")
            return
        assert PLACEHOLDER.findall(short)
        picto.tokenize([fill(short, "okapi")])

    holds()


# Folders of pictures

NAMES = st.one_of(
    st.sampled_from(["cat", "Cat", "cat_", "dög", "do\u0308g", ".git", "__MACOSX"]),
    st.sampled_from(["n01440764", "12", " ", "a b", "‏שלום", "👩‍👩‍👧", "x\n"]),
    st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=8),
    st.sampled_from([os.fsdecode(b"\xff\xfe"), "w" * 250]),
)
KINDS = st.sampled_from(
    [
        *("jpg", "jpg", "png", "PNG", "webp", "gif", "broken", "empty", "text", "html"),
        *("heic", "link", "dangling", "loop", "folder", "folder link", "pipe"),
        "no suffix",
    ]
)
PICTURES = {}  # format -> bytes of a small picture


def picture(kind: str) -> bytes:
    if kind not in PICTURES:
        path = Path(os.environ["STUDY_CACHE"]).with_name(f"fuzz.{kind}")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), "red").save(path)
        PICTURES[kind] = path.read_bytes()
    return PICTURES[kind]


def put(folder: Path, name: str, kind: str) -> None:
    """Something of this kind in the folder; nothing where the disk takes no such."""
    path = folder / (name if kind in ("folder", "no suffix") else f"{name}.{kind}")
    jpg = folder / f"{name}.jpg"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if kind in ("jpg", "png", "PNG", "webp", "gif"):
            path.write_bytes(picture(kind.lower()))
        elif kind in ("text", "html", "heic", "no suffix"):
            path.write_text("<html>")
        elif kind == "broken":
            jpg.write_bytes(picture("jpg")[:200])
        elif kind == "empty":
            jpg.touch()
        elif kind == "link":
            target = folder.parent / "elsewhere.jpg"
            target.write_bytes(picture("jpg"))
            jpg.symlink_to(target)
        elif kind == "dangling":
            jpg.symlink_to(folder / "nowhere.jpg")
        elif kind == "loop":
            jpg.symlink_to(jpg)
        elif kind == "folder":
            path.mkdir()
        elif kind == "folder link":
            (folder / name).symlink_to(folder.parent)
        elif kind == "pipe":
            os.mkfifo(jpg)
    except (OSError, ValueError):
        return


@EFFORTS
def test_any_folder_is_read_or_refused_by_name(effort, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    number = iter(range(10**9))
    entries = st.tuples(st.lists(NAMES, max_size=2), NAMES, KINDS)

    @examples(60 * effort)
    @given(st.lists(entries, max_size=12), st.sampled_from(["", "", "csv", "pipe"]))
    def holds(tree, table):
        root = tmp_path / f"pictures {next(number)}"
        root.mkdir()
        for place, name, kind in tree:
            put(root.joinpath(*place), name, kind)
        if table == "csv":
            rows = [f"{place[0]},{name}" for place, name, _ in tree if place]
            text = "\n".join(["folder,name", *rows])
            (root / "classes.csv").write_text(text, errors="surrogateescape")
        elif table == "pipe":
            os.mkfifo(root / "classes.csv")
        try:
            dataset = data.readable(data.read("folder", str(root)))
        except (ValueError, FileNotFoundError) as error:
            told(error, root.name)
            return
        again = data.readable(data.read("folder", str(root)))
        assert again.ids == dataset.ids
        assert len(set(dataset.ids)) == len(dataset.ids) == len(dataset.labels)
        for texts in (dataset.ids, dataset.class_names, *dataset.skipped):
            "".join(texts).encode()  # fit for tables
        assert predictions.ledger_path("x", dataset.name, "b", "m")
        assert dataset.image(0).size == (5, 4)
        of_folder = {}  # a label each, in the folders' order
        for name, label in zip(dataset.ids, dataset.labels, strict=True):
            assert of_folder.setdefault(name.partition("/")[0], label) == label
        assert [of_folder[f] for f in sorted(of_folder)] == sorted(of_folder.values())
        assert dataset.fingerprint == again.fingerprint

    holds()


# Views

MODES = st.sampled_from(["RGB", "L", "RGBA", "CMYK", "P", "1", "LA", "I;16", "YCbCr"])


@EFFORTS
@pytest.mark.parametrize("recipe", sorted(views.VIEWS))
def test_any_picture_has_views(effort, recipe, picto):
    sides = st.one_of(st.integers(1, 40), st.sampled_from([64, 65, 500, 2000]))

    @examples(6 * effort)
    @given(sides, sides, MODES, st.integers(1, 5), st.integers(0, 2**63 - 1))
    def holds(width, height, mode, count, seed):
        noise = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
        image = Image.fromarray(noise)
        if mode == "I;16":
            image = Image.fromarray(257 * noise.astype(np.uint16))
        elif mode == "LA":
            image.putalpha(image.copy())
        elif mode != "L":
            image = image.convert("RGB").convert(mode)
        before = image.tobytes()
        size = picto.image_size
        made = [
            views.make(
                recipe, image, count, size, np.random.default_rng(seed), picto.crop
            )
            for _ in range(2)
        ]
        assert made[0].shape == (count, 3, size, size)
        assert made[0].dtype == torch.uint8
        assert torch.equal(*made)
        assert image.tobytes() == before

    holds()


# Ledgers

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=5,
)


@EFFORTS
def test_ledgers_give_back_what_was_written(effort, tmp_path):
    names = st.one_of(st.sampled_from(["zero_shot", "a+b c.d"]), TEXTS)

    @examples(40 * effort)
    @given(
        st.lists(TEXTS, min_size=1, max_size=5),
        st.dictionaries(TEXTS, JSON, max_size=3),
        names,
        st.integers(-1, 2**40),
        st.integers(2, 4),
    )
    def holds(ids, given_settings, method, seed, classes):
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(len(ids), classes)).astype(np.float32)
        labels = rng.integers(0, classes, len(ids))
        try:
            predictions.write(
                tmp_path,
                dataset="d",
                backbone="b",
                method=method,
                ids=ids,
                labels=labels,
                logits=logits,
                seconds_per_image=0.25,
                settings=given_settings,
                seed=seed,
            )
        except ValueError as error:
            told(error, "method", "unique", "setting", "seed")
            return
        path = predictions.ledger_path(tmp_path, "d", "b", method, seed)
        assert path.resolve().is_relative_to(tmp_path / "predictions" / "d" / "b")
        frame = predictions.read(path)
        assert frame["image_id"].tolist() == ids
        assert frame["label"].tolist() == labels.tolist()
        assert np.array_equal(predictions.logits(frame), logits)
        assert frame.attrs["settings"] == given_settings
        assert (frame.attrs["method"], frame.attrs["seed"]) == (method, seed)
        assert frame.attrs["seconds_per_image"] == 0.25

    holds()
