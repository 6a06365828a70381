"""Features on disk: found again, made again where damaged, resumed after a kill."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from helpers import bank
from helpers.data.dataset import Dataset
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
    monkeypatch.setattr(bank, "CACHE", tmp_path)
    monkeypatch.setattr(bank, "SHARD", 8)
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
    shards = sorted(tmp_path.rglob("*.safetensors"))
    assert len(shards) == 3
    shards[1].write_bytes(shards[1].read_bytes()[:-40])
    save_file({"other": first[16:]}, shards[2])
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
