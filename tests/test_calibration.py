"""Calibration that costs nothing: CoTS, SE, R-TPT's weights, A-TPT, by their words."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.methods import cots, se
from helpers.methods.atpt import atpt, diversity
from helpers.methods.rtpt import reliability, reliable_vote, rtpt
from helpers.methods.tpt import tpt, tune
from helpers.methods.vote import mean_vote

SCALE = 20.0


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def toy(context):
    """Unit class features [..., 5, 6] of contexts [..., 2, 3]."""
    weights = normal(5, 6, 6, seed=3)
    flat = context.flatten(-2)
    return F.normalize(torch.einsum("cdw,...w->...cd", weights, flat), dim=-1)


def toy_case(images=4, views=24):
    context = 0.3 * normal(2, 3, seed=5)
    features = toy(context)[torch.arange(images) % 5, None] + 0.5 * normal(
        images, views, 6, seed=7
    )
    return F.normalize(features, dim=-1), context


def literal_tuned(views, context, loss, rho=0.1):
    """One step of torch's AdamW for each image: contexts [B, 2, 3]."""
    tuned = []
    for image in views:
        at = context.clone().requires_grad_()
        optimizer = torch.optim.AdamW([at], lr=5e-3)
        logits = SCALE * image @ toy(at).T
        p = logits.softmax(dim=1)
        surest = (-(p * p.log()).sum(dim=1)).argsort()[: int(rho * len(image))]
        loss(logits[surest], toy(at)).backward()
        optimizer.step()
        tuned.append(at.detach())
    return torch.stack(tuned)


def entropies(logits):
    p = logits.softmax(dim=-1)
    return -(p * p.log()).sum(dim=-1)


def marginal(logits):
    q = logits.softmax(dim=1).mean(dim=0)
    return -(q * q.log()).sum()


# --- CoTS ----------------------------------------------------------------------------


def literal_temperature(after, before):
    """By brute force over T for one image's trusted views [K, C]."""
    target = before.softmax(dim=1).amax(dim=1)
    candidates = torch.linspace(-3, 3, 60001).double().exp()
    made = (after / candidates[:, None, None]).softmax(dim=2).amax(dim=2)
    return candidates[((made - target) ** 2).sum(dim=1).argmin()]


def test_cots_against_its_words():
    before = 3 * normal(8, 21, 5)
    after = 1.7 * before + 0.3 * normal(8, 21, 5, seed=1)
    made = cots.cots(after, before)
    for image in range(8):
        surest = 1 + entropies(after[image, 1:]).argsort()[:2]
        t = literal_temperature(after[image, surest], before[image, surest])
        assert torch.allclose(made[image], after[image, 0] / t, rtol=1e-3)
    assert torch.equal(made.argmax(dim=1), after[:, 0].argmax(dim=1))


def test_a_common_factor_is_found_and_undone():
    before = 3 * normal(6, 11, 7).float()
    for factor in (0.5, 1.0, 4.0):
        made = cots.cots(factor * before, before, rho=0.5)
        assert torch.allclose(made, before[:, 0], rtol=1e-3, atol=1e-4)
        t = cots.temperatures(factor * before, before)
        assert torch.allclose(t, torch.full((6,), factor), rtol=1e-3)


def test_tuned_logits_are_those_of_all_views_after_and_before():
    views, context = toy_case()
    after, before = cots.tuned_logits(views, toy, SCALE, context)
    tuned = literal_tuned(views, context, lambda z, t: marginal(z))
    expected = SCALE * views @ toy(tuned).mT
    assert torch.allclose(after, expected, atol=1e-6)
    assert torch.allclose(before, SCALE * views @ toy(context).T)
    assert torch.allclose(after[:, 0], tpt(views, toy, SCALE, context))


def test_tpt_with_cots_predicts_as_tpt_at_a_temperature_of_its_own():
    views, context = toy_case()
    made = cots.tpt_cots(views, toy, SCALE, context, rho=0.5)
    plain = tpt(views, toy, SCALE, context, rho=0.5)
    after, before = cots.tuned_logits(views, toy, SCALE, context, rho=0.5)
    factor = plain / made  # one number for all classes of an image
    assert torch.allclose(factor, factor[:, :1].expand_as(factor), rtol=1e-4)
    for image in range(len(views)):
        surest = entropies(after[image, 1:]).argsort()
        surest = 1 + surest[: max(1, int(0.5 * (views.shape[1] - 1)))]
        t = literal_temperature(after[image, surest], before[image, surest])
        assert torch.allclose(factor[image, 0], t.to(factor), rtol=1e-3)


def test_cots_edges():
    logits = normal(2, 3, 4)
    with pytest.raises(ValueError, match="1 view"):
        cots.cots(logits[:, :1], logits[:, :1])
    with pytest.raises(ValueError, match="rho"):
        cots.cots(logits, logits, rho=0)
    one = cots.cots(logits[..., :1], logits[..., :1])  # one class: any T will do
    assert one.isfinite().all()


