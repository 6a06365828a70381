"""AutoCLIP against autograd and a scalar root finder, golden values, and edge cases."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import brentq

from helpers.methods import autoclip_simulation as simulation
from helpers.methods.autoclip import (
    AGGREGATIONS,
    autoclip,
    classify,
    match_entropy,
    template_scores,
    uniform,
    weights,
)


def unit(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def entropy(w: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(w).sum(dim=-1)


def clip_like(images: int, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Features whose cosines lie close together, as CLIP's do: K 30, C 12, D 64."""
    common, names, styles = unit(1, 1, 64), unit(1, 12, 64, seed=1), unit(30, 1, 64)
    mixed = unit(30, 12, 64, seed=2)
    templates = F.normalize(common + 0.4 * names + 0.3 * styles + 0.3 * mixed, dim=-1)
    own = templates[torch.arange(images) % 30, torch.arange(images) % 12]
    pictures = 0.3 * own + unit(images, 64, seed=3)
    return F.normalize(pictures, dim=-1).to(dtype), templates.to(dtype)


def aggregate(scores: torch.Tensor, aggregation: str, tau: float) -> torch.Tensor:
    """A(s) of one image's class scores [C], by its definition."""
    if aggregation == "logsumexp":
        return (tau * scores).exp().sum().log() / tau
    if aggregation == "entropy":
        p = (tau * scores).softmax(dim=-1)
        return (p * p.log()).sum() / tau
    return scores.mean() if aggregation == "mean" else scores.max()


def gradient(rho, cosines, aggregation, tau) -> torch.Tensor:
    """Of A in rho [K], for one image's cosines [K, C], by autograd."""
    rho = rho.clone().requires_grad_()
    value = aggregate(rho.softmax(dim=-1) @ cosines, aggregation, tau)
    return torch.autograd.grad(value, rho)[0]


@pytest.mark.parametrize("tau", [1.0, 100.0])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_weights_and_logits_are_those_of_one_tuned_gradient_step(aggregation, tau):
    images, templates = unit(5, 6), unit(7, 4, 6, seed=1)
    options = {"aggregation": aggregation, "tau": tau}
    found = weights(images, templates, 50.0, beta=0.8, **options)
    logits = autoclip(images, templates, 50.0, beta=0.8, **options)
    for b in range(5):
        cosines = templates @ images[b]
        g = gradient(torch.zeros(7).double(), cosines, aggregation, tau)
        assert g.std() > 0
        target = 0.8 * math.log(7)
        alpha = brentq(
            lambda x, g=g, t=target: float(entropy((x * g).softmax(0))) - t, 0, 1e7
        )
        w = (alpha * g).softmax(dim=0)
        assert torch.allclose(found[b], w, atol=1e-8)
        assert torch.allclose(logits[b], 50.0 * (w @ cosines), atol=1e-6)


COSINES = [
    [0.30, 0.20, 0.24],
    [0.25, 0.29, 0.21],
    [0.22, 0.21, 0.23],
    [0.27, 0.26, 0.22],
]
GOLDEN = {
    ("logsumexp", 1.0): (
        [0.247058, 0.250198, 0.219950, 0.250283],
        88.4012,
        [0.26732, 0.35284, 0.02434, 0.35550],
        [0.269746, 0.253329, 0.222061],
    ),
    ("logsumexp", 100.0): (
        [0.286834, 0.253608, 0.219098, 0.267543],
        30.9390,
        [0.49230, 0.17611, 0.06055, 0.27104],
        [0.278220, 0.232718, 0.228690],
    ),
    ("mean", 1.0): (
        [0.246667, 0.250000, 0.220000, 0.250000],
        88.9420,
        [0.26430, 0.35552, 0.02466, 0.35552],
        [0.269586, 0.253574, 0.221978],
    ),
    ("max", 1.0): (
        [0.300000, 0.250000, 0.220000, 0.270000],
        23.6762,
        [0.51333, 0.15714, 0.07723, 0.25230],
        [0.278396, 0.230053, 0.229468],
    ),
}


