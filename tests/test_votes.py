"""Methods on views that tune nothing: literal oracles in float64, and edge cases."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.methods import selection
from helpers.methods.mta import mta
from helpers.methods.selection import (
    confident,
    entropy,
    keep_count,
    log_marginal,
    marginal_entropy,
)
from helpers.methods.tps import tps
from helpers.methods.vote import confident_vote, mean_vote, random_vote, reference_vote
from helpers.methods.zero import zero
from helpers.methods.zero_shot import zero_shot

SELECTING = [confident_vote, reference_vote, zero, tps]
METHODS = [*SELECTING, mean_vote, mta]
SCALE = 20.0

everywhere = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)


def study(images=12, views=20, classes=7, width=16, seed=0):
    """Unit views that scatter about one point an image, and unit class features."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    features = normal(images, 1, width) + 0.8 * normal(images, views, width)
    return F.normalize(features, dim=-1), F.normalize(normal(classes, width), dim=-1)


def probabilities(views, class_features):
    """Softmax float64 [V, C] of one image's views."""
    return (SCALE * views.double() @ class_features.double().T).softmax(dim=-1)


def literal_entropy(p, epsilon=0.0):
    return -sum(float(x) * math.log(float(x) + epsilon) for x in p)


def surest(p, epsilon=0.0):
    """Views in the order of their entropies, the lowest first."""
    return sorted(range(len(p)), key=lambda v: literal_entropy(p[v], epsilon))


# selection


def test_golden_entropies():
    logits = torch.tensor([[2.0, 0, 0], [0, 2, 0], [5, 0, 0], [0, 0, 0]])
    golden = torch.tensor([0.665573, 0.665573, 0.079869, 1.098612])
    assert torch.allclose(entropy(logits), golden, atol=1e-6)
    kept = [logits[[0, 1, 0, 1]], logits[[2, 0, 2, 0]], logits]
    golden = torch.tensor([0.958472, 0.431495, 0.963776])
    assert torch.allclose(marginal_entropy(torch.stack(kept)), golden, atol=1e-6)


def test_entropies_of_sure_and_half_precision_logits():
    sure = torch.tensor([[1e4, 0.0, -1e4], [0.0, -torch.inf, -torch.inf]])
    assert entropy(sure).tolist() == [0, 0]
    assert marginal_entropy(sure[:1, None]).tolist() == [0]
    opposed = torch.tensor([[[1e4, 0.0], [0.0, 1e4]]])
    assert marginal_entropy(opposed).item() == pytest.approx(math.log(2))
    half = torch.randn(3, 4, 5).half()
    assert torch.equal(entropy(half), entropy(half.float()))
    assert marginal_entropy(half).dtype == torch.float32
    assert marginal_entropy(half.double()).dtype == torch.float64


def test_marginal_entropy_has_finite_gradients():
    logits = torch.tensor([[[1e4, 0.0, -1e4], [0.0, 1.0, 2.0]]], requires_grad=True)
    marginal_entropy(logits).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().max() > 0


def test_confident_views_are_the_least_entropic_in_stable_order():
    flat, steep = [0.0, 0, 0], [3.0, 0, 0]
    logits = torch.tensor([[flat, steep, flat, steep], [flat] * 4])
    assert confident(logits, 3).tolist() == [[1, 3, 0], [0, 1, 2]]
    for keep in (0, 5):
        with pytest.raises(ValueError, match=f"keep {keep} of 4"):
            confident(logits, keep)


@pytest.mark.parametrize(
    ("views", "rho", "keep"),
    [(64, 0.1, 6), (64, 0.3, 19), (10, 0.1, 1), (1, 1.0, 1), (64, 1.0, 64)],
)
def test_counts_kept(views, rho, keep):
    assert keep_count(views, rho) == keep


def test_the_reference_form_keeps_seven_of_64():
    views, classes = study(images=3, views=64)
    logits = reference_vote(views, classes, SCALE)
    for image, row in zip(views, logits, strict=True):
        p = probabilities(image, classes)
        expected = p[surest(p, 1e-9)[:7]].mean(dim=0).log()
        assert torch.allclose(row.double(), expected, atol=1e-4)


# votes against their definitions


def test_confident_vote_against_the_definition():
    views, classes = study(views=33)
    logits = confident_vote(views, classes, SCALE, rho=0.25)
    for image, row in zip(views, logits, strict=True):
        p = probabilities(image, classes)
        expected = p[surest(p)[:8]].mean(dim=0).log()
        assert torch.allclose(row.double(), expected, atol=1e-4)


def test_mean_vote_is_the_confident_vote_of_all_views():
    views, classes = study()
    logits = mean_vote(views, classes, SCALE)
    expected = torch.stack([probabilities(image, classes).mean(0) for image in views])
    assert torch.allclose(logits.double().exp(), expected, atol=1e-6)
    everything = confident_vote(views, classes, SCALE, rho=1.0)
    assert torch.allclose(everything, logits, atol=1e-5)


