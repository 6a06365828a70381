"""The store: what is kept is found again, resumed, and made anew where damaged."""

import contextlib
import multiprocessing
import os
import types
import zipfile
from collections import namedtuple
from dataclasses import replace
from functools import partial
from pathlib import Path

import lookalikes
import matplotlib.pyplot as plt
import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from helpers import data, figures, files, keys, parallel, store
from helpers import views as recipes
from helpers.chapters import adaptation
from helpers.data.dataset import Dataset
from helpers.keys import key
from helpers.methods import cots, tpt, vote
from helpers.methods.ctpt import ctpt
from helpers.methods.zero_shot import zero_shot
from helpers.models import clip
from helpers.results import predictions
from helpers.store import captioning, checkpoints, chunks, contexts
from helpers.store import features as plain
from helpers.store import views as view_store
from picto import pool


def test_equal_parts_have_equal_keys_and_others_others(tmp_path):
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_bytes(b"same")
        os.utime(file, ns=(0, 0))
    grey = Image.new("L", (2, 3))
    x = torch.arange(6.0)
    parts = [
        (),
        (None,),
        ("a", "b"),
        ("ab",),
        (("a",), "b"),
        (b"ab",),
        (1,),
        (1.0,),
        (True,),
        ({"a": 1, "b": [2]},),
        ({"a": 1, "b": [3]},),
        (x,),
        (x.double(),),
        (x.bfloat16(),),
        (x.view(2, 3),),
        (x.view(2, 3).T,),
        (x.numpy(),),
        (grey,),
        (grey.convert("RGB"),),
        (grey.rotate(90, expand=True),),
        (files[0],),
        (files[1],),
    ]
    found = [key(*part) for part in parts]
    assert len(set(found)) == len(parts)
    assert all(len(one) == 20 for one in found)
    assert key({"b": [2], "a": 1}) == key({"a": 1, "b": (2,)})
    assert key(x[::2]) == key(x[::2].clone()) != key(x[:3])
    assert key(n for n in "ab") == key(["a", "b"])
    for none in (lambda: 0, {1, 2}, object()):
        with pytest.raises(TypeError, match="has no key"):
            key(none)


# Features


def pictures(n: int, name: str = "noise") -> Dataset:
    def read(i: int) -> Image.Image:
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)
        return Image.fromarray(pixels)

    return Dataset(
        name=name,
        ids=tuple(f"{name}/{i}" for i in range(n)),
        labels=np.zeros(n, np.int64),
        class_names=("noise", "signal"),
        read=read,
    )


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """A random backbone whose encoded images are counted, and an empty store."""
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    monkeypatch.setattr(plain, "SHARD", 8)
    model = clip.load("picto-rn", "random", device="cpu")
    encoded = []
    original = clip.Backbone.encode_images

    def encode(self, images):
        encoded.extend(range(len(images)))
        return original(self, images)

    monkeypatch.setattr(clip.Backbone, "encode_images", encode)
    return model, encoded


def test_features_are_those_of_single_images(counting):
    model, _ = counting
    dataset = pictures(19)
    features = store.image_features(model, dataset)
    assert features.shape == (19, model.embed_dim)
    for i in (0, 7, 8, 18):
        alone = model.encode_images(model.preprocess(dataset.image(i))[None])[0]
        assert torch.allclose(features[i], alone, atol=1e-5)


def test_a_second_call_encodes_nothing(counting):
    model, encoded = counting
    first = store.image_features(model, pictures(19))
    assert len(encoded) == 19
    assert torch.equal(store.image_features(model, pictures(19)), first)
    assert len(encoded) == 19


def test_other_data_or_weights_miss(counting):
    model, encoded = counting
    store.image_features(model, pictures(4))
    store.image_features(model, pictures(4, "other"))
    store.image_features(clip.load("picto-rn", "random", "cpu", seed=1), pictures(4))
    assert len(encoded) == 12