@pytest.mark.parametrize("variant", GOLDEN)
def test_golden_values(variant):
    a, gamma, w, scores = (torch.tensor(v).double() for v in GOLDEN[variant])
    images = torch.ones(1, 1).double()
    templates = torch.tensor(COSINES).double().unsqueeze(-1)
    options = {"aggregation": variant[0], "tau": variant[1]}
    found = template_scores(images, templates, 1.0, **options)
    assert torch.allclose(found[0], a, atol=1e-6)
    found_w, found_gamma = match_entropy(found)
    assert torch.allclose(found_w[0], w, atol=1e-5)
    assert torch.allclose(found_gamma[0], gamma, atol=1e-3)
    logits = autoclip(images, templates, 1.0, **options)
    assert torch.allclose(logits[0], scores, atol=1e-6)


def test_tau_is_the_logit_scale_unless_given():
    images, templates = clip_like(4)
    given = autoclip(images, templates, 100.0, tau=100.0)
    assert torch.equal(autoclip(images, templates, 100.0), given)
    assert not torch.allclose(autoclip(images, templates, 100.0, tau=1.0), given)


def test_without_a_temperature_logsumexp_ranks_templates_as_the_mean_does():
    images, templates = clip_like(40, torch.float64)

    def correlation(tau: float) -> float:
        pairs = zip(
            template_scores(images, templates, tau),
            template_scores(images, templates, tau, aggregation="mean"),
            strict=True,
        )
        return min(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs)

    assert correlation(1.0) > 0.999
    assert correlation(100.0) < 0.9


def test_entropy_is_matched_whatever_the_scores():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(200, 80, generator=generator).double()
    plateau = torch.cat([torch.zeros(200, 20), normal[:, 20:].abs() - 1e3], dim=1)
    for scores in (normal, normal * 1e-9, normal * 1e9, normal**5, plateau):
        for beta in (0.02, 0.3, 0.85, 0.999):
            w, gamma = match_entropy(scores, beta)
            reached = gamma.isfinite()
            goal = torch.full_like(gamma, beta * math.log(80))[reached]
            assert torch.allclose(entropy(w)[reached], goal, atol=1e-9)
            assert reached.all() or (scores is plateau and beta < 0.7)
            exact = (gamma[:, None] * scores).softmax(dim=-1)
            assert torch.allclose(w[reached], exact[reached], atol=1e-8)


def test_beta_one_is_the_uniform_baseline_to_the_last_bit():
    images, templates = clip_like(9)
    baseline = uniform(images, templates, 100.0)
    mean = 100.0 * torch.einsum("bd,kcd->bkc", images, templates).mean(dim=1)
    assert torch.allclose(baseline, mean, atol=1e-4)
    for memory in (1, 2**24):
        flat = autoclip(images, templates, 100.0, beta=1.0, memory=memory)
        assert torch.equal(flat, baseline)
    assert not torch.allclose(autoclip(images, templates, 100.0), baseline, atol=0.1)


def test_small_beta_picks_the_best_template():
    images, templates = clip_like(9)
    scores = template_scores(images, templates, 100.0)
    found = weights(images, templates, 100.0, beta=1e-4)
    assert torch.equal(found.argmax(dim=-1), scores.argmax(dim=-1))
    assert found.amax(dim=-1).min() > 0.999


@pytest.mark.filterwarnings("error")
def test_one_template_one_class_and_no_image():
    images, templates = clip_like(9)
    single = templates[:1]
    assert torch.equal(weights(images, single, 100.0), torch.ones(9, 1).double())
    only = 100.0 * images @ single[0].T
    assert torch.allclose(autoclip(images, single, 100.0), only, atol=1e-5)
    assert autoclip(images, templates[:, :1], 100.0).shape == (9, 1)
    assert autoclip(images[:0], templates, 100.0).shape == (0, 12)
    assert weights(images[:0], templates, 100.0).shape == (0, 30)


