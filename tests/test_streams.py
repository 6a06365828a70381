"""Streams: orders against what they promise, and methods that are given no labels."""

import inspect
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.chapters import streams
from helpers.methods import memory
from helpers.results import compare

IDS = [f"image {number}" for number in range(600)]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 30))
WHOLE = {
    "shuffled": lambda ids, labels, **how: streams.shuffled(ids, **how),
    "by_class": streams.by_class,
    "bursts": lambda ids, labels, **how: streams.bursts(ids, labels, 0.1, **how),
    "there_and_back": lambda ids, labels, **how: streams.there_and_back(
        ids, labels < 8, **how
    ),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_stream_has_every_image_once(kind):
    orders = WHOLE[kind](IDS, LABELS, orders=12, seed=3)
    assert orders.shape == (12, 600)
    assert orders.dtype == np.int64
    assert (np.sort(orders, axis=1) == np.arange(600)).all()
    assert len({tuple(order) for order in orders}) == 12


@pytest.mark.parametrize("kind", WHOLE)
def test_an_order_belongs_to_the_images_the_seed_and_nothing_else(kind):
    make = WHOLE[kind]
    once = make(IDS, LABELS, orders=4, seed=1)
    assert (make(IDS, LABELS, orders=2, seed=1) == once[:2]).all()
    assert (make(IDS, LABELS, orders=4, seed=2) != once).any()
    mixed = np.random.default_rng(1).permutation(600)
    again = make([IDS[i] for i in mixed], LABELS[mixed], orders=4, seed=1)
    assert (mixed[again] == once).all()


def test_images_keep_their_order_whatever_else_there_is():
    few = streams.shuffled(IDS[:200], orders=3)
    many = streams.shuffled(IDS, orders=3)
    assert (many[many < 200].reshape(3, 200) == few).all()


def test_shuffled_streams_are_uniform_and_independent():
    when = streams.arrival(streams.shuffled(IDS, orders=400), 600)
    # Mean and spread of a uniform place, over orders; no two images or orders go along.
    assert when.mean(axis=0).std() == pytest.approx(600 / 12**0.5 / 20, rel=0.1)
    between = np.corrcoef(when[:60])[np.triu_indices(60, 1)]
    assert np.abs(between).mean() == pytest.approx(0.8 / 600**0.5, rel=0.1)


def test_by_class_never_comes_back_to_a_class():
    arrived = LABELS[streams.by_class(IDS, LABELS, orders=5)]
    assert ((np.diff(arrived, axis=1) != 0).sum(axis=1) == 19).all()
    assert len({tuple(row[::30]) for row in arrived}) == 5


def test_bursts_go_from_one_class_at_a_time_to_none_preferred():
    seen = [
        streams.variety(LABELS, streams.bursts(IDS, LABELS, alpha, orders=20), 30)
        for alpha in (0.01, 0.1, 1.0, 10.0, 1e4)
    ]
    means = [of.mean() for of in seen]
    assert means == sorted(means)
    plain = streams.variety(LABELS, streams.shuffled(IDS, orders=20), 30).mean()
    assert means[0] < plain / 3
    assert means[-1] == pytest.approx(plain, rel=0.02)


def test_shares_are_those_of_a_dirichlet_distribution():
    """Mean 1 / K, variance (K - 1) / K^2 (K alpha + 1), also where gammas underflow."""
    names = [f"class {n}" for n in range(40)]
    for alpha in (0.001, 0.1, 1.0, 10.0):
        drawn = np.concatenate(
            [streams._dirichlet(alpha, names, 0, order) for order in range(50)]
        )
        assert np.isfinite(drawn).all()
        assert drawn.sum(axis=1) == pytest.approx(1)
        expected = 39 / 40**2 / (40 * alpha + 1)
        assert drawn.var(axis=0).mean() == pytest.approx(expected, rel=0.05)


def test_long_tails_keep_the_promised_share_of_each_class():
    orders = streams.long_tailed(IDS, LABELS, ratio=10, orders=6)
    for order in orders:
        assert len(set(order)) == len(order)
        counts = np.sort(np.bincount(LABELS[order], minlength=20))[::-1]
        expected = np.rint(30 * 10 ** (-np.arange(20) / 19))
        assert np.abs(counts - expected).max() <= 0
    firsts = {int(np.bincount(LABELS[order]).argmax()) for order in orders}
    assert len(firsts) > 2  # another class is common in another order
    assert streams.long_tailed(IDS, LABELS, ratio=1).shape == (10, 600)


def test_long_tails_of_unequal_classes_end_together():
    labels = np.where(LABELS == 0, 1, LABELS)
    orders = streams.long_tailed(IDS, labels, ratio=30, orders=5)
    whole = [len(streams.long_tailed(IDS, labels, 30, n + 1)[n]) for n in range(5)]
    assert orders.shape == (5, min(whole))
    for order in orders:
        assert len(set(order)) == len(order)
        counts = np.sort(np.bincount(labels[order], minlength=20))
        assert counts[-1] > 5 * np.median(counts)


def test_a_domain_that_comes_back_finds_its_own_images_in_their_order():
    away = LABELS < 8
    orders = streams.there_and_back(IDS, away, orders=4)
    arrived = away[orders]
    home = (~away).sum()
    assert not arrived[:, : home // 2].any()
    assert arrived[:, home // 2 : home // 2 + away.sum()].all()
    alone = streams.shuffled(IDS, orders=4)
    for order, plain in zip(orders, alone, strict=True):
        assert (order[~away[order]] == plain[~away[plain]]).all()


def test_variety_counts_classes_among_neighbours():
    labels = np.array([0, 0, 1, 1, 2, 3, 2, 3])
    order = np.arange(8)[None]
    assert streams.variety(labels, order, 4) == pytest.approx([2.0])
    assert streams.variety(labels, order, 2) == pytest.approx([1.5])
    assert streams.variety(labels, order, 50) == pytest.approx([4.0])


def test_one_image_and_one_class_make_streams():
    assert streams.shuffled(["a"], orders=2).tolist() == [[0], [0]]
    for make in (WHOLE["by_class"], WHOLE["bursts"], streams.long_tailed):
        how = {"ratio": 9} if make is streams.long_tailed else {}
        assert make(["a"], [4], orders=2, **how).tolist() == [[0], [0]]
        one_class = make(IDS[:9], np.full(9, 4), orders=2, **how)
        assert (np.sort(one_class, axis=1) == np.arange(9)).all()
    assert streams.variety([4], np.zeros((1, 1), int)).tolist() == [1.0]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: streams.shuffled([], 3), "3 streams of 0 images"),
        (lambda: streams.shuffled(IDS, 0), "0 streams of 600 images"),
        (lambda: streams.by_class(IDS, LABELS[1:]), "600 ids, but labels of shape"),
        (lambda: streams.bursts(IDS, LABELS, 0.0), "alpha is 0.0"),
        (lambda: streams.bursts(IDS, LABELS, float("nan")), "alpha is nan"),
        (lambda: streams.long_tailed(IDS, LABELS, 0.5), "ratio is 0.5"),
        (lambda: streams.long_tailed(IDS, LABELS, float("inf")), "ratio is inf"),
        (lambda: streams.there_and_back(IDS, LABELS < 0), "and not of all"),
        (lambda: streams.there_and_back(IDS, LABELS >= 0), "and not of all"),
    ],
)
def test_impossible_streams_are_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call()