@pytest.mark.parametrize("change", ["time", "size", "name"])
def test_a_file_that_changed_is_another_picture(counting, tmp_path, change):
    """Also one edited in place, with as many bytes as before."""
    model, encoded = counting
    root = lookalikes.photos(tmp_path / "mine", {"a": 2, "b": 1})
    features = [store.image_features, partial(store.view_features, count=2)]
    before = data.read("folder", str(root))
    context = adaptation._context_file(model, before, {})
    again = data.read("folder", str(root))
    assert adaptation._context_file(model, again, {}) == context
    for make in features:
        make(model, before)
        make(model, again)
    assert len(encoded) == 3 + 3 * 2
    file = sorted(root.rglob("*.jpg"))[0]
    status = file.stat()
    if change == "size":
        file.write_bytes(file.read_bytes() + b"\0")
    if change == "name":
        file = file.rename(file.with_name("renamed.jpg"))
    later = status.st_mtime_ns + 1000 * (change == "time")
    os.utime(file, ns=(later, later))
    after = data.read("folder", str(root))
    for make in features:
        make(model, after)
    assert adaptation._context_file(model, after, {}) != context
    assert len(encoded) == 2 * (3 + 3 * 2)


def test_a_killed_run_loses_one_shard(counting):
    model, encoded = counting
    dataset, armed = pictures(19), []

    def read(i: int) -> Image.Image:
        if armed and i == 12:
            raise KeyboardInterrupt
        return dataset.read(i)

    same = Dataset(dataset.name, dataset.ids, dataset.labels, dataset.class_names, read)
    assert same.fingerprint == dataset.fingerprint
    armed.append(True)
    with pytest.raises(KeyboardInterrupt):
        store.image_features(model, same)
    assert len(encoded) == 8
    store.image_features(model, dataset)
    assert len(encoded) == 19


def test_a_damaged_shard_is_made_again(counting, tmp_path):
    model, encoded = counting
    first = store.image_features(model, pictures(19))
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 3
    files[1].write_bytes(files[1].read_bytes()[:-40])
    save_file({"other": first[16:]}, files[2])
    assert torch.equal(store.image_features(model, pictures(19)), first)
    assert len(encoded) == 19 + 8 + 3


def test_template_features_match_the_backbone(counting):
    model, _ = counting
    arguments = (["cat", "dog"], ["a {}.", "the {}", "{}"])
    expected = model.template_features(*arguments)
    assert torch.allclose(
        store.template_features(model, *arguments), expected, atol=1e-5
    )
    assert store.template_features(model, *arguments).shape == (3, 2, model.embed_dim)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [64, 224])
def test_crop_and_normalise_are_preprocess_in_two_steps(mode, size):
    settings = open_clip.get_pretrained_cfg("RN50-quickgelu", "openai")
    config = open_clip.transform.PreprocessCfg(
        size=size,
        mean=settings["mean"],
        std=settings["std"],
        interpolation=settings["interpolation"],
        resize_mode=mode,
    )
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    model = replace(clip.load("picto-rn", "random", "cpu"), preprocess=transform)
    photo = pictures(1).image(0)
    images = [photo, photo.resize((301, 97)), photo.resize((50, 333)).convert("L")]
    crops = [model.crop(image) for image in images]
    assert all(c.dtype == torch.uint8 and c.shape == (3, size, size) for c in crops)
    expected = torch.stack([transform(image) for image in images])
    assert torch.equal(model.normalise(torch.stack(crops)), expected)


def by_hand(model, dataset: Dataset, i: int, recipe: str, count: int, seed: int):
    generator = np.random.default_rng(recipes.image_seed(seed, dataset.ids[i]))
    views = recipes.make(recipe, dataset.image(i), count, 64, generator, model.crop)
    return model.encode_images(model.normalise(views))


@pytest.mark.parametrize("recipe", ["preaugment", "augmix"])
def test_view_features_are_those_of_each_image_by_hand(counting, recipe):
    model, _ = counting
    dataset = pictures(5)
    features = store.view_features(model, dataset, recipe, 6, seed=3)
    assert features.shape == (5, 6, model.embed_dim)
    assert features.dtype == torch.float16
    for i in range(5):
        expected = by_hand(model, dataset, i, recipe, 6, seed=3)
        assert torch.equal(features[i], expected.half())
    originals = store.image_features(model, dataset)
    assert torch.allclose(features[:, 0].float(), originals, atol=1e-3)
    assert (features[:, 1:] != features[:, :1]).any(-1).all()