def test_templates_that_tie_share_the_weight_and_the_caller_is_told():
    images, templates = clip_like(6)
    best = int(template_scores(images[:1], templates, 100.0).argmax())
    others = [k for k in range(30) if k != best][:2]
    crowded = templates[[best] * 4 + others + [best] * 4]
    with pytest.warns(UserWarning, match="1 of 1 images"):
        found = weights(images[:1], crowded, 100.0)
    expected = torch.tensor([1 / 8] * 4 + [0, 0] + [1 / 8] * 4).double()
    assert torch.allclose(found[0], expected)
    with pytest.warns(UserWarning, match="6 of 6 images"):
        logits = autoclip(images, templates[[best] * 10], 100.0, memory=1)
    single = autoclip(images, templates[[best]], 100.0)
    assert torch.allclose(logits, single, atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_few_duplicates_share_their_weight_evenly():
    images, templates = clip_like(6)
    found = weights(images, torch.cat([templates, templates[:3]]), 100.0)
    assert torch.allclose(found[:, :3], found[:, 30:], atol=1e-5)
    assert torch.allclose(entropy(found), torch.tensor(0.85 * math.log(33)).double())


def test_permutations_carry_through():
    images, templates = clip_like(9)
    logits, w = autoclip(images, templates, 100.0), weights(images, templates, 100.0)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    columns = order[order < 12]
    moved = templates[order][:, columns]
    assert torch.allclose(weights(images, moved, 100.0), w[:, order], atol=1e-4)
    found = autoclip(images, moved, 100.0)
    assert torch.allclose(found, logits[:, columns], atol=1e-4)


def test_neither_the_rest_of_the_batch_nor_memory_matters():
    images, templates = clip_like(40)
    together = autoclip(images, templates, 100.0)
    alone = torch.cat([autoclip(x[None], templates, 100.0) for x in images])
    assert torch.allclose(alone / 100, together / 100, atol=1e-6)
    found = weights(images, templates, 100.0)
    for memory in (1, 7 * 30 * 12 * 4):
        parts = autoclip(images, templates, 100.0, memory=memory)
        assert torch.allclose(parts / 100, together / 100, atol=1e-6)
        parts = weights(images, templates, 100.0, memory=memory)
        assert torch.allclose(parts, found, atol=1e-5)


def test_half_precision_is_read_and_not_computed_in():
    images, templates = (features.half() for features in clip_like(9))
    single = autoclip(images.float(), templates.float(), 100.0)
    assert torch.equal(autoclip(images, templates, 100.0), single)
    double = autoclip(images.double(), templates.double(), 100.0)
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-4)


@pytest.mark.filterwarnings("error")
def test_a_nan_stays_in_its_row():
    images, templates = clip_like(4)
    clean = autoclip(images, templates, 100.0)
    images[1, 3] = math.nan
    logits = autoclip(images, templates, 100.0)
    assert logits[1].isnan().all()
    found = weights(images, templates, 100.0)
    assert found.isnan().all(dim=-1).tolist() == [False, True, False, False]
    assert torch.allclose(logits[[0, 2, 3]], clean[[0, 2, 3]], atol=1e-4)


def test_weights_may_come_from_other_views_than_the_one_classified():
    images, templates = clip_like(6)
    own = classify(images, templates, weights(images, templates, 100.0), 100.0)
    assert torch.allclose(own, autoclip(images, templates, 100.0), atol=1e-5)
    views = torch.stack([images, images.roll(1, 0)], dim=1)
    scores = template_scores(views.flatten(0, 1), templates, 100.0)
    shared, _ = match_entropy(scores.view(6, 2, 30).mean(dim=1))
    logits = classify(images, templates, shared, 100.0)
    cosines = torch.einsum("bd,kcd->bkc", images.double(), templates.double())
    expected = 100.0 * torch.einsum("bk,bkc->bc", shared, cosines)
    assert torch.allclose(logits.double(), expected, atol=1e-4)
    assert not torch.allclose(logits, own, atol=1e-2)


