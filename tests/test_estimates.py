"""Accuracy without labels: each formula by hand, what must not matter, what must."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from helpers.results import estimates
from helpers.results.estimates import Fit


def logits(methods=3, images=40, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    common = 2 * rng.normal(size=(images, classes))
    own = rng.normal(size=(methods, images, classes))
    return (common + own).astype(np.float32)


def literal_softmax(row, temperature=1.0):
    powers = [math.exp(float(x) / temperature) for x in row]
    return [power / sum(powers) for power in powers]


# The formulas, written out for one image after the other.


def test_confidence_and_certainty_by_hand():
    x = logits(1)[0]
    p = estimates.probabilities(x, 2.0)
    rows = [literal_softmax(row, 2.0) for row in x]
    assert np.allclose(p, rows, atol=1e-6)
    mean = sum(max(row) for row in rows) / len(rows)
    assert estimates.average_confidence(p) == pytest.approx(mean, abs=1e-6)
    entropies = [-sum(q * math.log(q) for q in row) for row in rows]
    sure = [1 - entropy / math.log(5) for entropy in entropies]
    assert np.allclose(estimates.certainty(p), sure, atol=1e-5)


def test_a_temperature_for_each_method():
    x = logits(2)
    both = estimates.probabilities(x, [1.0, 3.0])
    assert np.allclose(both[1], estimates.probabilities(x[1], 3.0))


def test_doc_takes_from_the_source_what_confidence_has_lost():
    found = estimates.difference_of_confidences([0.6, 0.9, 0.0], [0.8, 0.8, 1.0], 0.7)
    assert found == pytest.approx([0.5, 0.8, 0.0])


def test_atc_by_hand():
    scores = [0.9, 0.2, 0.5, 0.7, 0.4]
    correct = [True, False, True, False, True]
    threshold = estimates.atc_threshold(scores, correct)
    # Two of five are wrong, so that two scores lie below.
    assert sorted(s for s in scores if s < threshold) == [0.2, 0.4]
    assert estimates.atc(np.array([0.45, 0.5, 0.6, 0.1]), threshold) == 0.5


def test_atc_gives_the_accuracy_of_its_own_source():
    rng = np.random.default_rng(1)
    scores, correct = rng.uniform(size=200), rng.uniform(size=200) < 0.6
    threshold = estimates.atc_threshold(scores, correct)
    assert estimates.atc(scores, threshold) == pytest.approx(correct.mean())


@pytest.mark.parametrize("correct", [[True] * 4, [False] * 4])
def test_atc_of_a_source_that_is_all_right_or_all_wrong(correct):
    scores = np.array([0.3, 0.3, 0.6, 0.9])
    threshold = estimates.atc_threshold(scores, correct)
    assert estimates.atc(scores, threshold) == correct[0]


def test_atc_with_ties_takes_the_nearest_share():
    # One of four is wrong; below a score lie 0, 3 or all four images.
    threshold = estimates.atc_threshold([0.5, 0.5, 0.5, 0.9], [False, True, True, True])
    assert threshold == 0.5


@pytest.mark.parametrize(("images", "classes"), [(40, 5), (4, 7), (1, 3)])
def test_nuclear_norm_is_the_sum_of_singular_values(images, classes):
    p = estimates.probabilities(logits(2, images, classes))
    for one, found in zip(p, estimates.nuclear_norm(p), strict=True):
        values = np.linalg.svd(one.astype(float), compute_uv=False)
        greatest = math.sqrt(min(images, classes) * images)
        assert found == pytest.approx(values.sum() / greatest, abs=1e-4)


def test_nuclear_norm_is_one_for_sure_and_even_predictions():
    assert estimates.nuclear_norm(np.eye(3)[[0, 1, 2] * 4]) == pytest.approx(1)
    # One class dominates: sure, but of rank one.
    assert estimates.nuclear_norm(np.eye(3)[[0] * 12]) == pytest.approx(1 / 3**0.5)


def test_agreement_and_consistency_by_hand():
    predictions = np.array([[0, 1, 2, 2], [0, 1, 1, 0]])
    assert estimates.agreement(predictions).tolist() == [[1, 0.5], [0.5, 1]]
    views = np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0], [0, 0.4, 0.6], [0.2, 0.2, 0.6]])
    found = estimates.consistency(predictions, views)
    assert found == pytest.approx(
        [(0.7 + 0.5 + 0.6 + 0.6) / 4, (0.7 + 0.5 + 0.4 + 0.2) / 4]
    )


def line_of_models(count=5, slope=0.8, intercept=-0.3):
    """Agreements and accuracies that lie on one line exactly, on probit axes."""
    rng = np.random.default_rng(3)
    source = rng.uniform(0.5, 0.9, size=(count, count))
    source = (source + source.T) / 2
    accuracy = rng.uniform(0.6, 0.9, size=count)

    def moved(share):
        return norm.cdf(slope * norm.ppf(share) + intercept)

    return moved(source), source, accuracy, moved(accuracy)


@pytest.mark.parametrize("pairwise", [False, True])
def test_aline_finds_accuracies_on_the_line(pairwise):
    target, source, accuracy, expected = line_of_models()
    found = estimates.aline(target, source, accuracy, pairwise)
    assert found == pytest.approx(expected, abs=1e-6)


def test_aline_d_by_hand():
    """Three models, three pairs: the equations have one solution."""
    rng = np.random.default_rng(5)
    target, source = rng.uniform(0.4, 0.9, size=(2, 3, 3))
    accuracy = rng.uniform(0.5, 0.9, size=3)
    pairs = [(0, 1), (0, 2), (1, 2)]
    x = [norm.ppf(source[pair]) for pair in pairs]
    y = [norm.ppf(target[pair]) for pair in pairs]
    slope, intercept = np.polyfit(x, y, 1)
    level = norm.ppf(accuracy)
    assert estimates.aline(target, source, accuracy) == pytest.approx(
        norm.cdf(slope * level + intercept)
    )
    found = norm.ppf(estimates.aline(target, source, accuracy, pairwise=True))
    for (i, j), there, here in zip(pairs, x, y, strict=True):
        right = here + slope * ((level[i] + level[j]) / 2 - there)
        assert (found[i] + found[j]) / 2 == pytest.approx(right)


def test_aline_of_equal_methods_stays_finite():
    ones = np.ones((3, 3))
    for pairwise in (False, True):
        found = estimates.aline(ones, ones, np.full(3, 0.7), pairwise)
        assert found == pytest.approx([0.7] * 3)


# What must not matter.


def test_orders_of_images_and_of_classes_do_not_matter():
    x, rng = logits(), np.random.default_rng(7)
    second = x[0].argmax(axis=-1)
    expected = estimates.observe(x, second)
    rows, classes = rng.permutation(40), rng.permutation(5)
    images = estimates.observe(x[:, rows], second[rows])
    renamed = estimates.observe(x[..., classes], classes.argsort()[second])
    for found in (images, renamed):
        for part, whole in zip(found, expected, strict=True):
            assert np.allclose(part, whole, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 1000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("images", [1, 30])
def test_features_stay_within_bounds(classes, scale, images):
    edge = estimates.log_odds(1.0)
    for part in estimates.observe(scale * logits(2, images, classes)):
        assert np.isfinite(part).all()
        assert (np.abs(part) <= edge + 1e-6).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((0, 3)), "one image and two classes"),
        (np.zeros((3, 1)), "one image and two classes"),
        (np.zeros(3), "must be"),
        (np.array([[0.0, -np.inf]]), "finite"),
    ],
)
def test_logits_that_tell_nothing_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        estimates.probabilities(values)


# The combination.


def labelled_world(sets=5, trials=12, methods=3, noise=0.0, seed=0):
    """Trials whose accuracies follow what is seen; sets differ in how hard they are."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"set {k}" for k in range(sets)], trials)
    hard = np.repeat(rng.normal(size=sets), trials) + 0.3 * rng.normal(size=len(names))
    own = 0.4 * rng.normal(size=(len(names), methods))
    usual = np.array([0.0, 0.5, 1.0])[:methods]
    features = hard[:, None, None] + own[..., None] + rng.normal(size=(methods, 3))
    agreements = np.broadcast_to(hard[:, None, None], (len(names), methods, methods))
    level = usual + 0.8 * hard[:, None] + 0.8 * own
    level = level + noise * rng.normal(size=level.shape)
    accuracy = 1 / (1 + np.exp(-level))
    return features, agreements, accuracy, names