def test_views_depend_on_no_other_image_order_or_thread(counting, monkeypatch):
    model, encoded = counting
    dataset = pictures(9)
    features = store.view_features(model, dataset, count=5)
    picked = [7, 2, 0]
    some = store.view_features(model, dataset.subset(picked), count=5)
    assert torch.equal(some, features[picked])
    monkeypatch.setattr(parallel, "THREADS", 1)
    monkeypatch.setattr(view_store, "PREFETCHED", 0)
    turned = store.view_features(model, dataset.subset(range(8, -1, -1)), count=5)
    assert torch.equal(turned, features.flip(0))
    assert len(encoded) == (9 + 3 + 9) * 5


def test_views_are_encoded_once_for_all_that_names_them(counting, monkeypatch):
    model, encoded = counting
    dataset = pictures(3)
    first = store.view_features(model, dataset, count=4)
    assert torch.equal(store.view_features(model, dataset, count=4), first)
    assert len(encoded) == 3 * 4
    others = [
        store.view_features(model, dataset, "autoaugment", 4),
        store.view_features(model, dataset, count=4, seed=1),
        store.view_features(model, pictures(3, "other"), count=4),
        store.view_features(
            clip.load("picto-rn", "random", "cpu", seed=1), dataset, count=4
        ),
    ]
    monkeypatch.setitem(recipes.VERSION, "preaugment", -1)
    store.view_features(model, dataset, count=4)
    assert len(encoded) == (1 + 4 + 1) * 3 * 4
    assert not any(torch.equal(other, first) for other in others)
    assert store.view_features(model, dataset, count=2).shape == (3, 2, model.embed_dim)


def test_views_beyond_a_batch_are_encoded_in_several(counting, monkeypatch):
    model, _ = counting
    dataset, sizes = pictures(2), []
    whole = store.view_features(model, dataset, count=7, seed=1)
    encode = clip.Backbone.encode_images
    monkeypatch.setattr(
        clip.Backbone,
        "encode_images",
        lambda self, images: sizes.append(len(images)) or encode(self, images),
    )
    monkeypatch.setattr(view_store, "BATCH", 3)
    parts = store.view_features(model, dataset.subset([1, 0]), count=7, seed=1)
    assert sizes == [3, 3, 1] * 2
    assert torch.allclose(parts.flip(0).float(), whole.float(), atol=1e-3)
    assert store.view_features(model, dataset, count=1).shape == (2, 1, model.embed_dim)


@contextlib.contextmanager
def killed_after(images: int, encoded: list, monkeypatch):
    """An interrupt, which is expected, once so many images were encoded."""
    encode = clip.Backbone.encode_images

    def killed(self, batch):
        if len(encoded) == images:
            raise KeyboardInterrupt
        return encode(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(clip.Backbone, "encode_images", killed)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_a_killed_run_loses_no_image_that_was_encoded(counting, monkeypatch):
    model, encoded = counting
    dataset = pictures(12)
    with killed_after(5 * 4, encoded, monkeypatch):
        store.view_features(model, dataset, count=4)
    features = store.view_features(model, dataset, count=4)
    assert len(encoded) == 12 * 4
    for i in range(12):
        expected = by_hand(model, dataset, i, "preaugment", 4, seed=0)
        assert torch.equal(features[i], expected.half())


def flip_a_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage", "lost"),
    [
        ("features", lambda path: flip_a_bit(path, 1_000), 1),
        ("features", lambda path: path.write_bytes(path.read_bytes()[:-40]), 1),
        ("features", Path.unlink, 6),
        ("marks", lambda path: flip_a_bit(path, 8), 1),
        ("marks", lambda path: path.write_bytes(b""), 6),
    ],
)
def test_damaged_views_are_made_again(counting, tmp_path, file, damage, lost):
    model, encoded = counting
    first = store.view_features(model, pictures(6), count=4).clone()
    (path,) = tmp_path.rglob(file)
    damage(path)
    assert torch.equal(store.view_features(model, pictures(6), count=4), first)
    assert len(encoded) == (6 + lost) * 4


