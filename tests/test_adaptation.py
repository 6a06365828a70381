"""Adaptation as the chapters run it: timed, kept, and the same as by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import data, keys, store
from helpers.chapters import adaptation
from helpers.chapters.notebook import Run
from helpers.methods import coop, selection, tpt, vote
from helpers.models import clip, prompts
from helpers.models.prompts import PromptTower
from helpers.results import predictions
from helpers.store import chunks, contexts

COUNT = 10
RECIPE = "preaugment"


@pytest.fixture(scope="module")
def model():
    return clip.load("picto-rn", "picto", device="cpu")


@pytest.fixture(scope="module")
def dataset():
    return data.load("picto-few-shot", images=6)


@pytest.fixture(scope="module")
def text(model, dataset):
    return adaptation.prepare(model, dataset.class_names)


@pytest.fixture
def run(tmp_path):
    return Run("02_x", "toy", tmp_path / "toy", 0, torch.device("cpu"))


def test_text_side_is_the_tower_at_its_words(model, dataset, text, capsys):
    tower = PromptTower(model, dataset.class_names)
    assert torch.equal(text.context, tower.context)
    assert torch.equal(text.class_features, tower.features(tower.context))
    assert not text.class_features.requires_grad
    learned = coop.random_start(7, tower.context.shape[1])
    other = adaptation.prepare(model, dataset.class_names, learned)
    assert torch.equal(other.context, learned)
    longer = PromptTower(model, dataset.class_names, 7)
    assert torch.equal(other.class_features, longer.features(learned))
    assert "contexts at once" in capsys.readouterr().out


def test_the_jacobian_is_computed_once(model, dataset, monkeypatch, tmp_path):
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    one, two = dataset.class_names[:1], dataset.class_names[:2]
    first = adaptation.prepare(model, one, jacobian=True).jacobian
    adaptation.prepare(model, two, jacobian=True)  # and kept apart
    monkeypatch.setattr(PromptTower, "jacobian", None)
    again = adaptation.prepare(model, one, jacobian=True).jacobian
    assert torch.equal(again, first)
    assert adaptation.prepare(model, two, jacobian=True).jacobian.shape[0] == 2


def test_memory_bounds_what_goes_through_the_tower(model, dataset, capsys):
    one = PromptTower(model, dataset.class_names).peak_bytes(1, gradient=True)
    for contexts_at_once in (1, 3):
        memory = (contexts_at_once + 0.5) * one / 1e9
        fitted = adaptation.prepare(model, dataset.class_names, memory=memory)
        assert fitted.batch == contexts_at_once
    assert adaptation.prepare(model, dataset.class_names, memory=1e-9).batch == 1
    assert adaptation.prepare(model, dataset.class_names).batch == prompts.AT_ONCE
    assert f"{3 * one / 1e9:.2f} GB" in capsys.readouterr().out


def test_ledgers_hold_what_the_methods_say(run, model, dataset, text):
    methods = {
        "vote": adaptation.in_feature_space(vote.confident_vote),
        "tpt": adaptation.by_tuning(tpt.tpt, steps=2),
        "zero_shot": adaptation.first_view,
    }
    ledgers = adaptation.evaluate(run, model, dataset, text, methods, RECIPE, COUNT)
    views = store.view_features(model, dataset, RECIPE, COUNT)
    side = [text.tower.features, text.logit_scale, text.context]
    expected = [
        vote.confident_vote(views, text.class_features, text.logit_scale),
        tpt.tpt(views, *side, steps=2),
        text.logit_scale * views[:, 0].float() @ text.class_features.T,
    ]
    for name, ledger, logits in zip(methods, ledgers, expected, strict=True):
        assert ledger.attrs["method"] == f"{name}-{RECIPE}"
        assert ledger.attrs["settings"]["view_count"] == COUNT
        assert ledger.attrs["settings"].get("steps") == (2 if name == "tpt" else None)
        assert np.allclose(predictions.logits(ledger), logits, atol=1e-4)
        assert ledger.attrs["seconds_per_image"] > ledger.attrs["looking"] > 0
        path = run.folder / "predictions" / dataset.name / model.name
        assert (path / f"{name}-{RECIPE}.parquet").is_file()


def test_without_a_recipe_methods_get_the_image_as_it_is(run, model, dataset, text):
    methods = {"zero_shot": adaptation.first_view}
    (ledger,) = adaptation.evaluate(run, model, dataset, text, methods)
    features = store.image_features(model, dataset)
    logits = text.logit_scale * features @ text.class_features.T
    assert ledger.attrs["method"] == "zero_shot"
    assert ledger.attrs["looking"] == store.seconds_per_image(model, dataset)
    assert np.allclose(predictions.logits(ledger), logits, atol=1e-4)


def test_steps_and_rates_are_those_of_tpt(model, text):
    hard = data.load("picto-a", images=12)
    views = store.view_features(model, hard, RECIPE, COUNT).float()
    labels = torch.tensor(hard.labels)
    steps, rates = [1, 3], [0.005, 0.3]
    grid = adaptation.steps_and_rates(model, text, views, labels, steps, rates)
    assert grid["backbone"].eq(model.name).all()
    assert [*zip(grid["steps"], grid["rate"], strict=True)] == [
        (n, rate) for rate in rates for n in steps
    ]
    side = [text.tower.features, text.logit_scale, text.context]
    plain = adaptation.first_view(views, text).argmax(dim=-1)
    for row in grid.itertuples():
        how = {"steps": row.steps, "learning_rate": row.rate, "batch": text.batch}
        chosen = tpt.tpt(views, *side, **how).argmax(dim=-1)
        assert row.top1 == pytest.approx((chosen == labels).double().mean().item())
        assert row.moved == pytest.approx((chosen != plain).double().mean().item())
        gain = (chosen == labels).double() - (plain == labels).double()
        assert row.difference == pytest.approx(gain.mean().item())
    assert grid["moved"].iloc[-1] > 0


def test_of_steps_that_do_as_well_the_shortest_is_best():
    rows = [(1, 0.005, 0.5), (4, 0.005, 0.7), (2, 0.05, 0.7), (1, 0.02, 0.7)]
    grid = pd.DataFrame(rows, columns=["steps", "rate", "top1"])
    for some in (grid, grid[::-1]):
        best = adaptation.best_step(some)
        assert best == {"steps": 1, "learning_rate": 0.02}
    assert adaptation.best_step(grid[:2]) == {"steps": 4, "learning_rate": 0.005}


def test_movement_in_common_is_that_of_the_tuned_classes(model, dataset, text):
    views = store.view_features(model, dataset, RECIPE, COUNT).float()
    how = {"steps": 2, "learning_rate": 0.02}
    found = adaptation.movement_in_common(views, text, **how)
    side = [text.tower.features, text.logit_scale, text.context]
    contexts = tpt.tune(views, *side, batch=text.batch, **how).context
    shares = []
    for context in contexts:
        moved = text.tower.features(context) - text.class_features
        common = moved.mean(dim=0).expand_as(moved)
        shares.append((common.square().sum() / moved.square().sum()).item())
    assert found == pytest.approx(np.mean(shares), abs=1e-4)
    assert 0 < found < 1


def test_a_look_at_an_image_shows_its_views_by_entropy(model, dataset, text):
    views = store.view_features(model, dataset, RECIPE, 20)[3].float()
    logits = text.logit_scale * views @ text.class_features.T
    entropies = selection.entropy(logits)
    pictures, frame = adaptation.look(model, dataset, text, 3, RECIPE, 20)
    assert len(pictures) == len(frame) == 8
    assert all(p.shape == (64, 64, 3) and p.dtype == np.uint8 for p in pictures)
    assert np.array_equal(pictures[0], np.asarray(dataset.image(3)))
    assert frame["view"][0] == 0
    order = [n for n in entropies.argsort(stable=True).tolist() if n]
    assert frame["view"][1:].tolist() == order[:5] + order[-2:]
    shown = frame["view"].tolist()
    assert frame["entropy"].tolist() == pytest.approx(entropies[shown].tolist())
    kept = selection.confident(logits[None], 2)[0].tolist()
    assert set(frame["view"][frame["kept"]]) == set(kept) & set(shown)
    best = [dataset.class_names[c] for c in logits.argmax(-1)[shown]]
    assert frame["prediction"].tolist() == best
    few, few_rows = adaptation.look(model, dataset, text, 3, RECIPE, 10, 0, 20, 4)
    assert sorted(few_rows["view"]) == list(range(10))
    assert len(few) == 10


def test_contexts_are_learned_once(model, dataset, monkeypatch):
    settings = (model, dataset, 4, RECIPE, 3, 2)
    path = adaptation.learn_coop(*settings)
    context = contexts.load(path, model)
    views = store.view_features(model, dataset, RECIPE, 3)
    tower = PromptTower(model, dataset.class_names, 4)
    start = coop.random_start(4, tower.context.shape[1])
    labels = torch.tensor(dataset.labels)
    scale = model.logit_scale
    expected = coop.train(views[:, 1:], labels, tower.features, scale, start, 2)
    assert torch.equal(context, expected.context)
    pair = adaptation.learn_cocoop(model, dataset, RECIPE, 3, 2)
    tensors = contexts.load_conditional(pair, model)
    assert tensors["context"].shape == (4, tower.context.shape[1])
    assert chunks.load(pair)[1]["dataset"] == "picto-few-shot"

    def refuse(*arguments, **keywords):
        raise AssertionError("trained again")

    monkeypatch.setattr(adaptation.coop, "train", refuse)
    monkeypatch.setattr(adaptation.cocoop, "train", refuse)
    assert adaptation.learn_coop(*settings) == path
    assert adaptation.learn_cocoop(model, dataset, RECIPE, 3, 2) == pair
    with pytest.raises(AssertionError, match="again"):
        adaptation.learn_coop(model, dataset, 4, RECIPE, 3, 3)
