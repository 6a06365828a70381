"""Paying only where it pays: literal loops, a proof tried out, and edge cases."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_votes import SCALE, literal_entropy, probabilities, study

from helpers.methods import selection
from helpers.methods.mta import mta
from helpers.methods.sequential import (
    NEVER,
    adaptive,
    from_seen,
    margins,
    settled,
    share,
    stages,
    stops,
    try_rules,
)
from helpers.methods.tps import tps
from helpers.methods.vote import confident_vote
from helpers.methods.zero import zero
from helpers.methods.zero_shot import zero_shot


def methods(classes, scale=SCALE):
    """Methods of any number of views."""
    side = classes, scale
    return {
        "vote": lambda v: confident_vote(v, *side, share(0.1, v.shape[1])),
        "zero": lambda v: zero(v, *side, share(0.3, v.shape[1])),
        "mta": lambda v: mta(v, *side),
        "tps": lambda v: tps(v, *side, share(0.1, v.shape[1])),
    }


everywhere = pytest.mark.parametrize("name", ["vote", "zero", "mta", "tps"])


def literal(views, classes, adapt, gate, margin, chunk):
    """One image after another, chunk after chunk; its logits and the views it took."""
    rows, taken = [], []
    for image in views:
        n, limit = 1, gate
        while True:
            p = probabilities(image[:n], classes)
            order = sorted(range(n), key=lambda v: literal_entropy(p[v]))
            kept = order[: max(1, int(0.1 * n))]
            first, second = sorted(p[kept].mean(dim=0).tolist(), reverse=True)[:2]
            if first - second >= limit or n == len(image):
                break
            n, limit = min(len(image), n + chunk if n > 1 else chunk), margin
        alone = image[None, :n]
        rows.append(zero_shot(alone[:, 0], classes, SCALE) if n == 1 else adapt(alone))
        taken.append(n)
    return torch.cat(rows), taken


@everywhere
@pytest.mark.parametrize(
    ("gate", "margin"),
    [(0.9, 0.99), (NEVER, 0.9), (0.8, NEVER), (NEVER, NEVER), (0, 0)],
)
def test_a_batch_is_the_loop_over_images_and_chunks(name, gate, margin):
    views, classes = study(images=40, views=20)
    adapt = methods(classes)[name]
    expected, taken = literal(views, classes, adapt, gate, margin, 8)
    found = adaptive(views, classes, SCALE, adapt, gate, margin)
    assert torch.allclose(found, expected, atol=1e-4)
    counts = stages(20)
    ends = stops(margins(views, classes, SCALE, counts), gate, margin)
    assert [counts[end] for end in ends] == taken
    if (gate, margin) == (0.9, 0.99):
        assert set(taken) == {1, 8, 16, 20}  # the case tries every stage


@everywhere
def test_never_stopping_is_the_method_and_stopping_at_once_is_zero_shot(name):
    views, classes = study()
    adapt = methods(classes)[name]
    assert torch.equal(adaptive(views, classes, SCALE, adapt), adapt(views))
    plain = zero_shot(views[:, 0], classes, SCALE)
    assert torch.equal(adaptive(views, classes, SCALE, adapt, gate=0.0), plain)


@everywhere
def test_an_image_does_not_depend_on_the_others(name):
    views, classes = study(images=30)
    adapt = methods(classes)[name]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    whole = adaptive(views, classes, SCALE, adapt, 0.4, 0.3)
    turned = adaptive(views[order], classes, SCALE, adapt, 0.4, 0.3)
    assert torch.allclose(turned, whole[order], atol=1e-5)


@everywhere
@pytest.mark.parametrize(("images", "views", "classes"), [(3, 1, 4), (3, 5, 1)])
def test_one_view_or_one_class(name, images, views, classes):
    views, classes = study(images=images, views=views, classes=classes)
    adapt = methods(classes)[name]
    found = adaptive(views, classes, SCALE, adapt, 0.9, 0.9)
    assert torch.allclose(found, zero_shot(views[:, 0], classes, SCALE))


@everywhere
def test_fewer_views_than_a_chunk(name):
    views, classes = study(views=5)
    adapt = methods(classes)[name]
    assert stages(5) == (1, 5)
    assert torch.equal(adaptive(views, classes, SCALE, adapt), adapt(views))


@everywhere
def test_bfloat16_views(name):
    views, classes = study(images=20)
    views = views.bfloat16()
    adapt = methods(classes)[name]
    found = adaptive(views, classes, SCALE, adapt, 0.3, 0.3)
    exact = adaptive(views.float(), classes, SCALE, adapt, 0.3, 0.3)
    assert found.dtype == torch.float32
    assert torch.equal(found.argmax(dim=1), exact.argmax(dim=1))


def test_views_after_the_stop_are_not_read():
    views, classes = study(images=9)
    seen = torch.tensor([1, 8, 16] * 3)
    adapt = methods(classes)["mta"]
    whole = from_seen(views, classes, SCALE, adapt, seen)
    for image, n in zip(views, seen, strict=True):
        image[n:] = math.nan
    assert torch.equal(from_seen(views, classes, SCALE, adapt, seen), whole)


@pytest.mark.parametrize(
    ("views", "chunk", "expected"),
    [
        (32, 8, (1, 8, 16, 24, 32)),
        (20, 8, (1, 8, 16, 20)),
        (8, 8, (1, 8)),
        (3, 8, (1, 3)),
        (1, 8, (1,)),
        (4, 1, (1, 2, 3, 4)),
    ],
)
def test_stages(views, chunk, expected):
    assert stages(views, chunk) == expected


@pytest.mark.parametrize(("views", "chunk"), [(0, 8), (8, 0)])
def test_no_views_or_no_chunk(views, chunk):
    with pytest.raises(ValueError, match="1 or more"):
        stages(views, chunk)


def test_a_share_keeps_one_view_at_least_and_else_as_many_as_the_method():
    for rho in (0.01, 0.1, 0.3, 1.0):
        for n in range(1, 200):
            kept = selection.keep_count(n, share(rho, n))
            assert kept == max(1, int(rho * n)), (rho, n)


def test_a_margin_at_the_threshold_stops_and_an_unknown_one_does_not():
    nan = math.nan
    found = torch.tensor(
        [[0.5, 0.1, 0.1], [0.4, 0.3, nan], [0.4, 0.2, 0.0], [0.4, nan, nan]]
    )
    assert stops(found, gate=0.5, margin=0.3).tolist() == [0, 1, 2, 2]


def test_tied_classes_are_never_clear():
    views = F.normalize(torch.ones(1, 16, 2), dim=-1)
    classes = torch.eye(2)
    found = margins(views, classes, SCALE, stages(16))
    assert torch.equal(found, torch.zeros(1, 3))
    assert stops(found, 1e-6, 1e-6).tolist() == [2]


def test_rules_are_tried_as_they_are_applied():
    views, classes = study(images=60, views=20)
    counts, adapt = stages(20), methods(classes)["mta"]
    found = margins(views, classes, SCALE, counts)
    plain = zero_shot(views[:, 0], classes, SCALE)
    each = [plain, *(adapt(views[:, :n]) for n in counts[1:])]
    predictions = torch.stack([logits.argmax(dim=1) for logits in each], dim=1)
    tried = try_rules(found, predictions, counts)
    assert (tried[0].gate, tried[0].views) == (0, 1)
    full = tried[-1]
    assert full == (NEVER, NEVER, 20, 0)
    for rule in tried[:: len(tried) // 7]:
        seen = torch.tensor(counts)[stops(found, rule.gate, rule.margin)]
        logits = adaptive(views, classes, SCALE, adapt, rule.gate, rule.margin)
        unlike = (logits.argmax(dim=1) != predictions[:, -1]).double().mean().item()
        assert rule.views == pytest.approx(seen.double().mean().item())
        assert rule.unlike == pytest.approx(unlike)
    assert tried[0].unlike == (predictions[:, 0] != predictions[:, -1]).double().mean()


# ZERO's proof


def test_what_is_settled_is_the_outcome_whatever_comes():
    """Random choices in few classes, so that ties abound; every n; rho of all sizes."""
    generator = torch.Generator().manual_seed(0)
    stopped = 0
    for rho in (0.1, 0.3, 0.5, 1.0):
        for classes in (1, 2, 3, 6):
            scores = torch.randn(400, 24, classes, generator=generator)
            scores = 2 * scores + torch.randn(400, 1, classes, generator=generator)
            scores = (2 * scores).round() / 2  # equal entropies and equal logits, too
            # ZERO of logits: unit features do not matter here, so classes are axes.
            views, axes = scores, torch.eye(classes)
            whole = zero(views, axes, 1.0, rho).argmax(dim=1)
            for n in range(1, 25):
                some = views[:, :n]
                choices = selection.ranked_choices(some, axes, 1.0)
                sure = settled(choices, 24, rho)
                if sure.any():
                    early = zero(some[sure], axes, 1.0, rho).argmax(dim=1)
                    assert torch.equal(early, whole[sure]), (rho, classes, n)
                    stopped += int(sure.sum()) * (n < 24)
    assert stopped > 10_000


def test_what_is_not_settled_can_be_turned():
    """The rule is no tighter than need be: surer views for a rival make a tie."""
    views, rho, classes = 20, 0.5, 3
    turned = 0
    for lead in range(11):
        for to_come in range(1, 10):
            n, voters = views - to_come, 10 - to_come
            ahead = [0] * ((voters + lead) // 2)
            seen = (ahead + [1] * n)[:voters]
            choices = torch.tensor([seen + [1] * (n - voters)])
            if settled(choices, views, rho)[0]:
                continue
            # Surer views, all for the rival, displace the least sure voters.
            final = torch.tensor([1] * to_come + seen)
            counts = torch.bincount(final, minlength=classes)
            assert counts[1] >= counts[0]
            turned += 1
    assert turned > 20


def test_no_proof_before_the_last_half_of_the_voters():
    for views, rho in ((32, 0.3), (64, 0.3), (64, 0.1), (10, 0.1)):
        keep = int(rho * views)
        unanimous = [
            bool(settled(torch.zeros(1, n, dtype=torch.int64), views, rho)[0])
            for n in range(1, views + 1)
        ]
        first = unanimous.index(True) + 1
        assert all(unanimous[first - 1 :])
        assert views - first == (keep - 1) // 2


def test_more_views_than_there_are_is_refused():
    with pytest.raises(ValueError, match="9 views were seen, more than 8"):
        settled(torch.zeros(1, 9, dtype=torch.int64), 8)