def test_the_combination_learns_a_rule_and_keeps_it_on_another_set():
    features, agreements, accuracy, names = labelled_world()
    new = names == "set 0"
    known = features[~new], agreements[~new], accuracy[~new], names[~new]
    fit = estimates.fit(("a", "b", "c"), *known)
    found = fit.predict(features[new], agreements[new])
    missed = found - estimates.log_odds(accuracy[new])
    assert np.abs(missed).max() < 0.1
    assert fit.sets == 4
    assert fit.spread < 0.1


def test_a_set_counts_the_same_however_many_trials_it_has():
    features, agreements, accuracy, names = labelled_world(noise=0.3)
    again = np.concatenate([np.arange(len(names)), np.flatnonzero(names == "set 0")])
    one = estimates.fit("abc", features, agreements, accuracy, names)
    two = estimates.fit(
        "abc", features[again], agreements[again], accuracy[again], names[again]
    )
    assert two.shared == pytest.approx(one.shared)
    assert two.own == pytest.approx(one.own)
    assert two.spread == pytest.approx(one.spread)


def test_what_tells_nothing_gets_no_weight():
    features, agreements, accuracy, names = labelled_world()
    rng = np.random.default_rng(2)
    features = rng.normal(size=features.shape)
    agreements = rng.normal(size=agreements.shape)
    fit = estimates.fit("abc", features, agreements, accuracy, names)
    told = np.abs(fit.predict(features, agreements) - fit.accuracy)
    assert (
        told.mean() < 0.25 * np.abs(estimates.log_odds(accuracy) - fit.accuracy).mean()
    )


