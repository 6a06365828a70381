"""Seconds of an image: the same few images for all, whatever the store has."""

import time

import pandas as pd
import pytest
import torch
from PIL import Image

from helpers import data, store
from helpers.chapters import self_training
from helpers.data.dataset import Dataset
from helpers.methods.training import Student
from helpers.models import clip
from helpers.models.visual import ImageTower
from helpers.store import timing


@pytest.fixture(scope="module")
def model():
    return clip.load("picto-rn", "picto", "cpu")


@pytest.fixture(autouse=True)
def afresh(monkeypatch):
    monkeypatch.setattr(timing, "_known", {})


def read_by(read, images: int = 40) -> Dataset:
    ids = tuple(f"{i:03d}" for i in range(images))
    return Dataset("x", ids, [0] * images, ("one", "two"), read)


def picture(position: int) -> Image.Image:
    return Image.new("RGB", (80, 60), (position, 0, 0))


def test_the_fastest_round_counts_and_long_ones_are_few(monkeypatch):
    now, waits = [0.0], iter([0.3, 0.1, 0.2, 5.0, 9.0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def work() -> None:
        now[0] += next(waits)

    assert timing.fastest(work) == pytest.approx(0.1)  # of three
    assert timing.fastest(work) == pytest.approx(5.0)  # enough
    assert next(waits) == 9.0


def test_reading_is_part_of_an_images_seconds(model):
    def slow(position: int) -> Image.Image:
        time.sleep(0.02)
        return picture(position)

    quick, late = read_by(picture), read_by(slow, 41)
    assert store.seconds_per_image(model, late) > 0.02
    assert 0.02 < store.read_seconds_per_image(model, late) < 0.2
    assert store.view_seconds_per_image(model, late, count=2) > 0.02
    plain = store.read_seconds_per_image(model, quick)
    assert 0 < plain < store.seconds_per_image(model, quick)


def test_few_images_are_read_spread_over_the_data_set_and_once_timed(model):
    seen = []

    def read(position: int) -> Image.Image:
        seen.append(position)
        return picture(position)

    images = read_by(read, 100)
    assert images.key  # a hash of some pictures
    seen.clear()
    first = store.seconds_per_image(model, images)
    assert set(seen) == set(range(0, 100, 7))
    count = len(seen)
    assert store.seconds_per_image(model, images) == first
    assert len(seen) == count
    assert store.seconds_per_image(model, read_by(picture, 1)) > 0


def test_a_trained_tower_is_timed_with_reading_and_trainings_by_their_fastest_epoch(
    monkeypatch,
):
    monkeypatch.setattr(store, "read_seconds_per_image", lambda *_: 100.0)
    model = clip.load("picto-vit", "picto", "cpu")
    cut = self_training.halves(model, data.load("picto", images=16))
    tower = Student(ImageTower(model), torch.eye(128)[:2])
    logits, seconds = self_training.tested(tower, model, cut)
    assert logits.shape == (8, 2)
    assert torch.equal(logits, self_training.timed(tower, cut.tested.images)[0])
    assert 100 < seconds < 101
    log = pd.DataFrame({"seconds": [3.0, 1.0, 2.0]})
    assert self_training.training_seconds(log) == 3.0


def test_more_views_cost_more_and_each_count_has_its_own(model):
    images = read_by(picture)
    few = store.view_seconds_per_image(model, images, count=2)
    assert store.view_seconds_per_image(model, images, count=40) > 2 * few
