"""Chapter 06b's doses: scenes drawn again, trends, class sets, TPT taken apart."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from helpers.chapters import adaptation, doses
from helpers.data import embedded
from helpers.figures import chapter_06b
from helpers.methods import tpt, vote
from helpers.results import compare
from helpers.study.checks import check
from picto.render import object_mask
from picto.splits import image, scene

C, D, V, N = 5, 8, 10, 6


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


class Tower:
    """A text tower that adds a projection of the context to each class feature."""

    def __init__(self) -> None:
        self.base, self.mix = unit(C, D, seed=1), unit(C, D, 2 * 3, seed=2)

    def features(self, context: torch.Tensor) -> torch.Tensor:
        moved = torch.einsum("cdk,...k->...cd", self.mix, context.flatten(-2))
        return F.normalize(self.base + moved, dim=-1)


class Labelled(SimpleNamespace):
    """A data set of which no picture is looked at."""

    def __len__(self) -> int:
        return len(self.labels)


@pytest.fixture
def text() -> adaptation.Text:
    tower, context = Tower(), 0.3 * unit(2, 3, seed=3)
    return adaptation.Text(tower, context, tower.features(context), 20.0, 4, None)


@pytest.fixture
def views() -> torch.Tensor:
    return unit(N, V, D, seed=4)


def test_scenes_keep_all_but_what_changes():
    drawn = embedded.redrawn("picto", [3, 70], [{}, {"scale": 0.1}], "as told")
    assert drawn.ids == ("picto/00003", "picto/00070")
    assert drawn.labels.tolist() == [scene("picto", i).label for i in (3, 70)]
    assert np.array_equal(drawn.image(0), image("picto", 3))
    assert not np.array_equal(drawn.image(1), image("picto", 70))
    assert drawn.name == "picto, as told"


def test_scenes_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="'digits' has no scenes to draw again"):
        embedded.redrawn("digits", [0], [{}], "")
    with pytest.raises(ValueError, match="zip"):
        embedded.redrawn("picto", [0, 1], [{}], "")


@pytest.mark.parametrize(("size", "offset"), [(0.2, 0.0), (0.2, 0.3), (0.6, 0.0)])
def test_objects_have_the_size_and_place_asked_for(size, offset):
    positions = range(12)
    read = doses.resized("picto", positions, size, offset).read
    for of in read.scenes:
        assert of.scale == size / 2
        assert math.hypot(of.x - 0.5, of.y - 0.5) == pytest.approx(offset)
        mask = object_mask(of)
        rows, columns = np.nonzero(mask > 0.5)
        assert np.ptp(rows) < 64 * size * 1.35  # stretched, turned and in perspective
        middle = (columns.mean() + 0.5) / 64, (rows.mean() + 0.5) / 64
        assert math.dist(middle, (of.x, of.y)) < 0.35 * size + 0.05


def test_a_direction_is_a_scenes_own_whatever_the_others_are():
    some = doses.resized("picto", [5, 9], 0.2, 0.3).read.scenes
    other = doses.resized("picto", [9, 2, 5], 0.2, 0.15).read.scenes
    way = [((s.x - 0.5) / 0.3, (s.y - 0.5) / 0.3) for s in some]
    again = [((s.x - 0.5) / 0.15, (s.y - 0.5) / 0.15) for s in (other[2], other[0])]
    assert np.allclose(way, again)
    assert not np.allclose(*way, atol=0.1)


def test_severity_and_style_change_nothing_else():
    of = scene("picto-c", 31)
    for severity in (1, 5):
        (drawn,) = doses.corrupted([31], severity).read.scenes
        assert (drawn.corruption, drawn.severity) == (of.corruption, severity)
        assert drawn.seed == of.seed
    sketch = doses.sketched("picto", range(20)).read.scenes
    assert {s.style for s in sketch} == {"sketch"}
    assert not any(s.clutter or s.occluded or s.light or s.quality for s in sketch)
    assert [s.label for s in sketch] == [scene("picto", i).label for i in range(20)]


def test_views_of_a_scene_are_the_same_crops_at_every_dose():
    """Ids seed the views, and two doses are two data sets for the store."""
    small, large = (doses.resized("picto", range(16), size) for size in (0.2, 0.5))
    assert small.ids == large.ids
    assert small.key != large.key
    assert small.key == doses.resized("picto", range(16), 0.2).key


def test_all_methods_see_the_views_of_each_dose(monkeypatch, text):
    looks = {name: unit(N, V, D, seed=k) for k, name in enumerate(("a", "b"))}
    drawn = [Labelled(name=name, labels=np.arange(N) % C) for name in looks]

    def view_features(backbone, dataset, recipe, count, seed):
        assert (recipe, count, seed) == ("preaugment", V, 7)
        return looks[dataset.name]

    monkeypatch.setattr(doses.store, "view_features", view_features)
    methods = {
        "vote": adaptation.in_feature_space(vote.confident_vote),
        "zero-shot": adaptation.first_view,
    }
    backbone = SimpleNamespace(device="cpu", name="toy", key="toy")
    found = doses.seen(backbone, drawn, text, methods, "preaugment", V, 7)
    assert list(found) == list(methods)
    for k, d in enumerate(drawn):
        for name, method in methods.items():
            choices = method(looks[d.name], text).argmax(dim=-1).numpy()
            assert found[name][k].tolist() == (choices == d.labels).tolist()


def test_responses_are_paired_with_the_same_dose():
    rng = np.random.default_rng(0)
    hits, base = rng.random((2, 3, 40)) < [[[0.7]], [[0.4]]]
    table = doses.responses({"a": hits, "b": base}, base, [1, 2, 5], "dose")
    assert table["dose"].tolist() == [1, 2, 5] * 2
    expected = [h.mean() - b.mean() for h, b in zip(hits, base, strict=True)]
    assert table["difference"].tolist() == pytest.approx([*expected, 0, 0, 0])
    assert (table["ci_low"] <= table["difference"]).all()
    with pytest.raises(ValueError, match="shorter"):
        doses.responses({"a": hits[:2]}, base[:2], [1, 2, 5], "dose")


def test_a_trend_is_the_slope_of_a_fitted_line_times_its_range():
    rng = np.random.default_rng(1)
    gains = rng.integers(-1, 2, size=(4, 50)).astype(float)
    at = [0.2, 0.35, 0.55, 0.85]
    slope = np.polyfit(np.arange(4), gains.mean(axis=1), 1)[0]
    found = doses.trend(gains, at)
    assert found["difference"] == pytest.approx(3 * slope)
    each = [3 * np.polyfit(np.arange(4), own, 1)[0] for own in gains.T]
    se = np.std(each) / np.sqrt(50)
    assert found["ci_high"] - found["ci_low"] == pytest.approx(3.92 * se, rel=0.15)
    order = [2, 0, 3, 1]  # doses in disorder, and images in any order
    images = rng.permutation(50)
    same = doses.trend(gains[order][:, images], [at[i] for i in order])
    assert same["difference"] == pytest.approx(found["difference"])
    assert doses.trend(np.ones((3, 9)), [1, 2, 3])["difference"] == pytest.approx(0)


def test_a_peak_that_a_line_hides_is_told():
    rng = np.random.default_rng(0)
    peaked = (rng.random((4, 200)) < np.array([[0.2], [0.5], [0.1], [0.0]])).astype(
        float
    )
    found = doses.trend(peaked[[1, 0, 3, 2]], [2, 1, 4, 3])  # doses in disorder
    assert (found["turn"], found["turned"]) == (2, pytest.approx(peaked[1].mean()))
    assert found["turned_by"] == pytest.approx(peaked[1].mean() - peaked[0].mean())
    trough = doses.trend(-peaked, [1, 2, 3, 4])
    assert (trough["turn"], trough["turned_by"]) == (2, -found["turned_by"])
    row = found | {"subject": "a gain", "over": "here", "verdict": "loses"}
    told, peak = doses.sentence(row), f"{100 * found['turned']:+.1f} at 2"
    ends = [f"{100 * peaked[at].mean():+.1f}" for at in (0, 3)]
    goes = f"A gain goes from {' to '.join(ends)} points here, with a peak of {peak}"
    assert told.startswith(f"{goes}. A straight line falls by ")
    for plain in (np.sort(peaked, axis=0), peaked[[1, 0]], peaked[[0, 0, 3]]):
        found = doses.trend(plain, range(len(plain)))
        assert np.isnan(found["turn"])


def test_a_trend_of_two_doses_is_their_difference():
    gains = np.array([[0.0, 0, 1, 0], [1, 0, 1, 1]])
    assert doses.trend(gains, [1, 9])["difference"] == pytest.approx(0.5)


@pytest.mark.parametrize("at", [[1], [1, 1], [1, 2, 3]])
def test_a_trend_needs_two_doses_and_a_row_for_each(at):
    with pytest.raises(ValueError, match="a row for each dose"):
        doses.trend(np.zeros((2, 5)), at)


def test_trends_without_a_trend_are_rarely_found():
    rng = np.random.default_rng(2)
    p = [
        doses.trend(rng.integers(-1, 2, size=(4, 60)), range(4))["p"]
        for _ in range(100)
    ]
    assert np.mean(np.array(p) < 0.05) <= 0.12


def test_class_sets_are_the_nearest_and_the_farthest():
    t = unit(7, D, seed=5)
    for alike, count in ((True, 3), (False, 3), (True, 7), (False, 7)):
        found = doses.class_sets(t, count, alike)
        for own, row in enumerate(found.tolist()):
            others = [c for c in range(7) if c != own]
            others.sort(key=lambda c: float(t[own] @ t[c]), reverse=alike)
            assert row == sorted([own, *others[: count - 1]])


@pytest.mark.parametrize("count", [1, 8])
def test_class_sets_need_two_classes_and_no_more_than_there_are(count):
    with pytest.raises(ValueError, match="accepted are 2 to 7"):
        doses.class_sets(unit(7, D), count, True)


def test_a_method_among_few_classes_is_that_of_each_image_alone(views, text):
    labels = np.array([0, 3, 3, 1, 4, 0])
    sets = doses.class_sets(text.class_features, 3, alike=True)
    method = adaptation.in_feature_space(vote.confident_vote)
    found = doses.correct_among(method, views, text, labels, sets)
    for i, label in enumerate(labels):
        few = text.class_features[sets[label]]
        logits = vote.confident_vote(views[i : i + 1], few, text.logit_scale)
        assert found[i] == (sets[label][logits.argmax()] == label)
    order = [4, 2, 0, 5, 1, 3]
    again = doses.correct_among(method, views[order], text, labels[order], sets)
    assert np.array_equal(again, found[order])


def test_all_classes_are_the_method_itself(views, text):
    labels = np.arange(N) % C
    sets = doses.class_sets(text.class_features, C, alike=False)

    found = doses.correct_among(adaptation.first_view, views, text, labels, sets)
    assert np.array_equal(
        found, doses.correct(adaptation.first_view(views, text), labels)
    )


@pytest.mark.parametrize("jacobian", [False, True])
def test_prompts_tuned_among_few_classes_never_hear_of_the_others(
    views, text, jacobian
):
    if jacobian:
        of = torch.autograd.functional.jacobian(text.tower.features, text.context)
        text = replace(text, jacobian=of)
    classes = torch.tensor([0, 2, 3])
    method = adaptation.by_tuning(tpt.tpt, learning_rate=0.3)
    found = method(views, doses.among(text, classes))
    tower = Tower()
    tower.base, tower.mix = tower.base[classes], tower.mix[classes]
    alone = replace(text, tower=tower, class_features=tower.features(text.context))
    assert torch.allclose(
        found, method(views, replace(alone, jacobian=None)), atol=1e-5
    )
    untuned = adaptation.first_view(views, alone)
    assert not torch.allclose(found, untuned, atol=1e-2)


def test_room_is_where_zero_shot_is_wrong_and_a_sure_view_right(views, text):
    labels = np.array([0, 1, 2, 3, 4, 0])
    p = (text.logit_scale * views @ text.class_features.T).softmax(dim=-1)
    expected = []
    for probabilities, label in zip(p, labels, strict=True):
        entropies = [float(-(q * q.log()).sum()) for q in probabilities]
        surest = sorted(range(V), key=entropies.__getitem__)[:3]
        some = any(int(probabilities[k].argmax()) == label for k in surest)
        expected.append(some and int(probabilities[0].argmax()) != label)
    found = doses.room(views, text, labels, 3)
    assert found.tolist() == expected
    assert any(expected)
    assert not all(expected)


def test_spread_tells_wordings_that_differ_from_those_that_do_not():
    rng = np.random.default_rng(3)
    images = rng.random(80)  # easy ones and hard ones
    alike = images < rng.uniform(0.45, 0.55, size=(6, 1)) + rng.normal(0, 0.1, (6, 80))
    found = doses.spread(alike, draws=300)
    assert found["spread"] == pytest.approx(alike.mean(axis=1).std(ddof=1))
    assert found["by_chance"] < 0.05
    apart = images < np.linspace(0.2, 0.8, 6)[:, None]
    told = doses.spread(apart, draws=300)
    assert told["p"] == pytest.approx(1 / 301)
    assert told["spread"] > 3 * told["by_chance"]
    same = doses.spread(np.tile(images < 0.5, (4, 1)), draws=50)
    assert same == {"spread": 0.0, "by_chance": 0.0, "p": 1.0}
    with pytest.raises(ValueError, match=r"expected \[wordings, images\]"):
        doses.spread(apart[:1])


def test_chance_rarely_makes_a_spread():
    rng = np.random.default_rng(4)
    p = [
        doses.spread(rng.random((5, 40)) < rng.random(40), draws=200, seed=k)["p"]
        for k in range(60)
    ]
    assert np.mean(np.array(p) < 0.05) <= 0.15


@pytest.mark.parametrize("rate", [0.005, 0.3])
def test_a_step_is_that_of_tpt_image_by_image(views, text, rate):
    found = doses.step(views, text, rate)
    side = text.tower.features, text.logit_scale, text.context
    logits = tpt.tpt(views, *side, learning_rate=rate)
    assert torch.allclose(found.logits, logits, atol=1e-4)
    voted = vote.confident_vote(views, text.class_features, text.logit_scale)
    assert torch.allclose(found.before, voted, atol=1e-4)
    for i in range(N):
        tuned = tpt.tune(views[i : i + 1], *side, learning_rate=rate)
        moved = text.tower.features(tuned.context[0])
        kept = views[i, tuned.selected[0]]
        q = (text.logit_scale * kept @ moved.T).softmax(dim=-1).mean(dim=0)
        assert torch.allclose(found.after[i].exp(), q, atol=1e-4)
        cosines = [
            float(a @ b) for a, b in zip(moved, text.class_features, strict=True)
        ]
        assert found.cosine[i].item() == pytest.approx(np.mean(cosines), abs=1e-5)


def test_sentences_claim_only_what_passes_the_correction():
    row = {"subject": "the vote's gain", "over": "from 1 to 5", "difference": -0.1}
    row |= {"ci_low": -0.15, "ci_high": -0.05, "verdict": "loses"}
    assert doses.sentence(row) == (
        "The vote's gain falls by 10.0 points [5.0, 15.0] from 1 to 5."
    )
    open_ = compare.undetected([0.2])
    told = doses.sentence(row | {"verdict": open_})
    assert told == f"The vote's gain from 1 to 5: -10.0 points [-15.0, -5.0], {open_}."
    up = row | {"difference": 0.1, "ci_low": 0.05, "ci_high": 0.15, "verdict": "gains"}
    assert " rises by 10.0 points [5.0, 15.0] " in doses.sentence(up)


def test_figures_draw_what_the_tables_say():
    row = {"difference": 0.1, "ci_low": 0.05, "ci_high": 0.15, "verdict": "gains"}
    frame = pd.DataFrame(
        [
            {"cause": "size", "subject": "the vote's gain", **row},
            {
                "cause": "size",
                "subject": "ZERO's gain",
                **row,
                "verdict": "no detectable",
            },
            {"cause": "place", "subject": "ZERO's gain", **row, "difference": -0.1},
        ]
    )
    frame["turned_by"] = [0.2, np.nan, np.nan]
    fig, data = chapter_06b.causes(frame)
    (ax,) = fig.axes
    crosses = [line for line in ax.lines if line.get_marker() == "X"]
    assert [line.get_xdata()[0] for line in crosses if line.get_xdata()[0] > 0] == [20]
    assert "cross: " in ax.get_xlabel()
    assert data.equals(frame)
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names == [
        "size", "the vote's gain", "ZERO's gain", "place", "ZERO's gain"
    ]  # fmt: skip
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_ydata()[0] for line in dots] == [1, 2, 4]
    assert [line.get_xdata()[0] for line in dots] == pytest.approx([10, 10, -10])
    filled = [line.get_markerfacecolor() != "white" for line in dots]
    assert filled == [True, False, True]

    with pytest.raises(ValueError, match="the table lacks"):
        chapter_06b.causes(frame.drop(columns="cause"))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("scenes", "digits", 'or "" for none'),
        ("sizes", [0.5], "ascending"),
        ("sizes", [0.5, 0.2], "ascending"),
        ("offsets", [0.0, 1.5], "from 0 to 1"),
        ("severities", [0, 1], "from 1 to 5"),
        ("severities", [1, 2.5], "from 1 to 5"),
        ("dose_images", 0, "3 to 2000"),
        ("dose_views", 9, "at least 10"),
        ("class_counts", [1], "at least 2"),
        ("confidence_bins", 1, "at least 2"),
    ],
)
def test_impossible_doses_are_refused(key, value, told):
    with pytest.raises(ValueError, match=told):
        check({"dataset": "picto", key: value}, "file")
    check({"dataset": "picto", "scenes": ""}, "file")


def test_scenes_of_other_classes_are_refused():
    with pytest.raises(ValueError, match="other classes"):
        check({"dataset": "digits", "scenes": "picto"}, "file")


def test_pictures_are_pictures():
    drawn = doses.sketched("picto", [1])
    assert isinstance(drawn.image(0), Image.Image)