def test_intervals_cover_sets_left_out():
    covered = []
    for seed in range(40):
        world = labelled_world(noise=0.4, seed=seed)
        new = world[-1] == "set 0"
        fit = estimates.fit("abc", *(part[~new] for part in world))
        low, high = fit.interval(fit.predict(world[0][new], world[1][new]))
        covered.append(((low <= world[2][new]) & (world[2][new] <= high)).mean())
    assert np.mean(covered) > 0.93


def test_the_interval_is_as_wide_as_few_sets_demand():
    low, high = a_fit().interval(np.zeros(1))
    # 2.5706 is the quantile of Student's t with five degrees of freedom.
    assert estimates.log_odds(high) == pytest.approx([0.5 * 2.5706], abs=1e-4)
    assert estimates.log_odds(low) == pytest.approx(-estimates.log_odds(high))


def test_two_sets_are_needed():
    features, agreements, accuracy, names = labelled_world(sets=1)
    with pytest.raises(ValueError, match="two data sets"):
        estimates.fit("abc", features, agreements, accuracy, names)


# For images of one's own.


def a_fit(second=False, **changed) -> Fit:
    count = 4 if second else 3
    values = {
        "methods": ("zero_shot_photo", "vote", "zero"),
        "accuracy": np.array([0.0, 1.0, 0.5]),
        "features": np.ones((3, count)),
        "agreements": np.full((3, 3), 2.0),
        "shared": np.full(count + 1, 0.2),
        "own": np.full(count + 1, 0.1),
        "spread": 0.5,
        "sets": 6,
        "temperature": np.array([1.0, 2.0, 1.0]),
        "threshold": np.array([0.5, 0.5, 0.9]),
        "regret": 0.02,
        "kept": 0.5,
    }
    return Fit(**values | changed)


