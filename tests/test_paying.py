"""Chapter 06c's look at images: only what a rule asks for, and the same outcome."""

import numpy as np
import pytest
import torch
from test_store import pictures

from helpers import keys, store
from helpers.chapters import adaptation, paying
from helpers.chapters.paying import Rule
from helpers.methods import sequential
from helpers.models import clip

COUNTS = sequential.stages(12, 5)  # 1, 5, 10, 12
FULL = Rule(sequential.NEVER, sequential.NEVER)


@pytest.fixture(scope="module")
def model():
    return clip.load("picto-rn", "random", device="cpu")


@pytest.fixture(scope="module")
def text(model):
    return adaptation.prepare(model, ("noise", "signal"))


@pytest.fixture
def encoded(tmp_path, monkeypatch):
    """How many pictures at a time were encoded, from an empty store."""
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    sizes, original = [], clip.Backbone.encode_images

    def encode(self, images):
        sizes.append(len(images))
        return original(self, images)

    monkeypatch.setattr(clip.Backbone, "encode_images", encode)
    return sizes


def look(model, text, rules=None, images=12):
    return paying.look(model, pictures(images), text, "preaugment", COUNTS, 0, rules)


def between(margins: torch.Tensor, stage: int) -> float:
    """A threshold that half of the images reach at a stage."""
    low, high = margins[:, stage].sort().values[5:7].tolist()
    assert high - low > 1e-5  # features of chunks differ by rounding
    return (low + high) / 2


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """Timing encodes images, which some tests count."""
    monkeypatch.setattr(store, "seconds_per_image", lambda *_: 0.01)
    monkeypatch.setattr(store, "view_seconds_per_image", lambda *_: 0.1)


@pytest.fixture
def rule(model, text, encoded):
    margins = look(model, text).margins
    encoded.clear()
    return Rule(between(margins, 0), between(margins, 1))


def test_only_what_a_rule_asks_for_is_encoded(model, text, encoded, rule):
    whole = look(model, text)
    seen = look(model, text, [rule])
    ends = sequential.stops(whole.margins, *rule)
    assert torch.equal(sequential.stops(seen.margins, *rule), ends)
    sizes = np.diff((0, *COUNTS))
    asked = [(ends >= stage).sum().item() for stage in range(4)]
    assert asked[0] == 12 > asked[1] > asked[2] > 0
    assert encoded[0] == 12  # first views together, as in chapter 01
    assert encoded[1:] == [
        size for size, n in zip(sizes[1:], asked[1:], strict=True) for _ in range(n)
    ]
    for n, end in enumerate(ends.tolist()):
        stop = COUNTS[end]
        assert torch.allclose(seen.views[n, :stop], whole.views[n, :stop], atol=1e-3)
        assert seen.views[n, stop:].isnan().all()
        assert seen.margins[n, end + 1 :].isnan().all()
        assert (seen.seconds[n, : end + 1] > 0).all()
        assert (seen.seconds[n, end + 1 :] == 0).all()


def test_several_rules_share_what_they_ask_for(model, text, encoded, rule):
    look(model, text, [rule, Rule(0.0, 0.0)])
    once = sum(encoded)
    look(model, text, [Rule(0.0, 0.0), rule])
    assert sum(encoded) == once
    both = look(model, text, [rule, FULL])
    assert sum(encoded) == 12 * 12
    assert not both.views.isnan().any()


def test_a_rule_that_never_adapts_sees_the_images_alone(model, text, encoded):
    seen = look(model, text, [Rule(0.0, 0.0)])
    assert encoded == [12]
    assert seen.margins[:, 1:].isnan().all()


@pytest.mark.parametrize("name", paying.METHODS)
def test_logits_at_a_stage_are_those_of_so_many_views(model, text, encoded, rule, name):
    dataset, seen = pictures(12), look(model, text)
    on = model, dataset, text, name, seen, COUNTS
    whole, spent = paying.stage_logits(*on)
    assert whole.isfinite().all()
    assert (spent > 0).all()
    for stage, n in enumerate(COUNTS[1:], 1):
        exact = paying.of_view_count(name, n)(seen.views[:, :n], text)
        assert torch.allclose(whole[:, stage], exact, atol=1e-3)
    ends = sequential.stops(seen.margins, *rule)
    part, _ = paying.stage_logits(*on, ends[:, None])
    found = paying.pick(part, ends)
    assert torch.allclose(found, paying.pick(whole, ends), atol=1e-3)
    assert part[ends == 0, 1:].isnan().all()
    assert part[:, 0].isfinite().all()
    adapt = {n: paying.of_view_count(name, n) for n in COUNTS}
    packaged = sequential.adaptive(
        seen.views,
        text.class_features,
        text.logit_scale,
        lambda v: adapt[v.shape[1]](v, text),
        *rule,
        chunk=5,
    )
    assert torch.allclose(found, packaged, atol=1e-3)


def test_the_full_price_of_tpt_is_chapter_02s():
    """So that its logits are read from the store."""
    assert (
        paying.of_view_count("tpt", 32).key == adaptation.by_tuning(paying.tpt.tpt).key
    )


def test_means_count_data_sets_alike_and_draw_images_within_them():
    rng = np.random.default_rng(1)
    gains = {"a": rng.integers(-1, 2, (40, 2)), "b": rng.integers(0, 2, (400, 2))}
    means, draws = paying.macro(gains, resamples=4000)
    assert means == pytest.approx((gains["a"].mean(0) + gains["b"].mean(0)) / 2)
    each = sum(values.var(axis=0) / len(values) for values in gains.values())
    assert draws.std(axis=0) == pytest.approx(np.sqrt(each) / 2, rel=0.05)
    table = paying.with_intervals(means, draws)
    assert (table["ci_low"] < table["difference"]).all()
    assert (table["difference"] < table["ci_high"]).all()
    alike = {name: np.stack([v[:, 0], v[:, 0]], axis=1) for name, v in gains.items()}
    _, draws = paying.macro(alike)
    assert paying.kept(draws[:, 0], draws[:, 1]) == pytest.approx((1, 1))


def test_a_share_of_no_gain_leaves_draws_out():
    assert np.isnan(paying.kept(np.zeros(3), np.zeros(3))).all()
    assert paying.kept(np.array([1.0, 2.0, 1.0]), np.array([2.0, 4.0, 0.0])) == (
        pytest.approx(0.5),
        pytest.approx(0.5),
    )