BAD = {
    "beta": ("(0, 1]", {"beta": 0.0}),
    "percent": ("(0, 1]", {"beta": 85}),
    "aggregation": ("logsumexp", {"aggregation": "median"}),
    "tau": ("positive", {"tau": 0.0}),
    "memory": ("bytes", {"memory": 0}),
    "ragged": ("every class", {"template_features": [unit(3, 6), unit(2, 6)]}),
    "averaged": ("every class", {"template_features": unit(4, 6)}),
    "no classes": ("one class", {"template_features": torch.empty(7, 0, 6)}),
    "width": ("width", {"template_features": unit(7, 4, 5)}),
    "one image": ("[B, 6]", {"image_features": unit(6)}),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused(case):
    message, change = BAD[case]
    arguments = {"image_features": unit(5, 6), "template_features": unit(7, 4, 6)}
    arguments |= {"logit_scale": 100.0} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        autoclip(**arguments)


def test_weights_must_fit():
    images, templates = unit(5, 6), unit(7, 4, 6)
    with pytest.raises(ValueError, match="per template"):
        classify(images, templates, torch.ones(5, 4), 100.0)


def accuracy(rows: list[dict], method: str, **where: float) -> float:
    wanted = {"method": method, **where}
    found = [row["accuracy"] for row in rows if wanted.items() <= row.items()]
    return sum(found) / len(found)


def test_simulation_is_inflated_by_the_wrong_axes():
    rows = simulation.study([1.0], [2.5, 5.0, 10.0], range(8))
    known = {
        "mean": {2.5: 0.59, 5.0: 0.39, 10.0: 0.28},
        "autoclip": {2.5: 0.87, 5.0: 0.50, 10.0: 0.30},
        "released": {2.5: 0.94, 5.0: 0.70, 10.0: 0.54},
    }
    for method, by_noise in known.items():
        for noise, value in by_noise.items():
            assert abs(accuracy(rows, method, noise=noise) - value) < 0.1
    for noise in (5.0, 10.0):
        gain = accuracy(rows, "autoclip", noise=noise) - accuracy(
            rows, "mean", noise=noise
        )
        claimed = accuracy(rows, "released", noise=noise) - accuracy(
            rows, "mean", noise=noise
        )
        assert claimed > gain + 0.1


def test_simulation_without_entanglement_or_noise():
    rows = simulation.study([0.0], [4.0], range(3))
    by_mean = accuracy(rows, "mean")
    assert abs(accuracy(rows, "autoclip") - by_mean) < 0.05
    assert accuracy(simulation.study([0.5], [0.0], [0]), "autoclip") == 1.0
    assert simulation.study([0.5], [3.0], [1]) == simulation.study([0.5], [3.0], [1])
    with pytest.raises(ValueError, match="entanglement 2"):
        simulation.draw(2, 1.0, 0)


def test_only_the_released_weights_depend_on_which_images_come_together():
    images, descriptors = simulation.draw(1.0, 5.0, 0)
    moved = images.roll(1, dims=1)
    released = simulation.released_logits(images, descriptors)
    found = simulation.released_logits(moved, descriptors).roll(-1, dims=1)
    assert not torch.allclose(found, released, atol=1e-3)
    right = autoclip(images.flatten(0, 1), descriptors, 1.0).view(15, 5, 5)
    found = autoclip(moved.flatten(0, 1), descriptors, 1.0).view(15, 5, 5)
    assert torch.allclose(found.roll(-1, dims=1), right, atol=1e-9)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("tau", [1.0, 100.0])
def test_float32_is_precise_enough_whatever_the_aggregate(aggregation, tau):
    centre = unit(1, 512)
    noise = torch.randn(80, 200, 512, generator=torch.Generator().manual_seed(1))
    templates = F.normalize(centre + 0.02 * noise, dim=-1)
    noise = torch.randn(30, 512, generator=torch.Generator().manual_seed(2))
    images = F.normalize(0.3 * centre + 0.05 * noise, dim=-1)
    exact = weights(images, templates, 100.0, aggregation=aggregation, tau=tau)
    found = weights(
        images.float(), templates.float(), 100.0, aggregation=aggregation, tau=tau
    )
    assert (found - exact).abs().max() < 5e-5