def test_what_another_process_makes_meanwhile_is_passed_over(counting, monkeypatch):
    model, encoded = counting
    dataset = pictures(12)
    encode = clip.Backbone.encode_images
    monkeypatch.setattr(view_store, "PREFETCHED", 1)

    def overtaken(self, images):
        with monkeypatch.context() as patched:
            patched.setattr(clip.Backbone, "encode_images", encode)
            store.view_features(model, dataset, count=4)
        return encode(self, images)

    monkeypatch.setattr(clip.Backbone, "encode_images", overtaken)
    features = store.view_features(model, dataset, count=4)
    # Twice: the image being encoded, and at most those that were drawn ahead.
    assert 13 * 4 <= len(encoded) <= 14 * 4
    expected = by_hand(model, dataset, 11, "preaugment", 4, seed=0)
    assert torch.equal(features[11], expected.half())


def test_two_processes_fill_one_folder_of_views(counting, tmp_path):
    model, encoded = counting
    dataset = pictures(40)

    def fill() -> None:
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        store.view_features(model, dataset, count=4)

    other = multiprocessing.get_context("fork").Process(target=fill)
    other.start()
    features = store.view_features(model, dataset, count=4)
    other.join(timeout=600)
    assert other.exitcode == 0
    assert len(list(tmp_path.rglob("features"))) == 1
    made = len(encoded)
    assert made <= 40 * 4
    assert torch.equal(store.view_features(model, dataset, count=4), features)
    assert len(encoded) == made
    for i in range(40):
        expected = by_hand(model, dataset, i, "preaugment", 4, seed=0)
        assert torch.allclose(features[i].float(), expected, atol=1e-3)


def test_a_full_disk_stops_it_before_any_work(counting, monkeypatch, tmp_path):
    model, encoded = counting
    usage = namedtuple("usage", "total used free")
    needed = 1000 * 64 * model.embed_dim * 2
    disk = usage(10**9, 10**9 - needed + 1, needed - 1)
    monkeypatch.setattr(view_store.shutil, "disk_usage", lambda path: disk)
    with pytest.raises(OSError, match=rf"{tmp_path}\S+ needs 16 MB .* 16 MB free"):
        store.view_features(model, pictures(1000), count=64)
    assert not encoded
    store.view_features(model, pictures(2), count=64)


def test_size_and_time_are_told_once_before_the_work(counting, capsys):
    model, _ = counting
    store.view_features(model, pictures(10), count=20)
    line = capsys.readouterr().out
    assert line.startswith("encoding 20 views of noise with picto-rn: 10 of 10 images")
    assert f"{10 * 20 * model.embed_dim * 2 / 1e6:.1f} MB" in line
    store.view_features(model, pictures(10), count=20)
    assert capsys.readouterr().out == ""


def test_what_a_reader_writes_stays_with_it(counting):
    model, encoded = counting
    features = store.view_features(model, pictures(3), count=4)
    features.zero_()
    assert store.view_features(model, pictures(3), count=4).any(-1).all()
    assert len(encoded) == 3 * 4


def test_half_precision_moves_logits_by_hundredths_at_most(counting):
    model, _ = counting
    features = store.view_features(model, pictures(1), count=16)
    exact = by_hand(model, pictures(1), 0, "preaugment", 16, seed=0)
    texts = model.encode_texts([f"class {i}" for i in range(20)])
    moved = zero_shot(features[0], texts, 100.0) - zero_shot(exact, texts, 100.0)
    assert 0 < moved.abs().max() < 0.02


def test_no_run_touches_weights_or_batchnorm_statistics(counting):
    model, _ = counting
    before = clip.fingerprint(model.model)
    store.view_features(model, pictures(3), count=4)
    store.image_features(model, pictures(3))
    assert not model.model.training
    assert clip.fingerprint(model.model) == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"views": "cutmix"}, "preaugment"), ({"count": 0}, "1 or more")],
)
def test_impossible_views_are_refused(counting, tmp_path, wrong, message):
    model, _ = counting
    with pytest.raises(ValueError, match=message):
        store.view_features(model, pictures(2), **wrong)
    assert not any(tmp_path.iterdir())


