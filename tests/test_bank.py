"""Features on disk: found again, made again where damaged, resumed after a kill."""

import multiprocessing
import os
from collections import namedtuple
from dataclasses import replace
from functools import partial
from pathlib import Path

import lookalikes
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from helpers import bank
from helpers import views as recipes
from helpers.bank import keys, shards
from helpers.bank import views as view_bank
from helpers.data import read
from helpers.data.dataset import Dataset
from helpers.methods.zero_shot import zero_shot
from helpers.models import clip


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
    """A random backbone whose encoded images are counted, and an empty bank."""
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    monkeypatch.setattr(shards, "SHARD", 8)
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
    data = pictures(19)
    features = bank.image_features(model, data)
    assert features.shape == (19, model.embed_dim)
    for i in (0, 7, 8, 18):
        alone = model.encode_images(model.preprocess(data.image(i))[None])[0]
        assert torch.allclose(features[i], alone, atol=1e-5)


def test_a_second_call_encodes_nothing(counting):
    model, encoded = counting
    first = bank.image_features(model, pictures(19))
    assert len(encoded) == 19
    assert torch.equal(bank.image_features(model, pictures(19)), first)
    assert len(encoded) == 19


def test_the_cost_is_that_of_the_first_time(counting):
    model, _ = counting
    bank.image_features(model, pictures(19))
    cost = bank.seconds_per_image(model, pictures(19))
    assert 0 < cost < 10
    bank.image_features(model, pictures(19))
    assert bank.seconds_per_image(model, pictures(19)) == cost


def test_other_data_or_weights_miss(counting):
    model, encoded = counting
    bank.image_features(model, pictures(4))
    bank.image_features(model, pictures(4, "other"))
    bank.image_features(clip.load("picto-rn", "random", "cpu", seed=1), pictures(4))
    assert len(encoded) == 12


@pytest.mark.parametrize("change", ["time", "size", "name"])
def test_a_file_that_changed_is_another_picture(counting, tmp_path, change):
    """Also one edited in place, with as many bytes as before."""
    model, encoded = counting
    root = lookalikes.photos(tmp_path / "mine", {"a": 2, "b": 1})
    features = [bank.image_features, partial(bank.view_features, count=2)]
    for make in features:
        make(model, read("folder", str(root)))
        make(model, read("folder", str(root)))
    assert len(encoded) == 3 + 3 * 2
    file = sorted(root.rglob("*.jpg"))[0]
    status = file.stat()
    if change == "size":
        file.write_bytes(file.read_bytes() + b"\0")
    if change == "name":
        file = file.rename(file.with_name("renamed.jpg"))
    later = status.st_mtime_ns + 1000 * (change == "time")
    os.utime(file, ns=(later, later))
    for make in features:
        make(model, read("folder", str(root)))
    assert len(encoded) == 2 * (3 + 3 * 2)


def test_a_killed_run_loses_one_shard(counting):
    model, encoded = counting
    data, armed = pictures(19), []

    def read(i: int) -> Image.Image:
        if armed and i == 12:
            raise KeyboardInterrupt
        return data.read(i)

    same = Dataset(data.name, data.ids, data.labels, data.class_names, read)
    assert same.fingerprint == data.fingerprint
    armed.append(True)
    with pytest.raises(KeyboardInterrupt):
        bank.image_features(model, same)
    assert len(encoded) == 8
    bank.image_features(model, data)
    assert len(encoded) == 19


def test_a_damaged_shard_is_made_again(counting, tmp_path):
    model, encoded = counting
    first = bank.image_features(model, pictures(19))
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 3
    files[1].write_bytes(files[1].read_bytes()[:-40])
    save_file({"other": first[16:]}, files[2])
    assert torch.equal(bank.image_features(model, pictures(19)), first)
    assert len(encoded) == 19 + 8 + 3


def test_template_features_match_the_backbone(counting):
    model, _ = counting
    arguments = (["cat", "dog"], ["a {}.", "the {}", "{}"])
    expected = model.template_features(*arguments)
    assert torch.allclose(
        bank.template_features(model, *arguments), expected, atol=1e-5
    )
    assert bank.template_features(model, *arguments).shape == (3, 2, model.embed_dim)


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


def by_hand(model, data: Dataset, i: int, recipe: str, count: int, seed: int):
    generator = np.random.default_rng(recipes.image_seed(seed, data.ids[i]))
    views = recipes.make(recipe, data.image(i), count, 64, generator, model.crop)
    return model.encode_images(model.normalise(views))