# What a method says. A small memory stands in for any: the mean feature of what was
# seen, subtracted, so that its answers depend on the order.


class State(NamedTuple):
    class_features: torch.Tensor
    logit_scale: float
    strength: float
    total: torch.Tensor
    count: int


def start(class_features, logit_scale, orders, strength=1.0):
    total = torch.zeros(orders, class_features.shape[1])
    return State(class_features, logit_scale, strength, total, 0)


def step(state, features):
    classes, scale, strength, total, count = state
    assert len(features) == len(total)
    sums = total[:, None] + features.cumsum(dim=1)
    counts = count + 1 + torch.arange(features.shape[1])
    centred = features - strength * sums / counts[:, None]
    after = state._replace(total=sums[:, -1], count=count + features.shape[1])
    return after, scale * centred @ classes.T


def predict(features, class_features, logit_scale):
    return logit_scale * (features - features.mean(dim=0)) @ class_features.T


MEMORY = SimpleNamespace(start=start, step=step)
BATCH = SimpleNamespace(predict=predict)


def case(images=60, classes=5, width=8):
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(images, width, generator=generator) + 0.5, dim=-1)
    c = F.normalize(torch.randn(classes, width, generator=generator), dim=-1)
    return x, c, 20.0


def test_methods_are_followed_image_by_image(monkeypatch):
    x, c, s = case()
    orders = streams.shuffled(IDS[:60], orders=3)
    expected = torch.empty(3, 60, dtype=torch.int64)
    for row, order in enumerate(orders):
        state = start(c, s, 1)
        for place, image in enumerate(order):
            state, found = step(state, x[image][None, None])
            expected[row, place] = found.argmax()
    assert (streams.follow(MEMORY, x, c, s, orders) == expected).all()
    monkeypatch.setattr(streams, "STEP", 200)  # several pieces
    assert (streams.follow(MEMORY, x, c, s, orders) == expected).all()
    monkeypatch.setattr(memory, "ROOM", 2 * 8 * 4)  # two streams at a time
    assert (streams.follow(MEMORY, x, c, s, orders) == expected).all()
    plain = streams.follow(MEMORY, x, c, s, orders, strength=0.0)
    by_image = streams.by_image(plain, orders, 60)
    assert (by_image == (x @ c.T).argmax(dim=-1).numpy()).all()