# Views in chunks, of some images


def looked(model, dataset, images, recipe="preaugment"):
    """Views 0, 1 to 7 and 8 to 11 of these images, side by side."""
    spans = range(1), range(1, 8), range(8, 12)
    parts = [store.chunk_features(model, dataset, recipe, s, images)[0] for s in spans]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("recipe", ["preaugment", "augmix"])
def test_chunks_are_the_views_of_those_numbers(counting, recipe):
    """Their pixels; features of 1, 7 and 4 views at once differ by rounding."""
    model, encoded = counting
    dataset = pictures(4)
    whole = store.view_features(model, dataset, recipe, 12).float()
    found = looked(model, dataset, range(4), recipe)
    assert len(encoded) == 4 * 24
    store.view_features(model, dataset, recipe, 12)  # in a folder of its own
    assert len(encoded) == 4 * 24
    assert found.dtype == torch.float16
    assert torch.allclose(found.float(), whole, atol=1e-3)
    for i in range(4):
        generator = np.random.default_rng(recipes.image_seed(0, dataset.ids[i]))
        crops = recipes.make(recipe, dataset.image(i), 12, 64, generator, model.crop)
        alone = model.encode_images(model.normalise(crops[8:]))
        assert torch.equal(found[i, 8:], alone.half())


def test_a_chunk_depends_on_no_other_image_order_or_thread(counting, monkeypatch):
    model, encoded = counting
    dataset = pictures(9)
    whole = looked(model, dataset, range(9))
    with monkeypatch.context() as patched:
        patched.setattr(keys, "CACHE", keys.CACHE / "other")
        patched.setattr(parallel, "THREADS", 1)
        patched.setattr(view_store, "PREFETCHED", 0)
        first = looked(model, dataset, [7, 2])
        assert torch.equal(first, whole[[7, 2]])
        made = len(encoded)
        assert torch.equal(looked(model, dataset, [2, 5, 7]), whole[[2, 5, 7]])
        assert len(encoded) == made + 12  # image 5 alone
    assert looked(model, dataset, []).shape == (0, 12, model.embed_dim)


def test_the_first_chunk_is_a_request_of_so_many_views(counting):
    model, encoded = counting
    whole = store.view_features(model, pictures(3), count=8)
    found, spent = store.chunk_features(model, pictures(3), "preaugment", range(8), [2])
    assert torch.equal(found, whole[[2]])
    assert spent.shape == (1,)
    assert 0 < spent[0] < 10
    assert len(encoded) == 3 * 8


def test_a_killed_run_loses_no_chunk_that_was_encoded(counting, monkeypatch):
    model, encoded = counting
    dataset, span = pictures(12), range(8, 12)
    with killed_after(5 * 4, encoded, monkeypatch):
        store.chunk_features(model, dataset, "preaugment", span, range(12))
    store.chunk_features(model, dataset, "preaugment", span, range(12))
    assert len(encoded) == 12 * 4


# Chunks


ROWS, SIZE = 19, 8


class Squares:
    """Work whose row n is [n, n squared], and which spans it was asked for."""

    def __init__(self, dies_at: int = ROWS) -> None:
        self.spans, self.dies_at = [], dies_at

    def __call__(self, span: range):
        self.spans.append(span)
        backwards = list(span)[::-1]
        for some in (backwards[:2], backwards[2:]):
            if self.dies_at in some:
                raise KeyboardInterrupt
            yield some, torch.tensor([[n, n * n] for n in some])


def fill(folder, work):
    return chunks.in_chunks(folder, ROWS, work, "squaring", SIZE)


EXPECTED = torch.tensor([[n, n * n] for n in range(ROWS)])