def test_random_vote_takes_the_first_views_whatever_they_say():
    views, classes = study()
    logits = random_vote(views, classes, SCALE, rho=0.3)  # 6 of 20
    assert torch.equal(logits, mean_vote(views[:, :6], classes, SCALE))
    later = views.clone()
    later[:, 6:] = 1.0
    assert torch.equal(random_vote(later, classes, SCALE, rho=0.3), logits)
    with pytest.raises(ValueError, match="keeps none of 20 views"):
        random_vote(views, classes, SCALE, rho=0.01)
    with pytest.raises(ValueError, match="one view"):
        random_vote(views[:, :0], classes, SCALE)


def test_log_marginals_stay_finite_where_probabilities_vanish():
    views, classes = study(classes=5)
    for vote in (confident_vote, reference_vote, mean_vote):
        logits = vote(views, classes, 1000.0)
        assert logits.isfinite().all()
        assert logits.min() < -104  # exp of it is zero in float32
        assert torch.allclose(logits.logsumexp(dim=1), torch.zeros(12), atol=1e-4)


# ZERO


def literal_zero(image, class_features, rho):
    """Votes with the winner's extra one, as a list of C counts."""
    p = probabilities(image, class_features)
    order, keep = surest(p), int(rho * len(p))
    votes = [0] * p.shape[1]
    for v in order[:keep]:
        votes[int(p[v].argmax())] += 1
    tied = [c for c, n in enumerate(votes) if n == max(votes)]
    if len(tied) > 1:
        choices = [int(p[v].argmax()) for v in order[keep:]]
        referee = order[keep] if keep < len(p) else order[0]
        greedy = [c for c in choices if c in tied]
        votes[greedy[0] if greedy else max(tied, key=lambda c: p[referee, c])] += 1
    return votes


@pytest.mark.parametrize("rho", [0.1, 0.3, 1.0])
def test_zero_against_its_definition(rho):
    views, classes = study(images=60)
    shares = zero(views, classes, SCALE, rho=rho).exp()
    keep, extra = int(rho * 20), 0
    for image, share in zip(views, shares, strict=True):
        votes = torch.tensor(literal_zero(image, classes, rho))
        extra += int(votes.sum()) - keep
        assert torch.allclose(share, votes / votes.sum(), atol=1e-6)
        assert share.argmax() == votes.argmax()
    assert extra > 0  # there were ties to break


def axis_views(*views):
    """One image whose views' logits over three classes are these, at scale 1."""
    return torch.tensor([views], dtype=torch.float32), torch.eye(3)


def test_zero_breaks_ties_by_the_surest_rejected_view():
    first, second = [9.0, 0, 0], [0, 9.0, 0]
    for_second, for_first, for_third = [0, 5.0, 0], [4.0, 0, 0], [0, 0, 6.0]
    views, classes = axis_views(for_first, for_second, for_third, first, second)
    share = zero(views, classes, 1.0, rho=0.4).exp()[0]
    assert share.tolist() == pytest.approx([1 / 3, 2 / 3, 0])


def test_zero_lets_the_referee_choose_where_nobody_votes_for_the_tied():
    views, classes = axis_views([9.0, 0, 0], [0, 9, 0], [0, 1, 8], [1, 0, 7])
    assert zero(views, classes, 1.0, rho=0.5).argmax().item() == 1
    views, classes = axis_views([0, 8, 1], [9.0, 0, 0])
    assert zero(views, classes, 1.0, rho=1.0).argmax().item() == 0


def test_zero_counts_votes_and_not_confidence():
    views, classes = axis_views([9.0, 0, 0], [0, 0.5, 0], [0, 0.5, 0])
    assert zero(views, classes, 1.0, rho=1.0).argmax().item() == 1
    assert mean_vote(views, classes, 1.0).argmax().item() == 0


def test_zero_has_finite_logits_and_votes_at_the_lower_of_equal_classes():
    views, classes = axis_views([1.0, 1, 0])
    logits = zero(views, classes, 1.0, rho=1.0)
    assert logits.isfinite().all()
    assert logits.softmax(dim=1)[0].tolist() == pytest.approx([1, 0, 0])


# MTA


