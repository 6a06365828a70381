"""The same study gives the same ledgers, today and next year."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from digests import FILE, digests, machine, unsure

from helpers import data, keys, parallel, store
from helpers.chapters import adaptation
from helpers.chapters.notebook import Run
from helpers.methods import tpt, vote
from helpers.models import clip
from helpers.paths import number_of
from helpers.store import features
from helpers.store import views as view_store

TIE = 1e-6  # of the best logit: closer ones may change places
ALIKE = 0.95  # share of all predictions that another machine must give alike
RENEW = "\nIf it was meant, renew the digests as tests/digests.py says."


@pytest.fixture(scope="module")
def stored() -> dict:
    if not FILE.is_file():
        pytest.skip(f"no {FILE.name}: tests/digests.py tells how to make it")
    return json.loads(FILE.read_text())


def test_smoke_ledgers_are_those_of_the_stored_run(smoke_study, stored):
    found, expected = digests(smoke_study), stored["ledgers"]
    assert found.keys() == expected.keys(), RENEW
    assert {k: v["n"] for k, v in found.items()} == {
        k: v["n"] for k, v in expected.items()
    }, RENEW
    wrong, alike = [], []
    for name, now in found.items():
        before = expected[name]
        pair = [bytes.fromhex(each["predictions"]) for each in (now, before)]
        differ = np.frombuffer(pair[0], np.uint8) != np.frombuffer(pair[1], np.uint8)
        alike.append(~differ)
        if (differ & ~unsure(smoke_study, name, TIE)).any():
            wrong.append(f"{name}: {differ.sum()} of {now['n']} predictions")
        elif not np.allclose(now["logits"], before["logits"], rtol=1e-3, atol=2e-3):
            wrong.append(f"{name}: logits {now['logits']}, were {before['logits']}")
    if machine() == stored["made_on"]:
        assert not wrong, "\n".join(wrong) + RENEW
    same = np.concatenate(alike).mean()  # elsewhere, rounding may turn a step's sign
    assert same >= ALIKE, f"{same:.1%} of all predictions are the same" + RENEW


def test_chapters_that_write_one_ledger_write_the_same_bytes(smoke_study):
    """So that no order of the notebooks can matter."""
    written: dict[str, list[str]] = {}
    for executed in sorted(smoke_study.glob("[0-9][0-9]*_*.ipynb")):
        files = json.loads(executed.read_text())["metadata"]["run"]["files"]
        for file in files:
            if file.endswith(".parquet"):
                written.setdefault(file, []).append(number_of(executed.stem))
    twice = {file: chapters for file, chapters in written.items() if len(chapters) > 1}
    assert {tuple(c) for c in twice.values()} == {("01", "04"), ("05", "05b")}
    first = smoke_study.with_name("first_predictions")  # of chapters 01 and 05
    for file in twice:  # smoke_study holds what the second of a pair wrote last
        before = first / Path(file).relative_to("predictions")
        assert before.read_bytes() == (smoke_study / file).read_bytes(), file


# The parts


@pytest.fixture(scope="module")
def model():
    return clip.load("picto-rn", "picto", device="cpu")


@pytest.fixture(scope="module")
def dataset():
    return data.load("picto-few-shot", images=40)


def evaluated(folder, monkeypatch, model, dataset) -> dict[str, bytes]:
    """The ledgers of some methods, from an empty cache."""
    monkeypatch.setattr(keys, "CACHE", folder / "cache")
    run = Run("02_x", "toy", folder / "toy", 0, torch.device("cpu"))
    text = adaptation.prepare(model, dataset.class_names)
    methods = {
        "vote": adaptation.in_feature_space(vote.confident_vote),
        "tpt": adaptation.by_tuning(tpt.tpt),
    }
    plain = {"zero_shot": adaptation.first_view}
    adaptation.evaluate(run, model, dataset, text, plain)
    adaptation.evaluate(run, model, dataset, text, methods, "augmix", 10)
    files = sorted((folder / "toy").rglob("*.parquet"))
    return {file.name: file.read_bytes() for file in files}


def test_ledgers_do_not_depend_on_threads_that_read_and_draw_or_on_chunks(
    model, dataset, tmp_path, monkeypatch
):
    first = evaluated(tmp_path / "first", monkeypatch, model, dataset)
    monkeypatch.setattr(parallel, "THREADS", 1)
    monkeypatch.setattr(view_store, "PREFETCHED", 0)
    monkeypatch.setattr(adaptation, "CHUNK", 32)
    assert len(first) == 3
    assert evaluated(tmp_path / "other", monkeypatch, model, dataset) == first


def test_batches_and_torchs_threads_move_features_by_rounding_only(
    model, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(keys, "CACHE", tmp_path / "one")
    plain = store.image_features(model, dataset)
    threads = torch.get_num_threads()
    for number, batch in ((1, 64), (2, 64), (threads, 7)):
        monkeypatch.setattr(keys, "CACHE", tmp_path / f"{number}-{batch}")
        monkeypatch.setattr(features, "BATCH", batch)
        torch.set_num_threads(number)
        try:
            other = store.image_features(model, dataset)
        finally:
            torch.set_num_threads(threads)
        assert (other - plain).abs().max() < 1e-6