def test_rows_are_made_once_in_whatever_order_they_come(tmp_path):
    work = Squares()
    assert torch.equal(fill(tmp_path, work), EXPECTED)
    assert torch.equal(fill(tmp_path, work), EXPECTED)
    assert work.spans == [range(8), range(8, 16), range(16, 19)]
    spent = chunks.seconds(tmp_path, ROWS, SIZE)
    assert 0 < spent < 10
    assert chunks.seconds(tmp_path, ROWS, SIZE) == spent
    (tmp_path / "0000008-0000016.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="0000008"):
        chunks.seconds(tmp_path, ROWS, SIZE)


def test_a_kill_loses_the_chunk_at_work(tmp_path):
    dying, work = Squares(dies_at=12), Squares()
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, dying)
    assert torch.equal(fill(tmp_path, work), EXPECTED)
    assert work.spans == [range(8, 16), range(16, 19)]


def test_every_flipped_bit_is_found(tmp_path):
    fill(tmp_path, Squares())
    path = tmp_path / "0000016-0000019.safetensors"
    sound = path.read_bytes()
    for position in range(len(sound)):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert chunks._read(path, range(16, 19)) is None, position
    for length in (0, 4, len(sound) - 1):
        path.write_bytes(sound[:length])
        assert chunks._read(path, range(16, 19)) is None


def test_damage_is_told_in_a_line_and_made_again(tmp_path, capsys):
    fill(tmp_path, Squares())
    path, work = tmp_path / "0000008-0000016.safetensors", Squares()
    path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(fill(tmp_path, work), EXPECTED)
    assert work.spans == [range(8, 16)]
    told = capsys.readouterr().out
    assert told == f"1 of 3 files of {tmp_path.name} damaged: made again\n"


def test_workers_share_the_spans(tmp_path, monkeypatch):
    asked = []

    def spread(work, spans, label):
        asked.extend(spans)
        yield from ((span, work(span)) for span in reversed(spans))

    monkeypatch.setattr(parallel, "active", lambda: True)
    monkeypatch.setattr(parallel, "spread", spread)
    chunks._write(tmp_path / "0000000-0000008.safetensors", EXPECTED[:8], 0.5)
    assert torch.equal(fill(tmp_path, Squares()), EXPECTED)
    assert asked == [range(8, 16), range(16, 19)]
    assert chunks.seconds(tmp_path, ROWS, SIZE) > 0.5


def test_two_processes_fill_one_folder(tmp_path):
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=fill, args=(tmp_path, Squares())) for _ in range(2)]
    for other in others:
        other.start()
    assert torch.equal(fill(tmp_path, Squares()), EXPECTED)
    for other in others:
        other.join(timeout=600)
        assert other.exitcode == 0
    untouched = Squares()
    assert torch.equal(fill(tmp_path, untouched), EXPECTED)
    assert not untouched.spans
    assert len(list(tmp_path.iterdir())) == 3


# Logits of methods that tune


@pytest.fixture(scope="module")
def small():
    model = clip.load("picto-rn", "picto", device="cpu")
    dataset = data.load("picto-few-shot", images=100)
    text = adaptation.prepare(model, dataset.class_names[:12])
    views = store.view_features(model, dataset, "preaugment", 10)
    return views, text


@pytest.mark.parametrize("batch", [3, 8])
@pytest.mark.parametrize(
    ("method", "settings"), [(tpt.tpt, {}), (tpt.revote, {"rho": 0.3}), (ctpt, {})]
)
def test_bits_do_not_depend_on_the_chunks(
    small, tmp_path, monkeypatch, method, settings, batch
):
    views, text = small
    text = adaptation.replace(text, batch=batch)
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    tuning = adaptation.by_tuning(method, **settings)
    with torch.no_grad():
        whole = tuning(views, text)
    for chunk in (1, 64):
        monkeypatch.setattr(adaptation, "CHUNK", chunk)
        found = adaptation._logits(tuning, views, text, f"{chunk}", "x")
        assert torch.equal(found, whole)
    assert len({p.parent for p in tmp_path.rglob("*.safetensors")}) == 2


def test_one_tuning_serves_all_methods_that_read_it(small, tmp_path, monkeypatch):
    views, text = small[0][:9], adaptation.replace(small[1], batch=4)
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    for method in cots.READINGS:
        tuning = adaptation.by_tuning(method, rho=0.3)
        with torch.no_grad():
            alone = tuning(views, text)
        found = adaptation._logits(tuning, views, text, "key", "x")
        assert torch.equal(found, alone)
    assert len(list((tmp_path / "store" / "adapted").iterdir())) == 1
    of_one_view = adaptation.by_tuning(tpt.tpt, rho=1.0)  # which CoTS cannot read
    adaptation._logits(of_one_view, views[:, :1], text, "key", "x")


