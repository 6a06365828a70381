"""Trials of the estimators: no label of a trial leaks, and every score by hand."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy.special import log_softmax

from helpers.data.dataset import Dataset, Pixels
from helpers.figures import chapter_08
from helpers.results import estimates, predictions, trials
from tools import estimators

NAMES = ("photos", "sketches", "hard", "dark")
METHODS = ("zero_shot_photo", "autoclip_80", "vote", "vote_mean")
CLASSES = 12


def logits_of(labels, hard, method, seed=0):
    """Logits whose accuracy falls with `hard`; methods share most of their noise."""
    common = np.random.default_rng(seed).normal(size=(len(labels), CLASSES))
    own = np.random.default_rng([seed, method]).normal(size=common.shape)
    signal = (2.5 + 0.2 * method) * np.eye(CLASSES)[labels]
    return (signal + hard * common + 0.5 * own).astype(np.float32)


def a_pool(images=120, models=6) -> trials.Pool:
    labels = np.tile(np.arange(images) % CLASSES, len(NAMES))
    parts = [
        np.stack([logits_of(labels[:images], 1 + k, m, k) for m in range(models)])
        for k in range(len(NAMES))
    ]
    sets = np.repeat(NAMES, images)
    slices = {"dark: severity 1": 3 * images + np.arange(40)}
    return trials.Pool(METHODS, np.concatenate(parts, axis=1), labels, sets, slices)


@pytest.fixture(scope="module")
def pool():
    return a_pool()


@pytest.fixture(scope="module")
def drawn(pool):
    return trials.draw(pool)


@pytest.fixture(scope="module")
def measured(pool, drawn):
    return trials.measure(pool, drawn)


# What is drawn.


def test_trials_are_what_they_say(pool, drawn):
    kinds = {trial.kind for trial in drawn}
    known = {"whole set", "slice", "sample", trials.MIXTURES}
    assert kinds == known | {"classes, all names", "classes, own names"}
    for trial in drawn:
        at = trial.positions
        assert set(pool.sets[at]) == set(trial.sets)
        assert len(set(at)) == len(at) >= trials.FEWEST
        assert (trial.classes is not None) == (trial.kind == "classes, own names")
        if trial.classes is not None:
            assert set(pool.labels[at]) <= set(trial.classes)
    names = [trial.name for trial in drawn]
    assert len(set(names)) == len(names)


def test_the_same_seed_draws_the_same(pool, drawn):
    again = trials.draw(pool)
    assert all(
        np.array_equal(a.positions, b.positions)
        for a, b in zip(drawn, again, strict=True)
    )


# What is measured.


def test_accuracies_are_those_of_the_images_and_their_classes(pool, drawn, measured):
    for trial in drawn[::7]:
        x = pool.own[:, trial.positions]
        if trial.classes is not None:
            keep = np.isin(np.arange(CLASSES), trial.classes)
            x = np.where(keep, x, -np.inf)
        hits = (x.argmax(axis=-1) == pool.labels[trial.positions]).mean(axis=1)
        rows = measured[measured["trial"] == trial.name]
        found = rows[rows["estimator"] == "average confidence"]
        assert found["true"].to_numpy() == pytest.approx(hits)


@pytest.mark.parametrize("name", NAMES)
def test_no_label_of_a_trial_has_a_say(name, pool, measured):
    """With other labels on one data set, nothing changes in what is said of it."""
    labels = np.where(pool.sets == name, (pool.labels + 5) % CLASSES, pool.labels)
    other = trials.Pool(pool.methods, pool.logits, labels, pool.sets, pool.slices)
    names = {
        t.name
        for t in trials.draw(pool)
        if name in t.sets and not t.kind.startswith("classes")
    }
    again = trials.measure(other, trials.draw(pool))
    few = f"{trials.LABELS} labels"
    before, after = (
        table[table["trial"].isin(names) & table["estimator"].ne(few)]
        for table in (measured, again)
    )
    columns = ["trial", "estimator", "method", "estimated", "low", "high"]
    pd.testing.assert_frame_equal(before[columns], after[columns])
    assert not np.allclose(before["true"], after["true"])


def test_what_an_estimator_says_is_what_its_function_says(pool, drawn, measured):
    trial = next(t for t in drawn if t.name == "dark")
    known = trials.Sources(pool).of(NAMES[:3])
    rows = measured[measured["trial"] == "dark"].set_index("estimator")["estimated"]
    x = pool.own[:, trial.positions]
    p = estimates.probabilities(x)
    assert rows["average confidence"].to_numpy() == pytest.approx(
        p.max(axis=-1).mean(axis=-1)
    )
    away = np.isin(pool.sets, NAMES[:3])
    hits = pool.own[:, away].argmax(axis=-1) == pool.labels[away]
    assert known.accuracy[: len(METHODS)] == pytest.approx(hits.mean(axis=1))
    scores = estimates.probabilities(pool.own[:, away]).max(axis=-1)
    for m, said in enumerate(rows["ATC, confidence"]):
        threshold = estimates.atc_threshold(scores[m], hits[m])
        assert said == pytest.approx((p[m].max(axis=-1) >= threshold).mean())
    second = pool.logits[len(METHODS), trial.positions].argmax(axis=-1)
    agreed = (x.argmax(axis=-1) == second).mean(axis=-1)
    order = rows["agreement of backbones"].to_numpy().argsort()
    assert (np.diff(agreed[order]) >= 0).all()


def test_the_temperature_is_that_of_least_nll(pool):
    known = trials.Sources(pool).of(NAMES[:2])
    away = np.isin(pool.sets, NAMES[:2])
    rows = np.arange(away.sum())
    for m, found in enumerate(known.temperature):
        x = pool.own[m, away].astype(float)
        labels = pool.labels[away]
        losses = [
            -log_softmax(x / t, 1)[rows, labels].mean() for t in trials.TEMPERATURES
        ]
        assert found == trials.TEMPERATURES[np.argmin(losses)]


# How it is scored.


def a_table(estimated, true, estimator="one", trial="t", sets="photos", kind="sample"):
    about = {"trial": trial, "sets": sets, "kind": kind, "estimator": estimator}
    frame = pd.DataFrame({"method": list("abc"), "estimated": estimated, "true": true})
    return frame.assign(**about, low=np.nan, high=np.nan)


def test_scores_by_hand():
    row = trials.scored(a_table([0.5, 0.9, 0.6], [0.6, 0.7, 0.8])).iloc[0]
    assert row["error"] == pytest.approx((0.1 + 0.2 + 0.2) / 3)
    assert row["bias"] == pytest.approx((-0.1 + 0.2 - 0.2) / 3)
    assert row["tau"] == pytest.approx(1 / 3)
    assert row["regret"] == pytest.approx(0.1)
    assert row["gain"] == pytest.approx(0.1)
    assert row["promised"] == pytest.approx(0.4)
    assert np.isnan(row["covered"])


def test_ties_cost_their_mean_and_tell_no_order():
    row = trials.scored(a_table([0.9, 0.9, 0.6], [0.6, 0.7, 0.8])).iloc[0]
    assert row["regret"] == pytest.approx(0.15)
    equal = trials.scored(a_table([0.5, 0.5, 0.5], [0.6, 0.7, 0.8])).iloc[0]
    assert np.isnan(equal["tau"])


def test_every_data_set_counts_the_same_and_mixtures_not():
    usual = trials.AVERAGE
    parts = [a_table([0.5] * 3, [0.5, 0.6, 0.7], usual, f"t{k}") for k in range(9)]
    parts += [a_table([0.5] * 3, [0.5] * 3, usual, "u", "hard")]
    mixed = a_table([0.5] * 3, [0.0] * 3, usual, "m", "hard + photos", trials.MIXTURES)
    table = pd.concat([*parts, mixed], ignore_index=True)
    row = trials.summary(table).iloc[0]
    assert row["error"] == pytest.approx((0.1 + 0.0) / 2)
    assert (row["sets"], row["over_average"]) == (2, 0)
    assert row["error_low"] == 0
    assert row["error_high"] == pytest.approx(0.1)
    by = trials.by_set(table).set_index("set")
    assert by["trials"].to_dict() == {"photos": 9, "hard": 1, trials.MIXTURES: 1}


def test_the_summary_knows_labels_and_zero_shot(measured):
    table = trials.summary(measured).set_index("estimator")
    assert table.loc[trials.ZERO_SHOT, "gain"] == 0
    assert np.isnan(table.loc[trials.ZERO_SHOT, "error"])
    assert (
        table.loc[f"{trials.LABELS} labels", "error"]
        < table.loc[trials.AVERAGE, "error"]
    )
    assert table["regret"].is_monotonic_increasing
    assert (table["regret_low"] <= table["regret"]).all()
    assert 0 <= table.loc[trials.COMBINATION, "covered"] <= 1


# From ledgers to the packaged fit.


@pytest.fixture
def study(tmp_path):
    """A study's folder and its data sets: three, with ledgers of two backbones."""
    sets = []
    for k, name in enumerate(NAMES[:3]):
        labels = np.arange(90) % CLASSES
        facts = pd.DataFrame({"severity": np.arange(90) % 2, "style": "photo"})
        dataset = Dataset(
            name=name,
            ids=tuple(f"{name}/{i}" for i in range(90)),
            labels=labels,
            class_names=tuple(f"class {c}" for c in range(CLASSES)),
            read=Pixels(np.zeros((90, 2, 2), np.uint8)),
            facts=facts,
        )
        sets.append(dataset)
        runs = [("one", "zero_shot_photo", 90), ("one", "autoclip_80", 90)]
        runs += [("one", "vote-augmix", 80), ("one", "vote_mean-augmix", 80)]
        runs += [("two", "zero_shot_photo", 90), ("two", "vote-augmix", 50)]
        for m, (backbone, method, count) in enumerate(runs):
            logits = logits_of(labels, 1 + k, m, k)
            write(tmp_path, dataset, backbone, method, logits, np.arange(count))
    return tmp_path, sets