def literal_mta(image, class_features, lambda_y=0.2, lambda_q=4.0):
    """The released procedure in the space of features, for one image in float64."""
    f, count = image.double(), len(image)
    p = probabilities(image, class_features)
    affinity = p @ p.T
    distances = torch.stack([(f - other).norm(dim=1) ** 2 for other in f])
    neighbours = int(0.3 * (count - 1))
    h2 = distances.sort(dim=1).values[:, 1 : neighbours + 1].mean(dim=1) / 2

    def density(m):
        return torch.exp(-((f - m).norm(dim=1) ** 2) / (2 * h2))

    y, m = torch.full((count,), 1 / count, dtype=torch.float64), f[0]
    for _ in range(5):
        k = density(m)
        for _ in range(5):
            old, y = y, ((k + lambda_q * affinity @ y) / lambda_y).softmax(dim=0)
            if (old - y).norm() < 1e-6:
                break
        for _ in range(5):
            old, weights = m, density(m) * y
            m = F.normalize((weights[:, None] * f).sum(dim=0) / weights.sum(), dim=0)
            if (old - m).norm() < 1e-6:
                break
    return SCALE * class_features.double() @ m


@pytest.mark.parametrize("options", [{}, {"lambda_y": 0.5, "lambda_q": 1.0}])
@pytest.mark.parametrize("count", [5, 20])
def test_mta_against_the_released_procedure(options, count):
    views, classes = study(views=count)
    logits = mta(views, classes, SCALE, **options)
    expected = torch.stack([literal_mta(image, classes, **options) for image in views])
    assert torch.allclose(logits.double(), expected, atol=2e-4)
    assert (logits - zero_shot(views[:, 0], classes, SCALE)).abs().max() > 0.1


def test_mta_shrugs_off_an_outlying_view():
    generator = torch.Generator().manual_seed(3)
    _, classes = study()
    noise = 0.1 * torch.randn(6, 20, 16, generator=generator)
    views = F.normalize(classes[:6, None] + noise, dim=-1)
    spoilt = views.clone()
    spoilt[:, 7] = -spoilt[:, 7]

    def change(answer):
        return (answer(spoilt) - answer(views)).abs().max().item()

    def mean(views):
        return zero_shot(F.normalize(views.mean(dim=1), dim=-1), classes, SCALE)

    assert change(lambda views: mta(views, classes, SCALE)) < 0.5 * change(mean)


def test_mta_takes_few_views_but_no_division_by_zero():
    views, classes = study(views=4)
    for count in (1, 2, 3, 4):
        assert mta(views[:, :count], classes, SCALE).isfinite().all()
    with pytest.raises(ValueError, match="lambda_y is 0"):
        mta(views, classes, SCALE, lambda_y=0)


# TPS


def tuned_by_autograd(image, class_features, scale, keep, learning_rate):
    """One step of torch's own AdamW on a shift, for one image in float64."""
    f, t = image.double(), class_features.double()
    shift = torch.zeros_like(t, requires_grad=True)
    optimizer = torch.optim.AdamW([shift], lr=learning_rate)
    log_p = (scale * f @ F.normalize(t + shift, dim=-1).T).log_softmax(dim=-1)
    order = surest(log_p.detach().exp(), 1e-300)
    log_q = log_p[order[:keep]].logsumexp(dim=0) - math.log(keep)
    (-(log_q.exp() * log_q).sum()).backward()
    optimizer.step()
    return (scale * f[0] @ F.normalize(t + shift, dim=-1).T).detach()


# at a scale of 100 many gradients are as small as AdamW's epsilon, or smaller
@pytest.mark.parametrize(
    ("scale", "rho", "learning_rate"), [(20.0, 0.1, 5e-3), (100.0, 0.25, 0.05)]
)
def test_tps_against_autograd_and_adamw(scale, rho, learning_rate):
    views, classes = study()
    logits = tps(views, classes, scale, rho=rho, learning_rate=learning_rate)
    rows = [
        tuned_by_autograd(image, classes, scale, int(rho * 20), learning_rate)
        for image in views
    ]
    assert torch.allclose(logits.double(), torch.stack(rows), atol=1e-3)


def test_tps_lowers_the_marginal_entropy():
    views, classes = study(images=30, views=10)
    before = entropy(zero_shot(views[:, 0], classes, SCALE))
    after = entropy(tps(views[:, :1], classes, SCALE, rho=1.0))
    assert (after < before).all()


# what all of them share


@everywhere
def test_views_that_are_the_same_answer_as_one(method):
    views, classes = study(views=1)
    options = {} if method in (mta, mean_vote) else {"rho": 1.0}
    many = method(views.expand(-1, 20, -1), classes, SCALE)
    once = zero_shot(views[:, 0], classes, SCALE)
    if method is not reference_vote:  # it counts augmentations, and one view has none
        once = method(views, classes, SCALE, **options)
    atol = 1e-4
    assert torch.allclose(many.softmax(dim=1), once.softmax(dim=1), atol=atol)
    assert torch.equal(many.argmax(1), zero_shot(views[:, 0], classes, SCALE).argmax(1))