@pytest.mark.parametrize("recipe", ["preaugment", "augmix"])
def test_view_features_are_those_of_each_image_by_hand(counting, recipe):
    model, _ = counting
    data = pictures(5)
    features = bank.view_features(model, data, recipe, 6, seed=3)
    assert features.shape == (5, 6, model.embed_dim)
    assert features.dtype == torch.float16
    for i in range(5):
        expected = by_hand(model, data, i, recipe, 6, seed=3)
        assert torch.equal(features[i], expected.half())
    originals = bank.image_features(model, data)
    assert torch.allclose(features[:, 0].float(), originals, atol=1e-3)
    assert (features[:, 1:] != features[:, :1]).any(-1).all()


def test_views_depend_on_no_other_image_order_or_thread(counting, monkeypatch):
    model, encoded = counting
    data = pictures(9)
    features = bank.view_features(model, data, count=5)
    picked = [7, 2, 0]
    some = bank.view_features(model, data.subset(picked), count=5)
    assert torch.equal(some, features[picked])
    monkeypatch.setattr(view_bank, "DRAWERS", 1)
    monkeypatch.setattr(view_bank, "AHEAD", 0)
    turned = bank.view_features(model, data.subset(range(8, -1, -1)), count=5)
    assert torch.equal(turned, features.flip(0))
    assert len(encoded) == (9 + 3 + 9) * 5


def test_views_are_encoded_once_for_all_that_names_them(counting, monkeypatch):
    model, encoded = counting
    data = pictures(3)
    first = bank.view_features(model, data, count=4)
    assert torch.equal(bank.view_features(model, data, count=4), first)
    assert len(encoded) == 3 * 4
    others = [
        bank.view_features(model, data, "autoaugment", 4),
        bank.view_features(model, data, count=4, seed=1),
        bank.view_features(model, pictures(3, "other"), count=4),
        bank.view_features(
            clip.load("picto-rn", "random", "cpu", seed=1), data, count=4
        ),
    ]
    monkeypatch.setitem(recipes.VERSION, "preaugment", -1)
    bank.view_features(model, data, count=4)
    assert len(encoded) == (1 + 4 + 1) * 3 * 4
    assert not any(torch.equal(other, first) for other in others)
    assert bank.view_features(model, data, count=2).shape == (3, 2, model.embed_dim)


def test_views_beyond_a_batch_are_encoded_in_several(counting, monkeypatch):
    model, _ = counting
    data, sizes = pictures(2), []
    whole = bank.view_features(model, data, count=7, seed=1)
    encode = clip.Backbone.encode_images
    monkeypatch.setattr(
        clip.Backbone,
        "encode_images",
        lambda self, images: sizes.append(len(images)) or encode(self, images),
    )
    monkeypatch.setattr(view_bank, "BATCH", 3)
    parts = bank.view_features(model, data.subset([1, 0]), count=7, seed=1)
    assert sizes == [3, 3, 1] * 2
    assert torch.allclose(parts.flip(0).float(), whole.float(), atol=1e-3)
    assert bank.view_features(model, data, count=1).shape == (2, 1, model.embed_dim)


def test_a_killed_run_loses_no_image_that_was_encoded(counting, monkeypatch):
    model, encoded = counting
    data = pictures(12)
    encode = clip.Backbone.encode_images

    def killed(self, images):
        if len(encoded) == 5 * 4:
            raise KeyboardInterrupt
        return encode(self, images)

    with monkeypatch.context() as patched:
        patched.setattr(clip.Backbone, "encode_images", killed)
        with pytest.raises(KeyboardInterrupt):
            bank.view_features(model, data, count=4)
    features = bank.view_features(model, data, count=4)
    assert len(encoded) == 12 * 4
    for i in range(12):
        expected = by_hand(model, data, i, "preaugment", 4, seed=0)
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
    first = bank.view_features(model, pictures(6), count=4).clone()
    (path,) = tmp_path.rglob(file)
    damage(path)
    assert torch.equal(bank.view_features(model, pictures(6), count=4), first)
    assert len(encoded) == (6 + lost) * 4


