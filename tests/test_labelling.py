"""Which images to label first, and whether the labels settle a comparison."""

import math

import numpy as np
import pytest

from helpers.data.dataset import UNKNOWN
from helpers.results import compare
from helpers.results.labelling import enough, label_first, settled


def world(n=600, better=0.15, apart=0.4, seed=0, classes=6):
    """Labels, and predictions of two methods that disagree on a share of the images.

    `better` is the share of wins less that of losses, of all n images.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    shares = [(apart + better) / 2, (apart - better) / 2, 1 - apart]
    fate = rng.choice(["win", "loss", "same"], size=n, p=shares)
    wrong = (labels + 1) % classes
    a = np.where(fate == "loss", wrong, labels)
    b = np.where(fate == "win", wrong, labels)
    return labels, a, b


def as_logits(predictions, seed=0, classes=6):
    rng = np.random.default_rng(seed)
    logits = rng.uniform(size=(len(predictions), classes))
    logits[np.arange(len(predictions)), predictions] += 1
    return logits


def some(labels, positions):
    found = np.full(len(labels), UNKNOWN)
    found[positions] = labels[positions]
    return found


def test_only_images_on_which_methods_disagree_are_labelled():
    _, a, b = world()
    first = label_first({"a": as_logits(a), "b": as_logits(b)}, 20)
    assert len(set(first)) == 20
    assert (a[first] != b[first]).all()


def test_of_three_methods_any_disagreement_counts():
    _, a, _ = world()
    c = a.copy()
    c[:10] = (a[:10] + 2) % 6
    logits = {"a": as_logits(a), "a again": as_logits(a), "c": as_logits(c)}
    assert sorted(label_first(logits, 20)) == list(range(10))


def test_equal_methods_need_no_label():
    _, a, _ = world()
    assert label_first({"a": as_logits(a), "b": as_logits(a)}).size == 0


def test_the_sample_spreads_over_predicted_classes():
    _, a, b = world()
    first = label_first({"a": as_logits(a), "b": as_logits(b)}, 60)
    expected = 60 * np.bincount(a[a != b], minlength=6) / (a != b).sum()
    assert np.abs(np.bincount(a[first], minlength=6) - expected).max() <= 1


def test_every_disagreeing_image_has_the_same_chance():
    _, a, b = world(n=60)
    logits = {"a": as_logits(a), "b": as_logits(b)}
    drawn = np.zeros(60)
    for seed in range(2000):
        drawn[label_first(logits, 6, seed)] += 1
    apart = a != b
    assert not drawn[~apart].any()
    chance = 6 / apart.sum()
    assert np.abs(drawn[apart] / 2000 - chance).max() < 0.05


def test_a_count_must_be_positive_and_methods_two():
    with pytest.raises(ValueError, match="two methods"):
        label_first({"a": np.zeros((3, 2))})
    with pytest.raises(ValueError, match="the same images"):
        label_first({"a": np.zeros((3, 2)), "b": np.zeros((4, 2))})


def test_settled_by_hand():
    labels = np.array([0, 1, 0, 0, -1, -1, 2, 0])
    a = np.array([0, 1, 0, 1, 0, 1, 1, 0])
    b = np.array([1, 0, 1, 0, 1, 1, 0, 0])
    # Disagree on 0-4 and 6; labelled are 0-3 (three wins, a loss) and 6 (both wrong).
    found = settled(labels, a, b)
    assert (found["disagree"], found["labelled"]) == (6, 5)
    assert (found["wins"], found["losses"]) == (3, 1)
    assert found["difference"] == pytest.approx(6 / 8 * (3 - 1) / 5)
    assert found["p"] == pytest.approx(2 * (1 + 4) / 2**4)
    assert found["more"] == math.inf


def test_all_labels_give_the_true_difference():
    labels, a, b = world()
    found = settled(labels, a, b)
    true = (a == labels).mean() - (b == labels).mean()
    assert found["difference"] == pytest.approx(true)
    assert found["p"] == compare.mcnemar(a == labels, b == labels)
    assert found["more"] == 0


@pytest.mark.parametrize("seed", range(30))
def test_the_interval_and_the_test_say_the_same(seed):
    labels, a, b = world(seed=seed)
    first = label_first({"a": as_logits(a), "b": as_logits(b)}, 30, seed)
    found = settled(some(labels, first), a, b)
    outside = found["ci_low"] > 0 or found["ci_high"] < 0
    assert outside == (found["p"] < 0.05)
    assert found["ci_low"] <= found["difference"] <= found["ci_high"]


@pytest.mark.parametrize("random", [False, True], ids=["label_first", "at random"])
def test_the_estimate_is_fair_and_its_interval_honest(random):
    missed, covered = [], []
    for seed in range(300):
        labels, a, b = world(better=0.1, seed=seed)
        true = (a == labels).mean() - (b == labels).mean()
        logits = {"a": as_logits(a, seed), "b": as_logits(b, seed)}
        picked = (
            np.random.default_rng(seed).permutation(len(labels))[:100]
            if random
            else label_first(logits, 40, seed)
        )
        found = settled(some(labels, picked), a, b)
        missed.append(found["difference"] - true)
        covered.append(found["ci_low"] <= true <= found["ci_high"])
    assert abs(np.mean(missed)) < 0.01
    assert np.mean(covered) > 0.93


def test_labels_of_disagreement_settle_sooner():
    """The same number of labels decides more often than if picked at random."""
    decided = np.zeros(2)
    for seed in range(100):
        labels, a, b = world(better=0.15, seed=seed)
        logits = {"a": as_logits(a, seed), "b": as_logits(b, seed)}
        chosen = label_first(logits, 40, seed)
        picked = np.random.default_rng(seed).permutation(len(labels))[:40]
        for k, positions in enumerate((chosen, picked)):
            decided[k] += settled(some(labels, positions), a, b)["p"] < 0.05
    assert decided[0] > decided[1] + 20


def test_the_labels_asked_for_are_likely_to_settle():
    """With as many labels as `more` says, most of the comparisons are decided."""
    decided = []
    for seed in range(200):
        labels, a, b = world(n=3000, better=0.12, seed=seed)
        logits = {"a": as_logits(a, seed), "b": as_logits(b, seed)}
        apart = (a != b).sum()
        # The true shares, as if the first labels had shown them exactly.
        known = some(labels, label_first(logits, 20, seed))
        found = settled(known, a, b)
        if found["wins"] - found["losses"] != 6:
            continue
        total = found["labelled"] + found["more"]
        assert total < apart
        again = label_first(logits, int(total), seed + 1)
        decided.append(settled(some(labels, again), a, b)["p"] < 0.05)
    assert 0.65 < np.mean(decided) < 0.95


def test_how_many_more_labels_by_hand():
    """6 wins, 4 losses and 10 images that both get wrong, of 1,000 that differ."""
    a, b, labels = np.zeros(1000, int), np.ones(1000, int), np.full(1000, UNKNOWN)
    labels[:20] = [0] * 6 + [1] * 4 + [2] * 10
    found = settled(labels, a, b)
    seen = [compare.detectable(math.sqrt(10 / 20 / n), n) for n in range(21, 1001)]
    enough = next(n for n, least in enumerate(seen, 21) if least <= (6 - 4) / 20)
    assert found["more"] == enough - 20
    # Where fewer images differ than that, not even all labels would do.
    assert settled(labels[:300], a[:300], b[:300])["more"] == math.inf


def test_without_labels_nothing_is_settled():
    _, a, b = world(n=50)
    found = settled(np.full(50, UNKNOWN), a, b)
    share = (a != b).mean()
    assert math.isnan(found["difference"])
    assert (found["ci_low"], found["ci_high"]) == (-share, share)
    assert (found["p"], found["more"]) == (1.0, math.inf)
    same = settled(np.full(50, UNKNOWN), a, a)
    assert (same["difference"], same["more"]) == (0, 0)


def test_where_both_are_wrong_nothing_is_won():
    found = settled(np.full(10, 2), np.zeros(10, int), np.ones(10, int))
    assert (found["wins"], found["losses"], found["difference"]) == (0, 0, 0)
    assert found["ci_low"] < 0 < found["ci_high"]


def test_lengths_must_fit():
    with pytest.raises(ValueError, match="of one length"):
        settled([0, 1], [0, 1, 2], [0, 1, 2])


def test_labels_enough_to_show_a_gain_are_fewer_the_greater_it_is():
    first, other = np.zeros(200, int), np.zeros(200, int)
    other[:40] = 1  # a fifth of the images can tell
    assert enough(other, first, 0.2) == 8  # all wins: 1 + (2.8 / 1) ** 2
    assert enough(other, first, 0.1) == 32  # net wins on half of the 40
    assert enough(other, first, -0.1) == 32
    assert enough(other, first, 0.05) == np.inf
    assert enough(first, first, 0.0) == np.inf