def test_logits_are_given_back_in_the_order_of_the_data_set():
    x, c, s = case()
    order = streams.shuffled(IDS[:60], orders=1)
    found = streams.logits(MEMORY, x, c, s, order[0])
    said = streams.by_image(streams.follow(MEMORY, x, c, s, order), order, 60)
    assert found.shape == (60, 5)
    assert (found.argmax(dim=-1).numpy() == said[0]).all()
    for wrong in (order[0][1:], np.r_[order[0][:-1], order[0][0]]):
        with pytest.raises(ValueError, match="each of them once"):
            streams.logits(MEMORY, x, c, s, wrong)


def test_batches_see_themselves_alone():
    x, c, s = case()
    orders = streams.shuffled(IDS[:60], orders=2)
    found = streams.in_batches(BATCH, x, c, s, orders, size=25)
    for row, order in zip(found, torch.from_numpy(orders), strict=True):
        parts = [predict(x[order[a : a + 25]], c, s).argmax(1) for a in (0, 25, 50)]
        assert (row == torch.cat(parts)).all()
    whole = streams.in_batches(BATCH, x, c, s, orders, size=1000)
    by_image = streams.by_image(whole, orders, 60)
    assert (by_image == predict(x, c, s).argmax(dim=1).numpy()).all()


def test_no_method_is_given_labels():
    """With the order fixed, other labels change the score and no prediction."""
    x, c, s = case()
    labels = np.arange(60) % 5
    order = streams.bursts(IDS[:60], labels, 0.1, orders=2)
    for run in (
        lambda: streams.follow(MEMORY, x, c, s, order),
        lambda: streams.in_batches(BATCH, x, c, s, order, 20),
    ):
        scores, said = [], []
        for seen in (labels, np.random.default_rng(0).permutation(labels)):
            found = run()
            said.append(found)
            scores.append((found.numpy() == seen[order]).mean())
        assert torch.equal(*said)
        assert scores[0] != scores[1]