def test_contexts_of_their_own_go_with_their_images(small, tmp_path, monkeypatch):
    views, text = small
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    monkeypatch.setattr(adaptation, "CHUNK", 32)
    shifts = torch.linspace(0, 0.1, 40)[:, None, None]
    own = adaptation.replace(text, context=text.context + shifts)
    tuning = adaptation.by_tuning(tpt.tpt)
    with torch.no_grad():
        whole = tuning(views[:40], own)
    found = adaptation._logits(tuning, views[:40], own, "key", "x")
    assert torch.equal(found, whole)


def test_what_is_kept_is_found_by_all_that_made_it(small, tmp_path, monkeypatch):
    views, text = small
    views = views[:4]
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    blurry = adaptation.replace(text, context=text.context * 1.01)
    other_views = views.clone()
    other_views[3, 9] = other_views[2, 9]
    cases = [
        (adaptation.by_tuning(tpt.tpt), views, text, "a"),
        (adaptation.by_tuning(tpt.tpt), views, text, "b"),
        (adaptation.by_tuning(tpt.tpt), views, blurry, "a"),
        (adaptation.by_tuning(tpt.tpt), other_views, text, "a"),
        (adaptation.by_tuning(tpt.tpt, steps=2), views, text, "a"),
        (adaptation.by_tuning(ctpt), views, text, "a"),
        (adaptation.by_tuning(tpt.tpt), views, adaptation.replace(text, batch=4), "a"),
    ]
    for _ in range(2):
        for method, seen, side, backbone in cases:
            adaptation._logits(method, seen, side, backbone, "x")
        assert len(list((tmp_path / "store" / "adapted").iterdir())) == len(cases)


def test_what_has_no_key_is_not_kept(small, tmp_path, monkeypatch):
    views, text = small
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    written_here = adaptation.by_tuning(lambda views, *side, **more: views[:, 0, :2])
    with_loss = adaptation.by_tuning(tpt.tpt, loss=lambda z, t: z.sum(dim=(1, 2)))
    plain = adaptation.in_feature_space(vote.confident_vote)
    for method in (written_here, with_loss, plain, adaptation.first_view):
        logits = adaptation._logits(method, views[:4], text, "key", "x")
        assert len(logits) == 4
    assert not list(tmp_path.iterdir())


# Other files that are kept