def test_what_another_process_makes_meanwhile_is_passed_over(counting, monkeypatch):
    model, encoded = counting
    data = pictures(12)
    encode = clip.Backbone.encode_images
    monkeypatch.setattr(view_bank, "AHEAD", 1)

    def overtaken(self, images):
        with monkeypatch.context() as patched:
            patched.setattr(clip.Backbone, "encode_images", encode)
            bank.view_features(model, data, count=4)
        return encode(self, images)

    monkeypatch.setattr(clip.Backbone, "encode_images", overtaken)
    features = bank.view_features(model, data, count=4)
    # Twice: the image being encoded, and at most those that were drawn ahead.
    assert 13 * 4 <= len(encoded) <= 14 * 4
    expected = by_hand(model, data, 11, "preaugment", 4, seed=0)
    assert torch.equal(features[11], expected.half())


def test_two_processes_fill_one_bank(counting, tmp_path):
    model, encoded = counting
    data = pictures(40)

    def fill() -> None:
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        bank.view_features(model, data, count=4)

    other = multiprocessing.get_context("fork").Process(target=fill)
    other.start()
    features = bank.view_features(model, data, count=4)
    other.join(timeout=60)
    assert other.exitcode == 0
    assert len(list(tmp_path.rglob("features"))) == 1
    made = len(encoded)
    assert made <= 40 * 4
    assert torch.equal(bank.view_features(model, data, count=4), features)
    assert len(encoded) == made
    for i in range(40):
        expected = by_hand(model, data, i, "preaugment", 4, seed=0)
        assert torch.allclose(features[i].float(), expected, atol=1e-3)


def test_a_full_disk_stops_it_before_any_work(counting, monkeypatch, tmp_path):
    model, encoded = counting
    usage = namedtuple("usage", "total used free")
    needed = 1000 * 64 * model.embed_dim * 2
    disk = usage(10**9, 10**9 - needed + 1, needed - 1)
    monkeypatch.setattr(view_bank.shutil, "disk_usage", lambda path: disk)
    with pytest.raises(OSError, match=rf"{tmp_path}\S+ needs 16 MB .* 16 MB free"):
        bank.view_features(model, pictures(1000), count=64)
    assert not encoded
    bank.view_features(model, pictures(2), count=64)


def test_the_views_cost_is_that_of_the_first_time(counting):
    model, _ = counting
    arguments = (model, pictures(4), "preaugment", 3, 5)
    with pytest.raises(FileNotFoundError, match="view_features"):
        bank.view_seconds_per_image(*arguments)
    bank.view_features(*arguments)
    cost = bank.view_seconds_per_image(*arguments)
    assert 0 < cost < 10
    bank.view_features(*arguments)
    assert bank.view_seconds_per_image(*arguments) == cost


def test_size_and_time_are_told_once_before_the_work(counting, capsys):
    model, _ = counting
    bank.view_features(model, pictures(10), count=20)
    line = capsys.readouterr().out
    assert line.startswith("encoding 20 views of noise with picto-rn: 10 of 10 images")
    assert f"{10 * 20 * model.embed_dim * 2 / 1e6:.1f} MB" in line
    bank.view_features(model, pictures(10), count=20)
    assert capsys.readouterr().out == ""


def test_what_a_reader_writes_stays_with_it(counting):
    model, encoded = counting
    features = bank.view_features(model, pictures(3), count=4)
    features.zero_()
    assert bank.view_features(model, pictures(3), count=4).any(-1).all()
    assert len(encoded) == 3 * 4


def test_half_precision_moves_logits_by_hundredths_at_most(counting):
    model, _ = counting
    features = bank.view_features(model, pictures(1), count=16)
    exact = by_hand(model, pictures(1), 0, "preaugment", 16, seed=0)
    texts = model.encode_texts([f"class {i}" for i in range(20)])
    moved = zero_shot(features[0], texts, 100.0) - zero_shot(exact, texts, 100.0)
    assert 0 < moved.abs().max() < 0.02


def test_no_run_touches_weights_or_batchnorm_statistics(counting):
    model, _ = counting
    before = clip.fingerprint(model.model)
    bank.view_features(model, pictures(3), count=4)
    bank.image_features(model, pictures(3))
    assert not model.model.training
    assert clip.fingerprint(model.model) == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"views": "cutmix"}, "preaugment"), ({"count": 0}, "1 or more")],
)
def test_impossible_views_are_refused(counting, tmp_path, wrong, message):
    model, _ = counting
    with pytest.raises(ValueError, match=message):
        bank.view_features(model, pictures(2), **wrong)
    assert not any(tmp_path.iterdir())