@pytest.mark.parametrize("name", [*memory.ONLINE, *memory.TRANSDUCTIVE])
def test_every_method_answers_without_labels_whatever_these_are(name):
    x, c, s = case()
    labels = np.arange(60) % 5
    orders = streams.shuffled(IDS[:60], orders=2)
    if name in memory.OF_VIEWS:
        x = F.normalize(x[:, None] + 0.1 * torch.ones(10, 8).cumsum(dim=0), dim=-1)
    if name in memory.TRANSDUCTIVE:
        method = memory.TRANSDUCTIVE[name]
        said = streams.in_batches(method, x, c, s, orders, 30)
        functions = [method.predict]
    else:
        method = memory.ONLINE[name]
        said = streams.follow(method, x, c, s, orders)
        functions = [method.start, method.step]
    mixed = np.random.default_rng(0).permutation(labels)
    scores = [np.nanmean(streams.score(said, seen, orders)) for seen in (labels, mixed)]
    assert 0 <= min(scores) <= max(scores) <= 1
    taken = {
        p for function in functions for p in inspect.signature(function).parameters
    }
    assert not {"labels", "label", "targets", "truth", "y"} & taken


def test_duplicates_of_an_image_are_images_of_their_own():
    x, c, s = case(6)
    twice = torch.cat([x, x])
    orders = streams.shuffled(IDS[:12], orders=2)
    assert streams.follow(MEMORY, twice, c, s, orders).shape == (2, 12)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"orders": np.zeros((0, 3), int)}, r"\[streams, images\], one at least"),
        ({"orders": np.zeros(3, int)}, r"orders are \[3\]"),
        ({"orders": np.array([[0, 60]])}, "images 0 to 60, but there are features of"),
        ({"orders": np.array([[-1, 5]])}, "images -1 to 5"),
        ({"broken": float("nan")}, "image 7: NaN or infinite features"),
        ({"broken": float("inf")}, "image 7: NaN or infinite features"),
    ],
)
def test_impossible_input_is_refused_before_any_step(change, told):
    x, c, s = case()
    x[7] = change.get("broken", 0.0)
    orders = change.get("orders", streams.shuffled(IDS[:60], 2))
    with pytest.raises(ValueError, match=told):
        streams.follow(MEMORY, x, c, s, orders)
    with pytest.raises(ValueError, match=told):
        streams.in_batches(BATCH, x, c, s, orders, 8)


def test_batches_of_nothing_are_refused():
    x, c, s = case()
    with pytest.raises(ValueError, match="batches of 0 images: 1 or more"):
        streams.in_batches(BATCH, x, c, s, streams.shuffled(IDS[:60], 2), 0)


def test_scores_by_image_leave_out_what_a_stream_did_not_have():
    orders = np.array([[2, 0], [1, 2]])
    found = streams.by_image([[5, 6], [7, 8]], orders, 3)
    hits = streams.score(torch.tensor([[4, 1], [0, 4]]), [1, 2, 4], orders)
    assert hits == pytest.approx(
        np.array([[1, np.nan, 1], [np.nan, 0, 1]]), nan_ok=True
    )
    assert found == pytest.approx(
        np.array([[6, np.nan, 5], [np.nan, 7, 8]]), nan_ok=True
    )
    when = streams.arrival(orders, 3)
    assert when == pytest.approx(
        np.array([[1, np.nan, 0], [np.nan, 0, 1]]), nan_ok=True
    )


def test_spans_double_and_end_with_the_stream():
    assert streams.spans(1000) == [
        (0, 50),
        (50, 100),
        (100, 200),
        (200, 400),
        (400, 1000),
    ]
    assert streams.spans(100) == [(0, 50), (50, 100)]
    assert streams.spans(1) == [(0, 1)]