def flips(content: bytes, number: int = 40):
    """The content, cut and with a bit flipped, at seeded places."""
    rng = np.random.default_rng(0)
    yield content[: len(content) // 2]
    for position in rng.integers(0, len(content), number):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        yield bytes(damaged)


def test_damaged_checkpoints_are_left_out(tmp_path, capsys):
    path, state = tmp_path / "run" / "checkpoint.pt", {"weight": torch.rand(30, 30)}
    assert checkpoints.load(path) is None
    checkpoints.save(path, state)
    sound = path.read_bytes()
    assert torch.equal(checkpoints.load(path)["weight"], state["weight"])
    for damaged in flips(sound):
        path.write_bytes(damaged)
        found = checkpoints.load(path)
        # What neither zip nor torch looks at may be anything.
        assert found is None or torch.equal(found["weight"], state["weight"])
    start = zipfile.ZipFile(path).infolist()[1].header_offset + 2000
    path.write_bytes(sound[:start] + bytes([sound[start] ^ 1]) + sound[start + 1 :])
    capsys.readouterr()
    assert checkpoints.load(path) is None
    assert "run/checkpoint.pt is damaged" in capsys.readouterr().out


def test_damaged_contexts_are_learned_again(tmp_path, monkeypatch):
    model = clip.load("picto-rn", "picto", device="cpu")
    path = tmp_path / "c.safetensors"
    width = model.model.token_embedding.weight.shape[1]
    learned = {"context": torch.rand(4, width)}
    contexts.save(path, learned, model, "toy", {"method": "coop"})
    assert contexts.sound(path)
    sound = path.read_bytes()
    offset = len(sound) - 4 * 4 * width
    for damaged in (sound[:-1], sound[:offset] + b"\x55" + sound[offset + 1 :]):
        path.write_bytes(damaged)
        assert not contexts.sound(path)
        with pytest.raises(ValueError, match="damaged"):
            contexts.load(path, model)
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    calls, trained = [], types.SimpleNamespace(context=learned["context"])
    monkeypatch.setattr(
        adaptation.coop, "train", lambda *_, **__: calls.append(1) or trained
    )
    few = data.load("picto-few-shot", images=2)
    asked = (model, few, 4, "preaugment", 2, 1)
    learned_file = adaptation.learn_coop(*asked)
    adaptation.learn_coop(*asked)
    assert len(calls) == 1
    learned_file.write_bytes(learned_file.read_bytes()[:-1])
    adaptation.learn_coop(*asked)
    assert len(calls) == 2
    assert contexts.sound(learned_file)


def test_every_damaged_caption_is_left_out(tmp_path):
    lines = tmp_path / "captions.jsonl"
    rows = {f"hash{i}": (f"a picture of {i}\n", i / 7) for i in range(5)}
    captioning._append(lines, dict(list(rows.items())[:2]))
    captioning._append(lines, dict(list(rows.items())[2:]))
    assert captioning._read(lines) == (rows, 0)
    for damaged in flips(lines.read_bytes()):
        lines.write_bytes(damaged)
        found, lost = captioning._read(lines)
        assert found.items() < rows.items()
        assert lost


def test_damaged_pictures_are_drawn_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    monkeypatch.setattr(pool, "DRAWN", 4)
    drawn = pool.render("picto-dev", range(3, 9))
    _, other = sorted(tmp_path.rglob("*.safetensors"))
    other.write_bytes(other.read_bytes()[:-5] + b"12345")
    assert np.array_equal(pool.render("picto-dev", range(3, 9)), drawn)
    assert "1 of 2 files" in capsys.readouterr().out


# A full disk


@contextlib.contextmanager
def files_of_at_most(size: int):
    """Whoever writes more bytes into a file is told, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_names_folder_and_cure(tmp_path):
    content, lines = torch.rand(100, 100), tmp_path / "lines.jsonl"
    captions = {f"{n}": ("word " * 50, 0.1) for n in range(100)}
    writes = {
        "rows.safetensors": lambda path: chunks._write(path, content, 1.0),
        "state.pt": lambda path: checkpoints.save(path, {"rows": content}),
        "lines.jsonl": lambda path: captioning._append(lines, captions),
    }
    for name, write in writes.items():
        with pytest.raises(files.DiskFull) as refused, files_of_at_most(5000):
            write(tmp_path / name)
        told = str(refused.value)
        assert f"no room for {name} in {tmp_path}" in told
        assert "STUDY_CACHE" in told
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]
    assert 0 < len(captioning._read(lines)[0]) < 100  # those that are whole


def test_results_on_a_full_disk_leave_no_half_file(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.random((300, 9)))
    fig, ax = plt.subplots()
    ax.plot(frame)
    logits, ids = rng.random((300, 9)), [f"{i}" for i in range(300)]
    told = {"dataset": "toy", "backbone": "toy", "method": "toy", "settings": {}}
    told |= {"ids": ids, "labels": [0] * 300, "seconds_per_image": 1.0}
    for write in (
        lambda: predictions.write(tmp_path, logits=logits, **told),
        lambda: predictions.write_csv(tmp_path / "a.csv", frame),
        lambda: figures.save(tmp_path, "01_a", fig, frame),
    ):
        with pytest.raises(files.DiskFull, match="--outputs"), files_of_at_most(5000):
            write()
    plt.close(fig)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["toy.cost.json"]


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(KeyError), files.replacing(tmp_path / "x"):
        raise KeyError("x")
    (tmp_path / "file").touch()
    with pytest.raises(files.NotWritable), files.replacing(tmp_path / "file" / "x"):
        pass