def test_estimates_have_a_row_per_method_and_an_interval():
    x = dict(
        zip(("zero_shot_photo", "vote-augmix", "zero-augmix"), logits(), strict=True)
    )
    frame = estimates.estimate(x, fit=a_fit())
    assert list(frame.index) == list(x)
    assert (frame["low"] < frame["estimated"]).all()
    assert (frame["estimated"] < frame["high"]).all()
    soft = estimates.probabilities(x["vote-augmix"], 2.0).max(axis=-1)
    assert frame.loc["vote-augmix", "tempered"] == pytest.approx(soft.mean())
    sure = estimates.probabilities(x["zero-augmix"]).max(axis=-1) >= 0.9
    assert frame.loc["zero-augmix", "atc"] == pytest.approx(sure.mean())
    backwards = estimates.estimate(dict(reversed(x.items())), fit=a_fit())
    pd.testing.assert_frame_equal(backwards, frame[::-1])


def test_surer_predictions_raise_the_estimate():
    x = dict(zip(a_fit().methods, logits(), strict=True))
    surer = {name: 3 * values for name, values in x.items()}
    plain, sure = (estimates.estimate(y, fit=a_fit()) for y in (x, surer))
    assert (sure["estimated"] > plain["estimated"]).all()


def test_one_method_and_one_image_have_an_estimate():
    frame = estimates.estimate({"vote": logits(1, 1)[0]}, fit=a_fit())
    assert frame["estimated"].between(0, 1).all()


def test_the_recommendation_promises_what_was_kept():
    frame = pd.DataFrame(
        {"estimated": [0.5, 0.7, 0.6], "usual": [0.5, 0.6, 0.8]}, index=list("abc")
    )
    frame.attrs = {"choice": "estimated", "regret": 0.03, "kept": 0.5}
    expected = {"method": "b", "gain": 0.1, "regret": 0.03}
    assert estimates.recommend(frame) == pytest.approx(expected)
    frame.attrs["choice"] = "usual"
    assert estimates.recommend(frame)["method"] == "c"


@pytest.mark.parametrize(
    ("given", "second", "message"),
    [
        ({}, None, "no logits"),
        ({"coop": logits(1)[0]}, None, "no fit for coop; there is one for zero_shot"),
        ({"vote": logits(1)[0], "zero": logits(1, 9)[0]}, None, "same images"),
        ({"vote": logits(1)[0]}, np.zeros(40, int), "fit with a second backbone"),
        ({"vote": logits(1)[0]}, np.zeros(39, int), r"must be \[40\]"),
    ],
)
def test_what_cannot_be_estimated_is_said(given, second, message):
    with pytest.raises(ValueError, match=message):
        estimates.estimate(given, second, a_fit())


@pytest.mark.parametrize("second", [False, True])
def test_the_packaged_fit_loads_and_estimates(second):
    fit = estimates.packaged(second)
    assert fit.features.shape == (len(fit.methods), 4 if second else 3)
    assert fit.agreements.shape == (len(fit.methods),) * 2
    assert fit.sets >= 3
    assert fit.spread > 0
    assert 0 <= fit.kept <= 1
    assert fit.methods[0] == "zero_shot_photo"
    for classes in (3, 1000):
        x = dict(zip(fit.methods, logits(len(fit.methods), 30, classes), strict=True))
        frame = estimates.estimate(x, np.zeros(30, int) if second else None)
        assert frame.notna().all(axis=None)
        assert estimates.recommend(frame)["method"] in fit.methods


def test_a_fit_comes_back_from_json():
    fit = a_fit(accuracy=np.array([0.12345678, 1.0, 0.5]))
    plain = estimates.as_json(fit)
    assert plain["accuracy"] == [0.1235, 1.0, 0.5]
    assert set(plain) == set(vars(fit))