def test_gains_are_hits_less_those_of_zero_shot():
    x, c, s = case()
    labels = (x @ c.T).argmax(dim=1).numpy()
    labels[::3] = 0
    orders = streams.long_tailed(IDS[:60], labels, 5, orders=3)
    found = streams.gains({"memory": MEMORY}, x, c, s, orders, labels)["memory"]
    said = streams.follow(MEMORY, x, c, s, orders)
    plain = (x @ c.T).argmax(dim=1).numpy() == labels
    for row, order, there in zip(found, orders, said.numpy(), strict=True):
        gain = (there == labels[order]).astype(int) - plain[order]
        assert (row[order] == gain).all()
        assert np.isnan(np.delete(row, order)).all()


# Orders as a random effect


def simulated(rng, orders, images, of_order, of_image, of_both, mean=0.0):
    parts = rng.normal(0, of_order, (orders, 1)), rng.normal(0, of_image, (1, images))
    return mean + parts[0] + parts[1] + rng.normal(0, of_both, (orders, images))


def test_intervals_cover_where_orders_differ_and_where_images_do():
    rng = np.random.default_rng(0)
    for spread in ((0.02, 0.2, 0.3), (0.05, 0.05, 0.1), (0.0, 0.5, 0.1)):
        covered, narrow = 0, 0
        for _ in range(120):
            found = compare.over_orders(simulated(rng, 12, 300, *spread), resamples=400)
            covered += found["ci_low"] < 0 < found["ci_high"]
            alone = compare.over_orders(simulated(rng, 1, 300, *spread), resamples=400)
            narrow += alone["ci_low"] < 0 < alone["ci_high"]
        assert covered >= 0.88 * 120, spread
    assert narrow >= 0.88 * 120  # one order is enough where orders are alike


def test_an_interval_over_orders_is_wider_than_one_over_images_alone():
    """What a single order, or all orders thrown together, would hide."""
    rng = np.random.default_rng(1)
    values = simulated(rng, 10, 2000, of_order=0.05, of_image=0.1, of_both=0.1)
    found = compare.over_orders(values)
    pooled = 1.96 * values.std() / values.size**0.5
    assert (found["ci_high"] - found["ci_low"]) / 2 > 5 * pooled
    assert found["difference"] == pytest.approx(values.mean())
    assert found["spread"] == pytest.approx(values.mean(axis=1).std(ddof=1))
    assert found["orders"] == 10
    assert found["n"] == 2000


def test_orders_and_images_are_drawn_independently():
    """Also where there are as many of both."""
    drawn = [compare._weights(40, 500, axis).astype(float) for axis in (0, 1)]
    together = [np.corrcoef(a, b)[0, 1] for a, b in zip(*drawn, strict=True)]
    assert np.mean(together) == pytest.approx(0, abs=0.03)
    assert (drawn[0].sum(axis=1) == 40).all()


def test_a_difference_of_two_times_is_taken_draw_by_draw():
    rng = np.random.default_rng(2)
    values = simulated(rng, 8, 500, of_order=0.2, of_image=0.5, of_both=0.05)
    shift = compare.over_orders(values + 0.1, less=values)
    assert shift["difference"] == pytest.approx(0.1)
    assert shift["ci_low"] == pytest.approx(0.1, abs=1e-5)
    assert shift["p"] < 1e-6


def test_values_that_are_not_there_do_not_count():
    values = np.array([[1.0, np.nan, 0.0], [np.nan, np.nan, 1.0]])
    found = compare.over_orders(values)
    assert found["difference"] == pytest.approx(2 / 3)
    assert found["n"] == 2
    assert found["spread"] == pytest.approx(np.std([0.5, 1.0], ddof=1))
    same = compare.over_orders(np.zeros((3, 4)))
    assert (same["ci_low"], same["ci_high"], same["p"]) == (0, 0, 1)
    for wrong in (np.zeros(3), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match=r"expected \[orders, images\]"):
            compare.over_orders(wrong)