# --- SE ------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [2, 5, 21])
def test_self_ensemble_against_its_words(views):
    features = F.normalize(normal(9, views, 6), dim=2).float()
    classes = F.normalize(normal(5, 6, seed=1), dim=1).float()
    made = se.self_ensemble(features, classes, SCALE)
    for image, row in zip(features, made, strict=True):
        logits = SCALE * image.double() @ classes.double().T
        h = entropies(logits)
        surer = sum(float(h[0]) < float(x) for x in h[1:]) / (views - 1) - 0.5
        own = 0.5 + math.copysign(0.4 * surer**2, surer)
        chosen = 1 + h[1:].argsort()[: max(1, int(0.1 * (views - 1)))]
        p = logits.softmax(dim=1)
        expected = own * p[0] + (1 - own) * p[chosen].mean(dim=0)
        assert torch.allclose(row.exp().double(), expected, atol=1e-5)


def test_self_ensemble_needs_an_augmentation_and_sound_settings():
    views, classes = torch.ones(1, 2, 3), torch.ones(2, 3)
    with pytest.raises(ValueError, match="1 view"):
        se.self_ensemble(views[:, :1], classes, SCALE)
    with pytest.raises(ValueError, match="rho 0"):
        se.self_ensemble(views, classes, SCALE, rho=0)
    views[0, 1] = torch.nan
    with pytest.raises(ValueError, match="image 0: NaN"):
        se.self_ensemble(views, classes, SCALE)


# --- R-TPT ---------------------------------------------------------------------------


def literal_weights(image):
    rows = []
    for v, x in enumerate(image):
        others = sorted((float(x @ o) for u, o in enumerate(image) if u != v))
        near = others[-20:]
        rows.append(sum(near) / len(near) / 0.01)
    return torch.tensor(rows).double().softmax(dim=0)


@pytest.mark.parametrize("views", [3, 20, 21, 40])
def test_reliability_against_its_words(views):
    features, _ = toy_case(views=views)
    weights = reliability(features)
    for image, row in zip(features, weights, strict=True):
        assert torch.allclose(row, literal_weights(image), atol=1e-6)
    assert reliability(features[:, :1]).tolist() == [[1.0]] * 4


def test_a_copy_counts_as_a_neighbour_and_self_does_not():
    odd = F.normalize(torch.tensor([[[1.0, 0], [1, 0], [0, 1]]]), dim=2)
    half = odd.repeat(1, 1, 8).bfloat16() / 8**0.5  # norms are not exactly 1
    for views in (odd, half):
        assert reliability(views)[0, 2] < 1e-6


def test_rtpt_is_the_literal_algorithm():
    views, context = toy_case()
    made = rtpt(views, toy, SCALE, context)
    tuned = literal_tuned(views, context, lambda z, t: entropies(z).mean())
    for image, at, row in zip(views, tuned, made, strict=True):
        expected = literal_weights(image) @ (SCALE * image @ toy(at).T)
        assert torch.allclose(row, expected, atol=1e-5)
    vote = reliable_vote(views, toy(context), SCALE)
    for image, row in zip(views, vote, strict=True):
        expected = literal_weights(image) @ (SCALE * image @ toy(context).T)
        assert torch.allclose(row.double(), expected, atol=1e-3)


def test_reliable_vote_of_equal_views_is_their_own_answer():
    views, context = toy_case(views=1)
    classes = toy(context)
    made = reliable_vote(views.expand(-1, 7, -1), classes, SCALE)
    assert torch.allclose(made.double(), SCALE * views[:, 0] @ classes.T, atol=1e-4)
    same = mean_vote(views.expand(-1, 7, -1), classes, SCALE)
    assert torch.equal(made.argmax(dim=1), same.argmax(dim=1))


# --- A-TPT ---------------------------------------------------------------------------


def literal_diversity(features):
    angles = []
    for a, t in enumerate(features):
        angles.append(
            min(torch.arccos(t @ o) for b, o in enumerate(features) if b != a)
        )
    return torch.stack(angles).mean()


def test_atpt_is_the_literal_algorithm_and_widens_the_smallest_angles():
    views, context = toy_case()
    for weight in (0.0, 60.0):
        made = atpt(views, toy, SCALE, context, weight)
        tuned = literal_tuned(
            views,
            context,
            lambda z, t, w=weight: marginal(z) - w * literal_diversity(t),
        )
        expected = (SCALE * views[:, :1] @ toy(tuned).mT)[:, 0]
        assert torch.allclose(made, expected, atol=1e-6)
    assert torch.allclose(
        atpt(views, toy, SCALE, context, 0.0), tpt(views, toy, SCALE, context)
    )
    spread = tune(views, toy, SCALE, context, loss=lambda z, t: -diversity(t))
    assert (diversity(toy(spread.context)) > diversity(toy(context))).all()


def test_diversity_of_known_angles():
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert diversity(square).item() == pytest.approx(math.pi / 2)
    assert diversity(square[:1]) == 0
    same = torch.tensor([[1.0, 0], [1, 0]], requires_grad=True)
    diversity(same).backward()
    assert same.grad.isfinite().all()