def write(folder, dataset, backbone, method, logits, at):
    """A ledger of some images, the last first."""
    at = 89 - at
    predictions.write(
        folder,
        dataset=dataset.name,
        backbone=backbone,
        method=method,
        ids=[dataset.ids[i] for i in at],
        labels=dataset.labels[at],
        logits=logits[at],
        seconds_per_image=0.1,
        settings={},
    )


def test_ledgers_are_read_on_their_common_images(study):
    folder, sets = study
    pool = trials.read(folder, sets, "one", "two")
    assert pool.methods == METHODS
    # Of the second backbone, only the ledger that holds all images.
    assert pool.logits.shape == (5, 3 * 80, CLASSES)
    assert pool.own.shape[0] == 4
    for m in range(5):
        hard = logits_of(sets[1].labels, 2, m, 1)
        ids = sorted(sets[1].ids[10:])
        expected = hard[[sets[1].ids.index(name) for name in ids]]
        assert np.array_equal(pool.logits[m, pool.sets == NAMES[1]], expected)
    assert set(pool.slices) == {f"{n}: severity {s}" for n in NAMES[:3] for s in (0, 1)}
    alone = trials.read(folder, sets, "one")
    assert np.array_equal(alone.logits, pool.own)


def test_what_cannot_be_read_is_said(study):
    folder, sets = study
    with pytest.raises(ValueError, match="takes three, not 2"):
        trials.read(folder, sets[:2], "one")
    with pytest.raises(ValueError, match="there are zero_shot_photo"):
        trials.read(folder, sets, "two", methods=("zero_shot_photo", "autoclip_80"))
    few = np.arange(trials.FEWEST - 1)
    write(folder, sets[1], "one", "vote-augmix", np.zeros((90, CLASSES)), few)
    with pytest.raises(ValueError, match="29 images of sketches"):
        trials.read(folder, sets, "one")
    other = replace(sets[2], class_names=tuple(f"other {c}" for c in range(CLASSES)))
    with pytest.raises(ValueError, match="the same classes"):
        trials.read(folder, [*sets[:2], other], "one")