@everywhere
def test_images_are_alone(method, monkeypatch):
    views, classes = study(images=9)
    together = method(views, classes, SCALE)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    mixed = method(views[order], classes, SCALE)
    assert torch.allclose(mixed, together[order], atol=1e-4)
    monkeypatch.setattr(selection, "NUMBERS", 1)
    assert torch.allclose(method(views, classes, SCALE), together, atol=1e-4)
    assert method(views[:0], classes, SCALE).shape == (0, 7)


@everywhere
def test_permutations_carry_through(method):
    views, classes = study()
    logits = method(views, classes, SCALE)
    generator = torch.Generator().manual_seed(2)
    order = torch.cat([torch.tensor([0]), 1 + torch.randperm(19, generator=generator)])
    assert torch.allclose(method(views[:, order], classes, SCALE), logits, atol=1e-3)
    columns = torch.randperm(7, generator=generator)
    moved = method(views, classes[columns], SCALE)
    assert torch.allclose(moved, logits[:, columns], atol=1e-3)


@everywhere
def test_half_precision_views_give_float32_logits(method):
    views, classes = study()
    half = method(views.half(), classes.half(), SCALE)
    assert half.dtype == torch.float32
    full = method(views.half().float(), classes.half().float(), SCALE)
    assert torch.equal(half, full)


@everywhere
def test_one_class_and_duplicate_classes(method):
    views, classes = study()
    assert method(views, classes[:1], SCALE).argmax(dim=1).tolist() == [0] * 12
    twins = method(views, classes[:1].expand(2, -1), SCALE)
    assert twins.isfinite().all()
    assert twins.argmax(dim=1).tolist() == [0] * 12


@everywhere
def test_refuses_features_that_do_not_fit(method):
    views, classes = study()
    for broken, message in [
        ((views[0], classes), "expected"),
        ((views, classes[0]), "expected"),
        ((views[..., :8], classes), "widths differ"),
        ((views, classes[:0]), "one class"),
        ((views[:, :0], classes), "one view"),
    ]:
        with pytest.raises(ValueError, match=message):
            method(*broken, SCALE)
    for value in (torch.nan, torch.inf):
        spoilt = views.clone()
        spoilt[5, 3, 2] = value
        with pytest.raises(ValueError, match="image 5: NaN or infinite"):
            method(spoilt, classes, SCALE)
    spoilt = classes.clone()
    spoilt[4, 0] = torch.nan
    with pytest.raises(ValueError, match="class 4: NaN"):
        method(views, spoilt, SCALE)


@pytest.mark.parametrize("method", SELECTING, ids=lambda m: m.__name__)
@pytest.mark.parametrize("rho", [0.0, -0.1, 1.1, math.nan])
def test_refuses_fractions_outside_their_range(method, rho):
    views, classes = study()
    with pytest.raises(ValueError, match="above 0 and at most at 1"):
        method(views, classes, SCALE, rho=rho)


def test_refuses_to_keep_no_view():
    views, classes = study(views=9)
    for method in (confident_vote, tps):
        with pytest.raises(ValueError, match="none of 9 views: use 10 views or more"):
            method(views, classes, SCALE)
    with pytest.raises(ValueError, match="none of 3 views: use 4 views"):
        zero(views[:, :3], classes, SCALE)
    with pytest.raises(ValueError, match="2 views or more"):
        reference_vote(views[:, :1], classes, SCALE)


def test_chunks_are_bounded_and_in_order():
    seen = []

    def spy(views, class_features):
        seen.append(len(views))
        return views[:, 0, :1] + class_features

    views = torch.arange(10.0).view(10, 1, 1)
    numbers = selection.NUMBERS // 4
    logits = selection.in_chunks(spy, views, torch.zeros(1), numbers)
    assert seen == [4, 4, 2]
    assert logits[:, 0].tolist() == list(range(10))
    seen.clear()
    wide = torch.zeros(3, 1, 1).expand(-1, numbers, 2)
    selection.in_chunks(spy, wide, torch.zeros(1), numbers=1)
    assert seen == [2, 1]


def test_log_marginal_is_normalised():
    logits = torch.randn(3, 4, 5) * 50
    assert torch.allclose(log_marginal(logits).logsumexp(1), torch.zeros(3), atol=1e-5)


def test_ranked_choices_are_the_views_classes_surest_first():
    views, class_features = study()
    ranked = selection.ranked_choices(views.half(), class_features, SCALE)
    for row, of_image in zip(ranked, views.half(), strict=True):
        p = probabilities(of_image, class_features)
        surest_first = torch.special.entr(p).sum(dim=-1).argsort()
        assert row.tolist() == p.argmax(dim=-1)[surest_first].tolist()
    with pytest.raises(ValueError, match="widths differ"):
        selection.ranked_choices(views, class_features[:, 1:], SCALE)
