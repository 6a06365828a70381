"""Ledgers, metrics, paired comparisons and published numbers."""

import base64
import io
import json
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import log_loss, top_k_accuracy_score
from statsmodels.stats.proportion import proportion_confint

from helpers.results import compare, metrics, predictions, published, synthesis
from tools import lean

# Probabilities 3/4 and 1/4: every metric of these logits can be worked out by hand.
THREE_TO_ONE = np.log([[3.0, 1.0], [3.0, 1.0], [1.0, 3.0], [1.0, 3.0]])
LABELS = np.array([0, 1, 1, 1])


def batch(n=400, classes=7, seed=0):
    """Logits [n, classes] that are right more often than not, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1.5
    return 2 * logits, labels


def ledger(folder, method="zero_shot", *, n=40, flip=(), order=None, **changes):
    """Write a ledger of n images, all right but those at the positions `flip`."""
    labels = np.arange(n) % 4
    logits = np.eye(4)[labels] * 5
    logits[list(flip)] *= -1
    order = np.arange(n) if order is None else np.asarray(order)
    arguments = {
        "dataset": "toy",
        "backbone": "RN50",
        "ids": [f"toy/{i:03}" for i in order],
        "labels": labels[order],
        "logits": logits[order],
        "seconds_per_image": 0.25,
        "settings": {"views": 64},
    }
    told = arguments | changes
    predictions.write(folder, method=method, **told)
    run = told["dataset"], told["backbone"], method, told.get("seed", 0)
    return predictions.ledger_path(folder, *run)


# --- metrics -----------------------------------------------------------------------


def test_metrics_by_hand():
    summary = metrics.summary(THREE_TO_ONE, LABELS)
    assert summary["n"] == 4
    assert summary["top1"] == 0.75
    assert summary["nll"] == pytest.approx((3 * math.log(4 / 3) + math.log(4)) / 4)
    assert summary["brier"] == pytest.approx((3 * 2 / 16 + 2 * 9 / 16) / 4)
    assert summary["entropy"] == pytest.approx(
        0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    )
    # Confidence is 3/4 for all and 3 of 4 are right: calibrated.
    assert summary["ece"] == pytest.approx(0)


def test_metrics_agree_with_sklearn_and_torchmetrics():
    # Imported here: it takes longer than all other tests of this file together.
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = batch()
    p = torch.softmax(torch.from_numpy(logits), 1)
    classes = range(logits.shape[1])
    expected = top_k_accuracy_score(labels, logits, k=1, labels=classes)
    assert metrics.summary(logits, labels)["top1"] == pytest.approx(expected)
    assert metrics.negative_log_likelihood(logits, labels) == pytest.approx(
        log_loss(labels, p.numpy(), labels=classes)
    )
    expected = multiclass_calibration_error(
        p, torch.from_numpy(labels), num_classes=len(classes), n_bins=15
    )
    found = metrics.expected_calibration_error(logits, labels)
    assert found == pytest.approx(expected.item(), abs=1e-6)
    one_hot = np.eye(len(classes))[labels]
    expected = ((p.numpy() - one_hot) ** 2).sum(1).mean()
    assert metrics.summary(logits, labels)["brier"] == pytest.approx(expected)


def test_reliability_bins_partition_the_images():
    logits, labels = batch()
    images = metrics.scores(logits, labels)
    bins = metrics.reliability_bins(logits, labels, bins=15)
    assert len(bins) == 15
    assert bins["count"].sum() == len(labels)
    filled = bins[bins["count"] > 0]
    assert filled["confidence"].between(filled["low"], filled["high"]).all()
    assert filled["accuracy"].between(filled["ci_low"], filled["ci_high"]).all()
    assert (filled["accuracy"] * filled["count"]).sum() == pytest.approx(
        images["hit"].sum()
    )
    assert (
        bins.loc[bins["count"] == 0, ["confidence", "accuracy", "ci_low"]]
        .isna()
        .all(axis=None)
    )


def test_width_bins_are_closed_on_the_right():
    half = np.log([[0.5, 0.5]])
    bins = metrics.reliability_bins(half, [0], bins=2)
    assert bins["count"].tolist() == [1, 0]


def test_a_confidence_at_an_edge_counts_below_it_in_every_chapter():
    edges = np.linspace(0, 1, 16)
    confidence = edges[[3, 3, 9, 9, 12, 15]] + [0, -0.01, 0, 0.01, 0, 0]
    hits = np.array([True, False, False, True, True, False])
    expected = 0.0
    for low, high in pairwise(edges):
        inside = (low < confidence) & (confidence <= high)
        expected += abs((hits - confidence)[inside].sum()) / len(hits)
    images = pd.DataFrame({"confidence": confidence, "hit": hits, "nll": 0.0})
    assert synthesis.calibration(images)["ece"] == pytest.approx(expected)
    ids = [str(i) for i in range(len(hits))]
    ledger = pd.DataFrame(
        {"image_id": ids, "label": 1, "prediction": hits * 1, "confidence": confidence}
    )
    found = compare.paired_calibration(ledger, ledger, resamples=3)
    assert found["ece"] == found["baseline_ece"] == pytest.approx(expected)


def test_metrics_do_not_depend_on_the_order_of_images():
    logits, labels = batch(99)
    logits = np.round(logits)  # many equal confidences, also at the borders of bins
    order = np.random.default_rng(1).permutation(99)
    there, back = (
        metrics.summary(logits, labels),
        metrics.summary(logits[order], labels[order]),
    )
    assert there == pytest.approx(back, rel=1e-12)


def test_ties_go_to_the_first_class():
    logits = np.zeros((3, 4))
    images = metrics.scores(logits, [0, 1, 3])
    assert images["prediction"].tolist() == [0, 0, 0]
    assert images["hit"].tolist() == [True, False, False]


def test_one_class_is_certain():
    summary = metrics.summary(np.array([[3.0], [-2.0]]), [0, 0])
    assert summary["top1"] == 1
    for key in ("ece", "nll", "brier", "entropy"):
        assert summary[key] == 0


def test_huge_logits_stay_finite():
    logits = np.array([[1e30, 0.0, -1e30], [0.0, 1e4, 0.0]])
    images = metrics.scores(logits, [0, 0])
    assert images["nll"].tolist() == [0, 1e4]
    assert images["entropy"].tolist() == [0, 0]
    assert images["brier"].tolist() == [0, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensors_of_any_precision_equal_their_float64_values(dtype):
    logits, labels = batch(50)
    tensor = torch.from_numpy(logits).to(dtype).requires_grad_()
    found = metrics.summary(tensor, torch.from_numpy(labels))
    assert found == metrics.summary(tensor.detach().double().numpy(), labels)


def test_images_scored_in_blocks_are_the_same(monkeypatch):
    logits, labels = batch(50)
    whole = metrics.scores(logits, labels)
    monkeypatch.setattr(metrics, "BLOCK", 7)
    pd.testing.assert_frame_equal(metrics.scores(logits, labels), whole)


def test_entropy_takes_any_leading_shape():
    uniform = metrics.entropy(np.zeros((2, 3, 8)))
    assert uniform.shape == (2, 3)
    np.testing.assert_allclose(uniform, math.log(8))


def test_images_without_a_label_are_left_out_of_what_needs_labels(monkeypatch):
    logits, labels = batch(300)
    known = np.arange(300) % 3 > 0
    partly = np.where(known, labels, -1)
    monkeypatch.setattr(metrics, "BLOCK", 7)  # blocks with and without such images
    images = metrics.scores(logits, partly)
    assert images["hit"].notna().equals(pd.Series(known, name="hit"))
    pd.testing.assert_frame_equal(
        images[["prediction", "confidence", "entropy"]],
        metrics.scores(logits, labels)[["prediction", "confidence", "entropy"]],
    )
    of_known, found = (
        metrics.summary(logits[known], labels[known]),
        metrics.summary(logits, partly),
    )
    assert found.pop("entropy") == pytest.approx(metrics.entropy(logits).mean())
    of_known.pop("entropy")
    assert found == pytest.approx(of_known, abs=1e-12)
    assert found["n"] == 200
    for function in (
        metrics.negative_log_likelihood,
        metrics.expected_calibration_error,
        metrics.fit_temperature,
    ):
        expected = function(logits[known], labels[known])
        assert function(logits, partly) == pytest.approx(expected, abs=1e-12)
        with pytest.raises(ValueError, match="none of the"):
            function(logits, np.full(300, -1))


def test_without_any_label_only_the_entropy_is_a_number():
    found = metrics.summary(THREE_TO_ONE, np.full(4, -1))
    assert found.pop("n") == 0
    assert found.pop("entropy") == pytest.approx(metrics.entropy(THREE_TO_ONE).mean())
    assert found.keys() == metrics.summary(THREE_TO_ONE, LABELS).keys() - {
        "n",
        "entropy",
    }
    assert np.isnan(list(found.values())).all()


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), [], "images, classes"),
        (np.zeros(3), [0, 1, 2], "images, classes"),
        (np.zeros((2, 3)), [0], "one per row"),
        (np.zeros((2, 3)), [0, 3], "label 3 at position 1"),
        (np.zeros((2, 3)), [-2, 0], "label -2 at position 0"),
        (np.zeros((2, 3)), [0.0, 1.0], "integers"),
        ([[0.0, math.nan]], [0], "not finite"),
    ],
)
def test_bad_logits_and_labels_are_named(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.summary(np.asarray(logits), np.asarray(labels))


def test_fit_temperature_undoes_a_scale():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, 5))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((20_000, 1)) > p.cumsum(1)).sum(1)  # drawn from p: calibrated
    assert metrics.fit_temperature(logits, labels) == pytest.approx(1, abs=0.03)
    once = metrics.fit_temperature(logits, labels)
    assert metrics.fit_temperature(3 * logits, labels) == pytest.approx(3 * once, 1e-3)


def test_fit_temperature_of_logits_always_right_or_always_wrong():
    logits, right, wrong = 5 * np.eye(3), [0, 1, 2], [1, 2, 0]
    low = metrics.fit_temperature(logits, right)
    assert low >= 0.01
    assert metrics.negative_log_likelihood(logits / low, right) < 1e-12
    assert metrics.fit_temperature(logits, wrong) == pytest.approx(100, rel=1e-3)


def test_bootstrap_interval_agrees_with_resampling():
    hits = np.arange(200) % 5 < 2
    rng = np.random.default_rng(0)
    resampled = [rng.choice(hits, 200).mean() for _ in range(20_000)]
    expected = np.quantile(resampled, [0.025, 0.975])
    np.testing.assert_allclose(metrics.bootstrap_interval(hits), expected, atol=0.005)
    assert metrics.bootstrap_interval([True] * 9) == (1, 1)
    assert metrics.bootstrap_interval([True] * 2) == (0, 1)  # they tell nothing
    with pytest.raises(ValueError, match="non-empty"):
        metrics.bootstrap_interval([])


def test_per_class_counts_by_hand():
    table = metrics.per_class([0, 0, 2, 2, 2], [0, 1, 2, 2, 0], ["cat", "dog", "emu"])
    assert table["class_name"].tolist() == ["cat", "emu"]  # no image of a dog
    assert table["n"].tolist() == [2, 3]
    assert table["top1"].tolist() == pytest.approx([1 / 2, 2 / 3])
    expected = binomtest(2, 3).proportion_ci(method="wilson")
    assert table.loc[1, ["ci_low", "ci_high"]].tolist() == pytest.approx(list(expected))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        metrics.per_class([0], [3], ["cat", "dog", "emu"])


# --- ledgers -----------------------------------------------------------------------


def test_a_ledger_comes_back_as_it_was_written(tmp_path):
    logits, labels = batch(30)
    ids = [f"n01498041/{i}.jpg" for i in range(30)]
    written = predictions.write(
        tmp_path,
        dataset="imagenet-a",
        backbone="ViT-B-16-quickgelu",
        method="tpt",
        ids=ids,
        labels=labels,
        logits=torch.from_numpy(logits),
        seconds_per_image=1.5,
        settings={"views": 64, "lr": 5e-3, "templates": ["a photo of a {}."]},
        seed=3,
    )
    folder = tmp_path / "predictions" / "imagenet-a" / "ViT-B-16-quickgelu"
    frame = predictions.read(folder / "tpt_seed3.parquet")
    pd.testing.assert_frame_equal(written, frame)
    assert written.attrs == frame.attrs
    assert list(frame) == [
        "image_id",
        "label",
        "prediction",
        "confidence",
        "entropy",
        "logits",
    ]
    assert frame["image_id"].tolist() == ids
    assert frame["label"].tolist() == labels.tolist()
    assert frame["prediction"].tolist() == logits.argmax(1).tolist()
    p = torch.softmax(torch.from_numpy(logits), 1)
    np.testing.assert_allclose(frame["confidence"], p.amax(1), rtol=1e-5)
    np.testing.assert_allclose(frame["entropy"], -(p * p.log()).sum(1), rtol=1e-5)
    assert frame["confidence"].dtype == frame["entropy"].dtype == np.float32
    kept = predictions.logits(frame)
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, logits.astype(np.float32))
    assert frame.attrs == {
        "dataset": "imagenet-a",
        "backbone": "ViT-B-16-quickgelu",
        "method": "tpt",
        "seed": 3,
        "classes": 7,
        "settings": {"views": 64, "lr": 5e-3, "templates": ["a photo of a {}."]},
        "seconds_per_image": 1.5,
    }
    some = frame[frame["label"] == 2]
    np.testing.assert_array_equal(predictions.logits(some), kept[labels == 2])


def test_logits_can_be_left_out(tmp_path):
    frame = predictions.read(ledger(tmp_path), with_logits=False)
    assert "logits" not in frame
    assert len(frame) == 40


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    one = ledger(tmp_path / "one", settings={"a": 1, "b": 2}, seconds_per_image=0.1)
    two = ledger(tmp_path / "two", settings={"b": 2, "a": 1}, seconds_per_image=9.0)
    assert one.read_bytes() == two.read_bytes()
    three = ledger(tmp_path / "three", settings={"a": 1, "b": 3})
    assert one.read_bytes() != three.read_bytes()
    assert predictions.read(two).attrs["seconds_per_image"] == 9


def test_half_precision_logits_are_kept_exactly(tmp_path):
    half = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)).half()
    frame = predictions.read(ledger(tmp_path, logits=half))
    np.testing.assert_array_equal(predictions.logits(frame), half.float().numpy())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ["a"] * 40}, "'a' comes twice"),
        ({"ids": ["a", "b"]}, "2 ids for 40 rows"),
        ({"ids": range(40)}, "must be strings"),
        ({"labels": np.full(40, 4)}, "label 4 at position 0"),
        ({"logits": np.full((40, 4), np.nan)}, r"40 images.*toy/000.*toy/002"),
        ({"logits": np.full((40, 4), 1e300)}, "not finite in float32"),
        ({"settings": {"rate": np.float32(1)}}, "setting 'rate'"),
        ({"settings": {"rate": math.inf}}, "setting 'rate'"),
        ({"seconds_per_image": math.nan}, "seconds_per_image"),
        ({"seconds_per_image": -1.0}, "seconds_per_image"),
        ({"backbone": "ViT-B/16"}, "cannot name a file"),
        ({"dataset": ".."}, "cannot name a file"),
        ({"method": "tpt_seed1"}, "pass seed="),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(tmp_path, changes, message):
    method = changes.pop("method", "tpt")
    with pytest.raises(ValueError, match=message):
        ledger(tmp_path, method, **changes)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_failed_write_leaves_the_old_ledger(tmp_path, monkeypatch):
    path = ledger(tmp_path)
    before = path.read_bytes()

    def write_half(table, where, **options):
        where.write_bytes(b"PAR1 and no more")
        raise OSError("disk full")

    monkeypatch.setattr(predictions.pq, "write_table", write_half)
    with pytest.raises(OSError, match="disk full"):
        ledger(tmp_path, flip=[0, 1])
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "zero_shot.cost.json",
        "zero_shot.parquet",
    ]


def test_a_missing_ledger_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tpt\.parquet"):
        predictions.read(predictions.ledger_path(tmp_path, "toy", "RN50", "tpt"))


def test_a_flipped_byte_is_found_or_changes_nothing(tmp_path):
    path = ledger(tmp_path)
    whole, content = predictions.read(path), path.read_bytes()
    found = 0
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read = predictions.read(path)
        except ValueError:
            found += 1
        else:
            pd.testing.assert_frame_equal(read, whole)
            assert read.attrs == whole.attrs
    assert found > 0.8 * len(content) / 7  # the rest is statistics that nobody reads


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: pd.DataFrame({"image_id": ["a"]}).to_parquet(path),
        lambda path: pd.read_parquet(path).to_parquet(path),  # loses the metadata
    ],
    ids=["empty", "cut", "foreign", "bare"],
)
def test_a_damaged_or_foreign_file_is_named_with_its_cure(tmp_path, damage):
    path = ledger(tmp_path)
    damage(path)
    with pytest.raises(ValueError, match=r"zero_shot\.parquet.*delete it"):
        predictions.read(path)


def test_collect_makes_the_results_table(tmp_path):
    ledger(tmp_path, "zero_shot", flip=range(10))
    ledger(tmp_path, "vote", flip=range(4), seed=2, seconds_per_image=0.5)
    ledger(tmp_path, "vote", flip=range(8), seed=10)
    ledger(tmp_path, "vote", flip=range(6))
    table = predictions.collect(tmp_path)
    assert list(table) == [
        "dataset",
        "backbone",
        "method",
        "settings",
        "seed",
        "n",
        "top1",
        "ci_low",
        "ci_high",
        "ece",
        "nll",
        "brier",
        "entropy",
        "seconds_per_image",
    ]
    runs = list(table[["method", "seed"]].itertuples(index=False, name=None))
    assert runs == [("vote", 0), ("vote", 2), ("vote", 10), ("zero_shot", 0)]
    assert table["top1"].tolist() == [0.85, 0.9, 0.8, 0.75]
    assert table["seconds_per_image"].tolist() == [0.25, 0.5, 0.25, 0.25]
    assert (table["ci_low"] < table["top1"]).all()
    assert (table["top1"] < table["ci_high"]).all()
    assert json.loads(table["settings"][0]) == {"views": 64}
    frame = predictions.read(
        predictions.ledger_path(tmp_path, "toy", "RN50", "vote", 2)
    )
    expected = metrics.summary(predictions.logits(frame), frame["label"])
    for key in ("ece", "nll", "brier", "entropy"):
        assert table[key][1] == pytest.approx(expected[key])
    written = pd.read_csv(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(written, table, check_dtype=False, rtol=1e-5)
    before = (tmp_path / "results.csv").read_bytes()
    predictions.collect(tmp_path)
    assert (tmp_path / "results.csv").read_bytes() == before


def test_collect_of_nothing_is_an_empty_table(tmp_path):
    assert predictions.collect(tmp_path).empty
    header = (tmp_path / "results.csv").read_text()
    assert header.startswith("dataset,backbone,method,settings,seed,n,top1")


def test_a_lost_cost_is_a_missing_number(tmp_path):
    ledger(tmp_path).with_suffix(".cost.json").unlink()
    assert predictions.collect(tmp_path)["seconds_per_image"].isna().all()


def test_a_moved_ledger_is_not_counted_twice(tmp_path):
    path = ledger(tmp_path)
    path.with_name("copy.parquet").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"copy\.parquet.*delete it"):
        predictions.collect(tmp_path)


def test_csv_keeps_a_named_index_only(tmp_path):
    frame = pd.DataFrame({"top1": [1 / 3]}, index=[7])
    path = predictions.write_csv(tmp_path / "deep" / "t.csv", frame)
    assert path.read_text() == "top1\n0.333333\n"
    predictions.write_csv(path, frame.rename_axis("label"))
    assert path.read_text() == "label,top1\n7,0.333333\n"


# --- comparisons -------------------------------------------------------------------


def paired(wins, losses, both=30, neither=20):
    a = [True] * wins + [False] * losses + [True] * both + [False] * neither
    b = [False] * wins + [True] * losses + [True] * both + [False] * neither
    return np.array(a), np.array(b)


@pytest.mark.parametrize(("wins", "losses"), [(9, 1), (1, 9), (5, 5), (72, 32)])
def test_mcnemar_is_a_binomial_test_of_the_disagreements(wins, losses):
    a, b = paired(wins, losses)
    expected = binomtest(wins, wins + losses).pvalue
    assert compare.mcnemar(a, b) == pytest.approx(expected)


def test_methods_that_never_disagree_do_not_differ():
    a, b = paired(0, 0)
    assert compare.mcnemar(a, b) == 1
    result = compare.paired_difference(a, b)
    most = proportion_confint(0, 50, method="beta")[1]
    assert result == {
        "n": 50,
        "difference": 0,
        "ci_low": pytest.approx(-most),
        "ci_high": pytest.approx(most),
        "wins": 0,
        "losses": 0,
        "p": 1,
        "se": 0,
    }


def test_paired_difference_by_hand_and_by_resampling():
    a, b = paired(30, 10, both=40, neither=20)
    result = compare.paired_difference(a, b)
    assert result["difference"] == pytest.approx(0.2)
    assert (result["wins"], result["losses"]) == (30, 10)
    rng = np.random.default_rng(5)
    d = a.astype(int) - b.astype(int)
    resampled = [rng.choice(d, len(d)).mean() for _ in range(20_000)]
    expected = np.quantile(resampled, [0.025, 0.975])
    assert [result["ci_low"], result["ci_high"]] == pytest.approx(expected, abs=0.0101)
    assert result == compare.paired_difference(a, b)
    mirrored = compare.paired_difference(b, a)
    assert mirrored["difference"] == -result["difference"]
    assert mirrored["p"] == result["p"]


def test_pairs_must_match():
    with pytest.raises(ValueError, match="one length"):
        compare.paired_difference([True], [True, False])


@pytest.mark.parametrize("n", [1, 2])
def test_an_image_or_two_tell_no_interval(n):
    """Resamples of one win are all alike: their interval would be sure of a gain."""
    found = compare.paired_difference([True] * n, [False] * n)
    assert (found["difference"], found["ci_low"], found["ci_high"]) == (1, -1, 1)
    assert compare.paired_difference([True] * 3, [False] * 3)["ci_low"] == 1
    ledger = pd.DataFrame({"image_id": list("ab"[:n]), "label": 0, "prediction": 0})
    ledger["confidence"] = 0.9
    other = ledger.assign(confidence=0.6)
    found = compare.paired_calibration(ledger, other)
    assert (found["ci_low"], found["ci_high"]) == (-1, 1)
    with pytest.raises(ValueError, match="at least 1"):
        compare.mcnemar([], [])


def test_compare_pairs_by_image_id(tmp_path):
    ledger(tmp_path, "zero_shot", flip=range(10))
    shuffled = np.random.default_rng(0).permutation(40)
    ledger(tmp_path, "vote", flip=[0, 1, 20], order=shuffled)
    ledger(tmp_path, "tpt", flip=range(10))
    table = compare.compare(
        predictions.read_all(tmp_path), baseline="zero_shot"
    ).set_index("method")
    assert list(table.index) == ["tpt", "vote"]
    vote = table.loc["vote"]
    # Eight of the ten mistakes are mended, one (20) is new.
    assert (vote["wins"], vote["losses"], vote["n"]) == (8, 1, 40)
    assert vote["difference"] == pytest.approx(7 / 40)
    assert vote["top1"] - vote["baseline_top1"] == pytest.approx(7 / 40)
    assert vote["p"] == pytest.approx(binomtest(1, 9).pvalue)
    assert vote["p_holm"] == pytest.approx(2 * vote["p"])
    assert table.loc["tpt", "p_holm"] == 1


def test_images_without_a_label_are_no_evidence(tmp_path):
    labels = np.where(np.arange(40) < 30, np.arange(40) % 4, -1)
    for method, flip in (("zero_shot", [0, 1, 35]), ("tpt", [1, 2, 36, 37])):
        ledger(tmp_path, method, flip=flip, labels=labels)
    row = compare.compare(predictions.read_all(tmp_path), baseline="zero_shot").iloc[0]
    assert row[["n", "wins", "losses"]].tolist() == [30, 1, 1]
    assert row["top1"] == row["baseline_top1"] == 28 / 30
    results = predictions.collect(tmp_path).set_index("method")
    assert results["n"].tolist() == [30, 30]
    assert results["top1"].tolist() == [28 / 30] * 2
    a, b = predictions.read_all(tmp_path)
    both = [f[f["label"] >= 0] for f in (a, b)]
    assert compare.paired_calibration(a, b) == compare.paired_calibration(*both)
    hits = [metrics.scores(predictions.logits(f), f["label"])["hit"] for f in (a, b)]
    with pytest.raises(ValueError, match="need labels"):
        compare.paired_difference(*hits)


def test_ledgers_without_labels_are_kept_and_not_compared(tmp_path):
    for method in ("zero_shot", "tpt"):
        path = ledger(tmp_path, method, labels=np.full(40, -1))
    assert predictions.read(path)["label"].tolist() == [-1] * 40
    results = predictions.collect(tmp_path)
    assert results["n"].tolist() == [0, 0]
    assert results["top1"].isna().all()
    assert results["entropy"].notna().all()
    with pytest.raises(ValueError, match="tpt on toy, RN50: none of the 40 images has"):
        compare.compare(predictions.read_all(tmp_path), baseline="zero_shot")


def test_compare_takes_the_baseline_of_the_same_seed(tmp_path):
    ledger(tmp_path, "zero_shot", flip=range(10))
    ledger(tmp_path, "zero_shot", flip=range(2), seed=1)
    for seed in (0, 1, 2):
        ledger(tmp_path, "vote", seed=seed)
    table = compare.compare(predictions.read_all(tmp_path), baseline="zero_shot")
    assert table["seed"].tolist() == [0, 1, 2]
    assert table["wins"].tolist() == [10, 2, 10]


def test_compare_refuses_what_is_not_a_pair(tmp_path):
    ledger(tmp_path, "vote")
    with pytest.raises(ValueError, match=r"no ledger of the baseline.*\['vote'\]"):
        compare.compare(predictions.read_all(tmp_path), baseline="zero_shot")
    ledger(tmp_path, "zero_shot", n=38)
    with pytest.raises(ValueError, match=r"2 images.*toy/038.*same images"):
        compare.compare(predictions.read_all(tmp_path), baseline="zero_shot")
    ledger(tmp_path, "zero_shot", labels=np.zeros(40, dtype=int))
    with pytest.raises(ValueError, match="labels differ"):
        compare.compare(predictions.read_all(tmp_path), baseline="zero_shot")
    with pytest.raises(ValueError, match="no other ledger"):
        compare.compare([], baseline="zero_shot")


# --- published numbers -------------------------------------------------------------


def test_published_table_is_whole():
    table = published.table()
    assert list(table) == ["method", "backbone", "dataset", "top1", "ece", "source"]
    assert len(table) == 859
    assert table.drop(columns="ece").notna().all(axis=None)
    assert table["top1"].between(0.05, 0.99).all()
    assert table["ece"].dropna().between(0, 0.5).all()
    assert not table.duplicated(["method", "backbone", "dataset", "source"]).any()


@pytest.mark.parametrize("backbone", ["RN50", "RN50-quickgelu"])
def test_lookup_finds_zero_shot_by_our_names(backbone):
    found = published.lookup("imagenet-a", backbone).set_index(["method", "source"])
    top1 = found.loc[("CLIP zero-shot (a photo of a)", "TPT paper Table 1"), "top1"]
    assert top1 == 0.2183
    assert found.loc[("TPT", "A-TPT README"), "ece"] == 0.31


def test_lookup_without_a_backbone_finds_all_of_them():
    found = published.lookup("imagenet-sketch")
    assert {"RN50", "ViT-B/16"} <= set(found["backbone"])
    assert set(found["dataset"]) == {"ImageNet-Sketch"}


def test_our_accuracies_stand_beside_the_published_ones():
    ours = pd.DataFrame(
        [
            ("imagenet-a", "RN50-quickgelu", "zero_shot_photo", 0.21),
            ("imagenet-a", "RN50-quickgelu", "ensemble_80", 0.22),
            ("imagenet-a", "RN50-quickgelu", "ensemble_7", 0.5),
            ("picto", "picto-rn", "zero_shot_photo", 0.9),
        ],
        columns=["dataset", "backbone", "method", "top1"],
    )
    beside = published.beside(ours)
    assert set(beside["dataset"]) == {"imagenet-a"}
    assert beside["method"].str.match("CLIP zero-shot|CLIP ensemble 80").all()
    same = beside["backbone"] == "RN50"
    assert beside.loc[~same, "ours"].isna().all()
    ensemble = beside["method"].str.contains("ensemble")
    assert set(beside.loc[same & ensemble, "ours"]) == {0.22}
    assert set(beside.loc[same & ~ensemble, "ours"]) == {0.21}
    assert published.beside(ours[3:]).empty


def test_lookup_keeps_qualifiers_visible_and_names_apart():
    vit = published.lookup("imagenet-a", "ViT-B-16-quickgelu")
    assert set(vit["backbone"]) == {"ViT-B/16", "ViT-B/16 (reward L/14)"}
    assert set(vit["dataset"]) == {"ImageNet-A"}
    assert set(published.lookup("cifar10", "ViT-B-32")["dataset"]) == {"CIFAR-10"}
    assert set(published.lookup("imagenet-v2", "ViT-L-14")["backbone"]) == {"ViT-L/14"}
    nothing = published.lookup("picto-s", "picto-rn")
    assert nothing.empty
    assert list(nothing) == list(published.table())


def scored(folder, method, logits, labels):
    about = {"n": len(labels), "labels": labels, "logits": logits}
    ids = [f"toy/{i:03}" for i in range(len(labels))]
    return predictions.read(ledger(folder, method, **about, ids=ids))


def test_paired_calibration_by_hand_and_by_resampling(tmp_path):
    logits, labels = batch(300)
    a = scored(tmp_path, "tpt", 3 * logits, labels)
    b = scored(tmp_path, "zero_shot", logits, labels)
    found = compare.paired_calibration(a, b, resamples=400)
    for key, factor in (("ece", 3), ("baseline_ece", 1)):
        kept = (factor * logits).astype(np.float32)
        expected = metrics.expected_calibration_error(kept, labels)
        assert found[key] == pytest.approx(expected, abs=1e-6)
    assert found["difference"] == pytest.approx(found["ece"] - found["baseline_ece"])
    rng, draws = np.random.default_rng(1), []
    for _ in range(200):
        rows = rng.integers(300, size=300)
        errors = [
            metrics.expected_calibration_error(f * logits[rows], labels[rows])
            for f in (3, 1)
        ]
        draws.append(errors[0] - errors[1])
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found["ci_low"] == pytest.approx(low, abs=0.015)
    assert found["ci_high"] == pytest.approx(high, abs=0.015)
    shuffled = b.sample(frac=1, random_state=0)
    assert compare.paired_calibration(a, shuffled, resamples=400) == found
    same = compare.paired_calibration(b, b, resamples=20)
    assert same["difference"] == same["ci_low"] == same["ci_high"] == 0
    with pytest.raises(ValueError, match="calibration: 1 images"):
        compare.paired_calibration(a, b[1:])


def test_a_committed_run_keeps_its_pictures_in_fewer_colours(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(noise).save(target, "PNG")
    png = target.getvalue()
    (tmp_path / "figure.png").write_bytes(png)
    output = {"data": {"image/png": base64.b64encode(png).decode()}}
    cells = {"cells": [{"source": "text"}, {"outputs": [output, {"text": "é"}]}]}
    (tmp_path / "chapter.ipynb").write_text(json.dumps(cells))
    lean.lean(tmp_path)
    small = (tmp_path / "figure.png").read_bytes()
    assert len(small) < 0.6 * len(png)
    assert Image.open(io.BytesIO(small)).size == (64, 64)
    read = json.loads((tmp_path / "chapter.ipynb").read_text(encoding="utf-8"))
    shown, text = read["cells"][1]["outputs"]
    assert base64.b64decode(shown["data"]["image/png"]) == small
    assert text == {"text": "é"}