def test_the_tool_writes_what_is_loaded(study, monkeypatch, tmp_path):
    folder, sets = study
    (tmp_path / "mine.yaml").write_text(
        "study: mine\ndataset: photos\nshifts: [sketches, hard]\nbackbone: one\n"
        "second_backbone: two\ndata_root: ''\n"
    )
    monkeypatch.setattr(estimators, "PARAMS", tmp_path)
    monkeypatch.setattr(estimators, "TARGET", tmp_path / "fit.json")
    known = {d.name: d for d in sets}
    monkeypatch.setattr(estimators.data, "read", lambda name, root: known[name])
    (folder / "predictions").rename(tmp_path / "moved")
    (tmp_path / "mine").mkdir()
    (tmp_path / "moved").rename(tmp_path / "mine" / "predictions")
    estimators.main(str(tmp_path / "mine"))
    text = (tmp_path / "fit.json").read_text()
    monkeypatch.setattr(estimates, "files", lambda package: tmp_path)
    monkeypatch.setattr(estimates, "PACKAGED", "fit.json")
    assert set(json.loads(text)) == {"alone", "second"}
    for second in (False, True):
        fit = estimates.packaged(second)
        assert fit.methods == METHODS
        assert fit.features.shape[1] == 3 + second
        assert fit.choice in ("estimated", "usual")
        x = dict(zip(METHODS, a_pool().own, strict=True))
        other = np.zeros(480, int) if second else None
        frame = estimates.estimate(x, other)
        assert frame.notna().all(axis=None)


# The figure.


def test_estimates_are_drawn_against_the_truth(measured):
    fig, data = chapter_08.estimated_against_true(measured, ("combination", "ALine-D"))
    shown = data[data["estimator"] == "combination"].set_index("trial")
    rows = measured[measured["estimator"] == "combination"]
    expected = rows.groupby("trial")[["estimated", "true"]].mean()
    assert np.allclose(shown.loc[expected.index, ["estimated", "true"]], expected)
    one = fig.axes[0]
    dots = sum(len(line.get_xdata()) for line in one.lines[1:])
    assert dots == len(shown)
    table = trials.summary(measured).set_index("estimator")
    assert f"off by {100 * table.loc['combination', 'error']:.1f}" in one.get_title(
        "left"
    )
    plt.close(fig)


def test_an_unknown_estimator_is_said(measured):
    with pytest.raises(ValueError, match="no estimator"):
        chapter_08.estimated_against_true(measured, ("by eye",))
