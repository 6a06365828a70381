"""LaFTer's neighbours: other ways to tune without labels."""

import inspect
import math
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.checkpoint import checkpoint
from torchvision.transforms.functional import to_pil_image

from helpers.data.pool import Pool
from helpers.methods import coop, drml, rlcf, selection, tap, tent, tpt
from helpers.methods import training as loop
from helpers.methods.clip_adapter import Adapter, clip_adapter
from helpers.methods.clip_pr import clip_pr, divergence
from helpers.methods.fixmatch import fixmatch, masked_cross_entropy
from helpers.methods.lafter import lafter, text_classifier
from helpers.methods.lora import lora
from helpers.methods.training import NO_LABEL, Student
from helpers.methods.upl import Prompted, confident_images, upl
from helpers.methods.zero_shot import zero_shot
from helpers.models import clip
from helpers.models.visual import ImageTower, norm_affines
from helpers.store.checkpoints import Checkpoint
from helpers.views.strong import strong
from picto import splits

# Twelve images and heads from scratch: what the loop says of them is no surprise.
pytestmark = pytest.mark.filterwarnings("ignore:.*have collapsed:RuntimeWarning")

C, D, N = 6, 16, 12
SCALE = 20.0


@pytest.fixture(scope="module")
def vit() -> clip.Backbone:
    return clip.load("picto-vit", "picto", device="cpu")


@pytest.fixture(scope="module")
def make(vit):
    return partial(ImageTower, vit)


@pytest.fixture(scope="module")
def photos() -> Pool:
    pictures = torch.from_numpy(splits.images("picto-s", range(N))).permute(0, 3, 1, 2)

    def view(i: int, generator: np.random.Generator) -> Tensor:
        return strong(to_pil_image(pictures[i]), 64, generator)

    return Pool(tuple(map(str, range(N))), pictures.contiguous(), view)


@pytest.fixture(scope="module")
def classes(vit) -> Tensor:
    return vit.template_features(splits.CLASS_NAMES[:C], ["a photo of a {}."])[0]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(normal(*shape, seed=seed), dim=-1)


def around(centres: Tensor, per_class: int, spread: float, seed: int = 0):
    """Unit features around each class's centre, and the classes."""
    labels = torch.arange(len(centres)).repeat_interleave(per_class)
    noise = spread * normal(len(labels), centres.shape[1], seed=seed)
    return F.normalize(centres[labels] + noise, dim=-1), labels


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=-1) == labels).double().mean().item()


# UPL


def text_tower(context: Tensor) -> Tensor:
    """A differentiable toy: contexts [..., M, W] -> unit class features [..., C, D]."""
    names, out = normal(C, 4, seed=11).to(context), normal(4, D, seed=12).to(context)
    told = context.mean(dim=-2)
    return F.normalize(torch.tanh(names + told[..., None, :]) @ out, dim=-1)


def test_upl_keeps_the_most_confident_of_each_predicted_class():
    logits = SCALE * normal(60, C, seed=1)
    logits[:, 4] = -100  # nobody is taken for class 4
    kept = confident_images(logits, per_class=3)
    p, labels = logits.softmax(dim=-1).max(dim=-1)
    expected = set()
    for c in range(C):
        own = [i for i in range(60) if labels[i] == c]
        expected |= set(sorted(own, key=lambda i: (-p[i].item(), i))[:3])
    assert set(kept.tolist()) == expected
    assert torch.equal(kept, kept.sort().values)
    assert labels[kept].bincount(minlength=C).tolist() == [3, 3, 3, 3, 0, 3]
    ties = torch.zeros(5, 2)
    assert confident_images(ties, 2).tolist() == [0, 1]
    with pytest.raises(ValueError, match="0 images per class"):
        confident_images(logits, 0)


def test_upl_is_coop_on_the_kept_images():
    """In one batch order does not matter, and coop.train does the same steps."""
    images, _ = around(text_tower(normal(2, 4)), 10, 0.2)
    logits = SCALE * images @ text_tower(torch.zeros(2, 4)).T
    start = coop.random_start(2, 4)
    made = upl(
        images, logits, text_tower, SCALE, start, per_class=4, epochs=5, batch=99
    )
    kept = confident_images(logits, 4)
    labels = logits[kept].argmax(dim=-1)
    expected = coop.train(images[kept], labels, text_tower, SCALE, start, 5, batch=99)
    assert torch.allclose(made.model.context, expected.context, atol=1e-7)
    assert made.log["loss"].tolist() == pytest.approx(expected.losses, rel=1e-5)
    assert torch.equal(made.labels[0, kept], labels)
    others = torch.ones(len(images), dtype=torch.bool)
    others[kept] = False
    assert (made.labels[:, others] == NO_LABEL).all()
    rates = [coop.learning_rate(e, 5) for e in range(5)]
    assert made.log["learning_rate"].tolist() == pytest.approx(rates)


def test_upl_against_literal_steps():
    """Selection, draws, cross-entropy and SGD, image by image in float64."""
    views, logits = unit(10, 3, D, seed=4), SCALE * normal(10, C, seed=5)
    start, how = coop.random_start(2, 4, 6), {"per_class": 2, "epochs": 3, "batch": 4}
    made = upl(views, logits, text_tower, SCALE, start, seed=7, **how)

    sure = logits.double().softmax(dim=-1)
    named = [max(range(C), key=lambda c, p=p: p[c]) for p in sure]
    kept = []
    for c in range(C):
        own = sorted((-sure[i, c].item(), i) for i in range(10) if named[i] == c)
        kept += [i for _, i in own[:2]]
    kept.sort()
    context, speed = start.double(), torch.zeros(2, 4).double()
    for epoch in range(3):
        drawn = np.random.default_rng([7, epoch, 1]).random(len(kept))
        order = np.random.default_rng([7, epoch]).permutation(len(kept))
        for first in range(0, len(kept) - 3, 4):
            context = context.detach().requires_grad_()
            classes, loss = text_tower(context), 0.0
            for row in order[first : first + 4]:
                seen = views[kept[row], int(3 * drawn[row])].double()
                z = SCALE * classes @ seen
                loss = loss + (z.logsumexp(0) - z[named[kept[row]]]) / 4
            (g,) = torch.autograd.grad(loss, context)
            speed = 0.9 * speed + g + 5e-4 * context.detach()
            context = context.detach() - coop.learning_rate(epoch, 3) * speed
    assert len(kept) > 4  # more than a batch
    assert torch.allclose(made.model.context.double(), context, atol=1e-6)
    assert (context - start).abs().max() > 1e-3


def test_upl_does_not_see_the_order_of_images_or_classes():
    images, _ = around(text_tower(normal(2, 4)), 10, 0.2)
    logits = SCALE * images @ text_tower(torch.zeros(2, 4)).T
    start, how = coop.random_start(2, 4), {"per_class": 4, "epochs": 5, "batch": 99}
    made = upl(images, logits, text_tower, SCALE, start, **how)
    moved = torch.randperm(len(images), generator=torch.manual_seed(1))
    other = upl(images[moved], logits[moved], text_tower, SCALE, start, **how)
    assert torch.allclose(made.model.context, other.model.context, atol=1e-6)
    assert torch.equal(made.labels[:, moved], other.labels)
    turned = torch.randperm(C, generator=torch.manual_seed(2))
    other = upl(
        images,
        logits[:, turned],
        lambda context: text_tower(context)[..., turned, :],
        SCALE,
        start,
        **how,
    )
    expected = made.model(images)[:, turned]
    assert torch.allclose(other.model(images), expected, atol=1e-4)


def test_upl_draws_views_by_seed_and_refuses_other_images():
    views = unit(8, 5, D)
    logits, start = normal(8, C), coop.random_start(2, 4)
    one = upl(views, logits, text_tower, SCALE, start, epochs=2, seed=1)
    same = upl(views, logits, text_tower, SCALE, start, epochs=2, seed=1)
    other = upl(views, logits, text_tower, SCALE, start, epochs=2, seed=2)
    assert torch.equal(one.model.context, same.model.context)
    assert not torch.equal(one.model.context, other.model.context)
    with pytest.raises(ValueError, match="8 images, but logits of 7"):
        upl(views, logits[:7], text_tower, SCALE, start)


def test_upl_draws_other_views_in_every_epoch(monkeypatch):
    views = torch.arange(5.0).view(1, 5, 1).expand(8, 5, D)  # a view tells its number
    seen = []

    def forward(self, features):
        seen.append(features[:, 0].tolist())
        return normal(len(features), C) + self.context.sum()

    monkeypatch.setattr(Prompted, "forward", forward)
    start = coop.random_start(2, 4)
    upl(views, normal(8, C), text_tower, SCALE, start, epochs=4, batch=8)
    epochs = {tuple(sorted(numbers)) for numbers in seen[-4:]}
    assert len(epochs) == 4
    assert {number for epoch in epochs for number in epoch} == {0, 1, 2, 3, 4}


# CLIP-PR


def test_divergence_has_its_direction_and_the_mean_inside():
    logits, prior = 2 * normal(9, C), normal(C, seed=3).softmax(dim=0)
    q = logits.double().softmax(dim=-1).mean(dim=0)
    literal = sum(p * math.log(p / r) for p, r in zip(prior.tolist(), q, strict=True))
    assert divergence(prior, logits).item() == pytest.approx(literal, rel=1e-5)
    uniform = torch.full((C,), 1 / C)
    sure = 100 * torch.eye(C)  # each image sure, all together uniform
    assert divergence(uniform, sure).item() == pytest.approx(0, abs=1e-6)
    rare = torch.tensor([1.0, 0, 0, 0, 0, 0])
    assert divergence(rare, sure).item() == pytest.approx(math.log(C), rel=1e-5)


def test_clip_pr_pulls_predictions_to_the_prior():
    """A teacher takes half of the images for class 0; the prior tells otherwise."""
    images, labels = around(unit(C, D, seed=2), 20, 0.1)
    wrong = torch.rand(len(labels), generator=torch.Generator().manual_seed(1)) < 0.5
    biased = 10 * F.one_hot(labels.masked_fill(wrong, 0), C).float()
    right = {}
    for alpha in (0.0, 100.0):
        made = clip_pr(images, biased, alpha=alpha, epochs=60, learning_rate=1e-2)
        right[alpha] = accuracy(made.model(images), labels)
    assert right[0.0] < 0.9
    assert right[100.0] > right[0.0] + 0.05
    assert made.log["divergence"].iloc[-1] < 0.01


def test_clip_pr_assumes_a_uniform_prior_and_knows_no_other():
    images, logits = unit(10, D), normal(10, C)
    prior = torch.full((C,), 1 / C)
    one = clip_pr(images, logits, epochs=3)
    same = clip_pr(images, logits, prior, epochs=3)
    assert one.log["loss"].equals(same.log["loss"])
    for wrong in (torch.full((C,), 0.5), torch.ones(2) / 2):
        with pytest.raises(ValueError, match="6 shares that sum to 1"):
            clip_pr(images, logits, wrong)


def test_clip_pr_keeps_the_global_random_state():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    clip_pr(unit(10, D), normal(10, C), epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


# TAP


def test_targeted_texts_pair_renditions_with_descriptors():
    texts = tap.targeted(
        ["hen", "owl"],
        [["two legs", "a comb"], []],
        ["a sketch of a {}.", "a {} mosaic"],
    )
    assert texts == [
        [
            "a sketch of a hen, with two legs.",
            "a sketch of a hen, with a comb.",
            "a hen mosaic, with two legs.",
            "a hen mosaic, with a comb.",
        ],
        ["a sketch of a owl.", "a owl mosaic."],
    ]
    with pytest.raises(ValueError, match="no renditions"):
        tap.targeted(["hen"], [[]], [])


def test_tap_is_the_text_classifier_at_its_own_rate():
    features, labels = around(unit(C, D, seed=2), 5, 0.1)
    made = tap.tap(features, labels, C, steps=20, seed=4)
    same = text_classifier(features, labels, C, 20, learning_rate=1e-3, seed=4)
    assert torch.equal(made, same)
    other = tap.tap(features, labels, C, 20, learning_rate=5e-4, seed=4)
    assert not torch.equal(made, other)


# DrML


def test_centring_closes_a_constant_gap():
    """Texts and images are one geometry, shifted apart: only centring transfers."""
    centres = 0.3 * unit(C, D, seed=2)
    away = torch.zeros(D)
    away[0] = 2.0
    texts, labels = around(centres, 30, 0.05, seed=1)
    labels_of_images = labels
    texts = F.normalize(0.3 * texts + away, dim=-1)
    images = F.normalize(0.3 * around(centres, 30, 0.05, seed=5)[0] - away, dim=-1)
    settings = {"epochs": 60, "learning_rate": 1e-2}
    found = {
        centre: accuracy(
            drml.transfer(texts, labels, C, images, centre, **settings).logits(images),
            labels_of_images,
        )
        for centre in (False, True)
    }
    assert found[True] > 0.95
    assert found[False] < 0.6
    assert drml.gap(images, texts)[0] < -1.5


def test_means_of_images_come_from_the_pool_alone():
    texts, labels = around(unit(C, D, seed=2), 4, 0.1)
    pool = unit(20, D, seed=3)
    made = drml.transfer(texts, labels, C, pool, epochs=1)
    assert torch.allclose(made.image_mean, pool.mean(dim=0))
    test = unit(5, D, seed=4)
    alone = torch.cat([made.logits(row[None]) for row in test])
    assert torch.allclose(made.logits(test), alone, atol=1e-6)
    moved = F.normalize(test - pool.mean(dim=0), dim=-1)
    assert torch.allclose(made.logits(test), moved @ made.weight.T + made.bias)
    plain = drml.transfer(texts, labels, C, pool, renormalise=False, epochs=1)
    expected = (test - pool.mean(dim=0)) @ plain.weight.T + plain.bias
    assert torch.allclose(plain.logits(test), expected, atol=1e-6)
    bare = drml.transfer(texts, labels, C, pool, centre=False, epochs=1)
    assert torch.equal(bare.logits(test), test @ bare.weight.T + bare.bias)


def test_texts_are_centred_by_their_own_mean():
    texts, labels = around(unit(C, D, seed=2), 4, 0.1)
    made = drml.transfer(texts, labels, C, unit(20, D, seed=3), epochs=3)
    moved = F.normalize(texts - texts.mean(dim=0), dim=-1)
    bare = drml.transfer(moved, labels, C, texts, centre=False, epochs=3)
    assert torch.allclose(made.weight, bare.weight, atol=1e-6)
    assert torch.allclose(made.bias, bare.bias, atol=1e-6)


def test_transfer_starts_from_its_seed():
    texts, labels = around(unit(C, D, seed=2), 4, 0.1)
    starts = [
        drml.transfer(texts, labels, C, texts, epochs=0, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(starts[0].weight, starts[1].weight)
    assert not torch.equal(starts[0].weight, starts[2].weight)


def test_noise_and_missing_texts_in_transfer():
    texts, labels = around(unit(C, D, seed=2), 4, 0.1)
    one, other = (
        drml.transfer(texts, labels, C, texts, noise=noise, epochs=2)
        for noise in (0.0, 0.1)
    )
    assert not torch.equal(one.weight, other.weight)
    with pytest.raises(ValueError, match="leave 1 of 7 classes without"):
        drml.transfer(texts, labels, C + 1, texts)


# TENT


def test_tent_online_predicts_before_it_learns_and_minds_the_order(
    vit, make, photos, classes
):
    scale = vit.logit_scale
    features = vit.encode_images(vit.normalise(photos.images))
    plain = zero_shot(features, classes, scale)
    strong_sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True)
    settings = {"batch": 4, "optimizer": strong_sgd}
    one = tent.tent(make, classes, scale, photos.images, **settings)
    assert torch.allclose(one[:4], plain[:4], atol=1e-3)
    assert not torch.allclose(one[4:], plain[4:], atol=1e-2)
    back = tent.tent(make, classes, scale, photos.images.flip(0), **settings).flip(0)
    assert not torch.allclose(one[4:8], back[4:8], atol=1e-2)


def test_tent_against_literal_steps(vit, make, photos, classes):
    made = tent.tent(make, classes, vit.logit_scale, photos.images, batch=4)
    tower = ImageTower(vit, norms=True)
    parameters = [p for p in tower.parameters() if p.requires_grad]
    speed = [torch.zeros_like(p) for p in parameters]
    for start in (0, 4, 8):
        images = photos.images[start : start + 4]
        features = F.normalize(tower(images), dim=-1)
        logits = vit.logit_scale * features @ classes.T
        assert torch.allclose(made[start : start + 4], logits, atol=2e-4)
        p = logits.softmax(dim=-1)
        gradients = torch.autograd.grad(-(p * p.log()).sum(dim=-1).mean(), parameters)
        with torch.no_grad():
            for parameter, v, g in zip(parameters, speed, gradients, strict=True):
                v.mul_(0.9).add_(g)
                parameter -= 2.5e-4 * (g + 0.9 * v)


def test_tent_reset_forgets_batches_and_predicts_afterwards(vit, make, photos, classes):
    settings = {**tent.PROTOCOLS["per batch"], "batch": 4, "steps": 2}
    one = tent.tent(make, classes, vit.logit_scale, photos.images, **settings)
    alone = tent.tent(make, classes, vit.logit_scale, photos.images[4:8], **settings)
    assert torch.allclose(one[4:8], alone, atol=1e-4)
    before = tent.tent(make, classes, vit.logit_scale, photos.images[4:8], batch=4)
    after, start = selection.entropy(alone).mean(), selection.entropy(before).mean()
    assert after < start


def test_protocols_differ_in_all_they_are_known_to():
    online, per_batch = tent.PROTOCOLS["online"], tent.PROTOCOLS["per batch"]
    assert all(online[key] != per_batch[key] for key in online)
    weight = [nn.Parameter(torch.zeros(1))]
    assert online["optimizer"](weight).defaults["lr"] == 2.5e-4
    assert per_batch["optimizer"](weight).defaults["lr"] == 1e-3


def test_entropy_needs_the_logit_scale(vit, photos, classes):
    """Raw cosines are all near ln C and teach nothing."""
    features = vit.encode_images(vit.normalise(photos.images))
    scaled = selection.entropy(zero_shot(features, classes, vit.logit_scale)).mean()
    raw = selection.entropy(zero_shot(features, classes, 1)).mean()
    assert raw > 0.98 * math.log(C)
    assert scaled < 0.8 * math.log(C)


def test_batch_statistics_are_an_option_of_resnets(photos):
    backbone = clip.load("picto-rn", "picto", device="cpu")
    before = clip.fingerprint(backbone.model)
    classes = unit(C, backbone.embed_dim)
    running, batch = (
        tent.tent(
            partial(ImageTower, backbone), classes, 30.0, photos.images, batch_norm=b
        )
        for b in (False, True)
    )
    features = backbone.encode_images(backbone.normalise(photos.images))
    assert torch.allclose(running, zero_shot(features, classes, 30.0), atol=1e-3)
    assert not torch.allclose(batch, running, atol=0.1)
    assert clip.fingerprint(backbone.model) == before


def test_marginal_forgets_each_image(vit, make, photos, classes):
    rows = torch.arange(3)
    views = torch.stack([photos.views(rows, e, 0) for e in range(4)], dim=1)
    one = tent.marginal(make, classes, vit.logit_scale, views)
    back = tent.marginal(make, classes, vit.logit_scale, views.flip(0)).flip(0)
    assert torch.allclose(one, back, atol=1e-4)
    student = Student(ImageTower(vit), classes, vit.logit_scale)
    start = torch.stack([loop.logits(student, v[:1])[0] for v in views])
    assert not torch.allclose(one, start, atol=1e-3)
    still = partial(torch.optim.SGD, lr=0.0)
    plain = tent.marginal(make, classes, vit.logit_scale, views, optimizer=still)
    assert torch.allclose(plain, start, atol=1e-5)
    with pytest.raises(ValueError, match="keeps none of 4 views"):
        tent.marginal(make, classes, vit.logit_scale, views, rho=0.1)


# FixMatch


def test_mask_divides_by_all_images():
    logits, labels = normal(5, C), torch.tensor([2, NO_LABEL, 0, NO_LABEL, 5])
    log_p = logits.log_softmax(dim=-1)
    literal = -(log_p[0, 2] + log_p[2, 0] + log_p[4, 5]) / 5
    assert torch.allclose(masked_cross_entropy(logits, labels), literal)
    nobody = torch.full((5,), NO_LABEL)
    assert masked_cross_entropy(logits, nobody) == 0


def test_fixmatch_teaches_where_the_teacher_is_sure(vit, make, photos, classes):
    features = vit.encode_images(vit.normalise(photos.images))
    teacher = zero_shot(features, classes, vit.logit_scale)
    p, labels = teacher.softmax(dim=-1).max(dim=-1)
    settings = {"teacher": teacher, "epochs": 1, "batch": N, "threshold": 0.6}
    made = fixmatch(make, classes, vit.logit_scale, photos, **settings)
    assert torch.equal(made.labels[0], labels.masked_fill(p < 0.6, NO_LABEL))
    assert made.log["labelled"][0] == pytest.approx((p >= 0.6).double().mean())
    norms = {f"tower.visual.{n}" for n in norm_affines(vit.model.visual)}
    assert {n for n, q in made.model.named_parameters() if q.requires_grad} == norms
    with pytest.raises(ValueError, match=r"threshold 95 is no probability"):
        fixmatch(make, classes, vit.logit_scale, photos, threshold=95)


def test_a_teacher_exactly_as_sure_as_the_threshold_teaches(make, photos, classes):
    even = torch.zeros(N, 2)
    settings = {"teacher": even, "threshold": 0.5, "epochs": 1, "batch": N}
    made = fixmatch(make, classes, SCALE, photos, **settings)
    assert (made.labels == 0).all()


def test_threshold_never_fires_on_cosines(make, photos, classes):
    made = fixmatch(make, classes, 1.0, photos, epochs=1, batch=N)
    assert made.log["labelled"][0] == 0
    assert made.log["loss"][0] == 0


def test_fixmatch_can_teach_itself(vit, make, photos, classes):
    made = fixmatch(
        make, classes, vit.logit_scale, photos, threshold=0, epochs=2, batch=N
    )
    flipped = loop.chances(N, 0, 0) < 0.5
    weak = torch.where(
        flipped[:, None, None, None], photos.images.flip(-1), photos.images
    )
    features = vit.encode_images(vit.normalise(weak))
    assert torch.equal(made.labels[0], (features @ classes.T).argmax(dim=-1))


# CLIP-Adapter


def test_adapter_formula_and_its_last_rectifier():
    torch.manual_seed(0)
    classes, features = unit(C, D), 9 * normal(20, D, seed=1)
    model = Adapter(classes, SCALE, 0.2)
    hidden = (features @ model.down.weight.T).clamp(min=0)
    added = (hidden @ model.up.weight.T).clamp(min=0)
    mixed = 0.2 * added + 0.8 * features
    literal = SCALE * (mixed / mixed.norm(dim=-1, keepdim=True)) @ classes.T
    assert torch.allclose(model(features), literal, atol=1e-5)
    assert model.adapted(features).min() >= 0
    assert (model.adapted(features) == 0).any()
    assert model.down.weight.shape == (D // 4, D)
    off = Adapter(classes, SCALE, 0.0)
    plain = zero_shot(F.normalize(features, dim=-1), classes, SCALE)
    assert torch.allclose(off(features), plain, atol=1e-5)


def test_adapter_learns_the_teachers_labels():
    images, labels = around(unit(C, D, seed=2), 20, 0.1)
    wrong = unit(C, D, seed=8)
    made = clip_adapter(
        8 * images, labels, wrong, SCALE, ratio=0.8, epochs=60, batch=40
    )
    start = accuracy(zero_shot(images, wrong, SCALE), labels)
    assert accuracy(loop.logits(made.model, 8 * images), labels) > start + 0.2
    assert sum(p.numel() for p in made.model.parameters()) == 2 * D * D // 4
    with pytest.raises(ValueError, match="120 images, but 3 labels"):
        clip_adapter(images, labels[:3], wrong, SCALE)


# LoRA


def test_low_rank_parts_start_at_nothing_and_scale_by_root_rank(vit, photos):
    tower, plain = ImageTower(vit, lora_rank=4), ImageTower(vit)
    assert torch.allclose(tower(photos.images), plain(photos.images), atol=1e-5)
    tuned = {n: p for n, p in tower.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in tuned.values()) == 5 * 3 * 2 * 4 * 128
    attention = tower.visual.transformer.resblocks[2].attn
    part = attention.parametrizations.in_proj_weight[0]
    with torch.no_grad():
        part.up.copy_(normal(3, 128, 4))
    frozen = vit.model.visual.transformer.resblocks[2].attn.in_proj_weight
    for i in range(3):  # queries, keys, values
        rows = slice(128 * i, 128 * (i + 1))
        literal = frozen[rows] + part.up[i] @ part.down[i] / 2
        assert torch.allclose(attention.in_proj_weight[rows], literal, atol=1e-5)
    assert part.down.abs().max() <= 1 / math.sqrt(128)
    once = tower(photos.images)
    assert torch.equal(tower.train().eval()(photos.images), once)


def test_lora_learns_from_a_teachers_labels(vit, make, photos, classes):
    labels = torch.arange(N) % C
    before = clip.fingerprint(vit.model)
    settings = {"epochs": 4, "batch": 6, "learning_rate": 0.02}
    made = lora(make, classes, vit.logit_scale, photos, labels, **settings)
    assert made.log["loss"].iloc[-1] < made.log["loss"].iloc[0]
    assert torch.equal(made.labels[0], labels)
    assert clip.fingerprint(vit.model) == before
    with pytest.raises(ValueError, match="12 images, but 2 labels"):
        lora(make, classes, vit.logit_scale, photos, labels[:2])


# RLCF


def test_reward_loss_against_a_literal_loop():
    made, scores = 3 * normal(2, 4, C), normal(2, 4, C, seed=5).clamp(min=0)
    literal = torch.zeros(2, dtype=torch.float64)
    for b in range(2):
        for v in range(4):
            top = sorted(range(C), key=lambda c: -made[b, v, c].item())[:3]
            baseline = sum(scores[b, v, c].item() for c in top) / 3
            centred = [scores[b, v, c].item() - baseline for c in top]
            assert sum(centred) == pytest.approx(0, abs=1e-6)
            log_p = made[b, v].double().log_softmax(dim=-1)
            terms = zip(centred, top, strict=True)
            literal[b] += sum(-a * log_p[c] for a, c in terms) / 12
    found = rlcf.reward_loss(made, scores, samples=3)
    assert torch.allclose(found.double(), literal, atol=1e-6)
    two = made[..., :2], scores[..., :2]  # of fewer classes than samples, all
    assert torch.equal(rlcf.reward_loss(*two, 3), rlcf.reward_loss(*two, 2))


def test_rewards_are_clip_scores():
    views, classes = unit(2, 3, D), unit(C, D, seed=2)
    scores = rlcf.clip_scores(views.half(), classes.half())
    cosines = views.double() @ classes.double().T
    literal = 2.5 * torch.where(cosines > 0, cosines, 0.0)
    assert torch.allclose(scores.double(), literal, atol=5e-3)
    assert scores.min() == 0


def test_prompt_form_against_literal_steps():
    views, theirs, context = (
        unit(1, 64, D),
        unit(1, 64, 7, seed=3),
        normal(2, 4, seed=4),
    )
    reward_classes = unit(C, 7, seed=5)
    made = rlcf.prompt(views, theirs, text_tower, reward_classes, SCALE, context)

    logits = SCALE * views[0] @ text_tower(context).T
    kept = selection.entropy(logits).argsort(stable=True)[:6]
    at = context.double()
    mean = square = torch.zeros_like(at)
    scores = 2.5 * (theirs[0, kept] @ reward_classes.T).clamp(min=0).double()
    for step in range(1, 4):
        at = at.detach().requires_grad_()
        now = SCALE * views[0, kept].double() @ text_tower(at).T
        top = now.topk(3, dim=-1).indices
        rewards = scores.gather(1, top)
        advantage = rewards - rewards.mean(dim=1, keepdim=True)
        loss = -(advantage * now.log_softmax(dim=-1).gather(1, top)).mean()
        (g,) = torch.autograd.grad(loss, at)
        at, mean, square = tpt.adamw_step(
            at.detach(), g, mean, square, step, learning_rate=7e-3, weight_decay=5e-4
        )
    literal = SCALE * views[0, 0].double() @ text_tower(at).T
    assert torch.allclose(made[0].double(), literal, atol=1e-3)


def test_prompt_form_follows_the_reward():
    """An image gains where the reward's own favourite was in second place."""
    views = unit(6, 1, D, seed=7).expand(-1, 20, -1)
    context = normal(2, 4, seed=4)
    start = SCALE * views[:, 0] @ text_tower(context).T
    second = start.topk(2, dim=-1).indices[:, 1]
    reward_classes = torch.eye(C)
    theirs = F.one_hot(second, C).float()[:, None].expand(-1, 20, -1)
    tuned = rlcf.prompt(views, theirs, text_tower, reward_classes, SCALE, context)
    log_p = torch.stack([start, tuned]).log_softmax(dim=-1)
    assert ((log_p[1] - log_p[0]).gather(1, second[:, None]) > 0).all()
    with pytest.raises(ValueError, match="not of the same images and views"):
        rlcf.prompt(views, theirs[:, 1:], text_tower, reward_classes, SCALE, context)


def test_encoder_form_forgets_each_image(vit, make, photos, classes):
    rows = torch.arange(3)
    views = torch.stack([photos.views(rows, e, 0) for e in range(10)], dim=1)
    theirs, reward_classes = unit(3, 10, 7), unit(C, 7, seed=2)
    settings = {"rho": 0.2, "steps": 2, "learning_rate": 1e-4}
    call = partial(rlcf.encoder, make, classes, vit.logit_scale, **settings)
    one = call(views=views, reward_views=theirs, reward_class_features=reward_classes)
    back = call(
        views=views.flip(0),
        reward_views=theirs.flip(0),
        reward_class_features=reward_classes,
    )
    assert torch.allclose(one, back.flip(0), atol=1e-3)
    student = Student(ImageTower(vit), classes, vit.logit_scale)
    start = torch.stack([loop.logits(student, v[:1])[0] for v in views])
    assert not torch.allclose(one, start, atol=1e-2)
    tower = make(whole=True)
    assert all(p.requires_grad for p in tower.parameters())


def test_encoder_form_against_literal_steps(vit, make, photos, classes):
    """Each image with an AdamW of its own, so large a decay that it shows."""
    rows, scale = torch.arange(2), vit.logit_scale
    views = torch.stack([photos.views(rows, e, 0) for e in range(10)], dim=1)
    theirs, reward_classes = unit(2, 10, 7), unit(C, 7, seed=2)
    settings = {"learning_rate": 1e-3, "weight_decay": 20.0}
    judge = {"reward_views": theirs, "reward_class_features": reward_classes}
    made = rlcf.encoder(
        make, classes, scale, views=views, **judge, rho=0.2, steps=2, **settings
    )
    for i in range(2):
        student = Student(make(whole=True), classes, scale)
        tuned = [p for p in student.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(tuned, 1e-3, weight_decay=20.0)
        entropies = selection.entropy(loop.logits(student, views[i]))
        chosen = entropies.argsort()[:2]
        rewards = 2.5 * (theirs[i, chosen] @ reward_classes.T).clamp(min=0)
        for _ in range(2):
            log_p = student(views[i][chosen]).log_softmax(dim=-1)
            top = log_p.topk(3).indices
            reward = rewards.gather(1, top)
            advantage = reward - reward.mean(dim=1, keepdim=True)
            optimizer.zero_grad()
            (advantage * -log_p.gather(1, top)).mean().backward()
            optimizer.step()
        literal = loop.logits(student, views[i][:1])[0]
        assert torch.allclose(made[i], literal, atol=1e-3), i
    asked = inspect.signature(rlcf.encoder).parameters
    assert asked["weight_decay"].default == 5e-4
    assert asked["learning_rate"].default == 1e-5


def test_two_models_average_probabilities():
    one, other = 3 * normal(5, C), 3 * normal(5, C, seed=2)
    made = rlcf.two_models(one, other).exp()
    literal = (one.softmax(dim=-1) + other.softmax(dim=-1)) / 2
    assert torch.allclose(made, literal, atol=1e-6)
    assert torch.allclose(rlcf.two_models(one, one).exp(), one.softmax(dim=-1))


# The one loop


OPTIMIZERS = {  # of the papers' codes: (weight decay, momentum) of each group
    "upl": ("SGD", {(5e-4, 0.9)}),
    "clip_pr": ("Adam", {(3e-4, None)}),
    "fixmatch": ("AdamW", {(0.01, None), (0.0, None)}),
    "adapter": ("AdamW", {(0.01, None)}),
    "lora": ("AdamW", {(0.01, None)}),
}


@pytest.mark.parametrize("method", OPTIMIZERS)
def test_neighbours_decay_as_their_codes_do(method, vit, make, photos, classes):
    images, logits = unit(N, D), SCALE * normal(N, C, seed=3)
    labels, scale = logits.argmax(dim=-1), vit.logit_scale
    start, once = coop.random_start(2, 4), {"epochs": 2, "batch": N}
    runs = {
        "upl": partial(upl, images, logits, text_tower, SCALE, start),
        "clip_pr": partial(clip_pr, images, logits),
        "fixmatch": partial(fixmatch, make, classes, scale, photos),
        "adapter": partial(clip_adapter, images, labels, unit(C, D), SCALE),
        "lora": partial(lora, make, classes, scale, photos, labels),
    }
    seen = []
    hook = register_optimizer_step_pre_hook(lambda used, *_: seen.append(used))
    try:
        runs[method](**once)
    finally:
        hook.remove()
    groups = seen[0].param_groups
    found = {(group["weight_decay"], group.get("momentum")) for group in groups}
    assert (type(seen[0]).__name__, found) == OPTIMIZERS[method]


@pytest.mark.parametrize("method", [lora, fixmatch, lafter])
def test_towers_are_drawn_from_the_seed(method, vit, make, photos, classes):
    asked = []

    def tower(**options):
        asked.append(options["seed"])
        return make(**options)

    given = {lora: (torch.arange(N) % C,)}.get(method, ())
    given = (classes, photos) if method is lafter else (classes, SCALE, photos, *given)
    method(tower, *given, epochs=1, batch=N, seed=7)
    assert asked == [7]


@pytest.mark.parametrize("method", ["upl", "clip_pr", "fixmatch", "adapter", "lora"])
def test_neighbours_log_and_resume_alike(method, tmp_path, vit, make, photos, classes):
    images, logits = unit(N, D), SCALE * normal(N, C, seed=3)
    labels, scale = logits.argmax(dim=-1), vit.logit_scale
    start = coop.random_start(2, 4)
    runs = {
        "upl": partial(upl, images, logits, text_tower, SCALE, start, epochs=3),
        "clip_pr": partial(clip_pr, images, logits, epochs=3),
        "fixmatch": partial(fixmatch, make, classes, scale, photos, epochs=3),
        "adapter": partial(clip_adapter, images, labels, unit(C, D), SCALE, epochs=3),
        "lora": partial(lora, make, classes, scale, photos, labels, epochs=3),
    }
    call = partial(runs[method], batch=6)
    whole, calls, kept = call(), [], Checkpoint(tmp_path)

    def interrupt(model: nn.Module) -> dict:
        calls.append(model)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        call(checkpoint=kept, evaluate=interrupt)
    resumed = call(checkpoint=kept)
    columns = whole.log.columns.drop("seconds")
    assert {"loss", "agreement", "labelled", "effective_classes"} <= {*columns}
    assert resumed.log[columns].equals(whole.log[columns])
    assert torch.equal(resumed.labels, whole.labels)
    for one, other in zip(
        whole.model.parameters(), resumed.model.parameters(), strict=True
    ):
        assert torch.equal(one, other)


# Memory


@pytest.fixture
def watched(vit):
    """Image towers that note how many images at once have had a graph."""

    class Watched(ImageTower):
        graphs: ClassVar[list[int]] = []

        def forward(self, images: Tensor, prompted: bool = True) -> Tensor:
            if torch.is_grad_enabled():
                self.graphs.append(len(images))
            return super().forward(images, prompted)

    return Watched


IMAGE_METHODS = ["lafter", "fixmatch", "lora", "tent", "tent_reset"]
IMAGE_METHODS += ["marginal", "encoder"]


@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_batches_in_parts_give_the_results_of_whole_ones(
    method, watched, vit, photos, classes, monkeypatch
):
    make, scale, rows = partial(watched, vit), vit.logit_scale, torch.arange(2)
    views = torch.stack([photos.views(rows, e, 0) for e in range(5)], dim=1)
    sgd = {"optimizer": partial(torch.optim.SGD, lr=1e-2)}
    trains = {"epochs": 2, "batch": 5}
    labels = torch.arange(N) % C
    side, theirs = (make, classes, scale), (unit(2, 5, 7), unit(C, 7, seed=2))
    calls = {
        "lafter": partial(lafter, make, classes, photos, prompts=2, **trains),
        "fixmatch": partial(fixmatch, *side, photos, threshold=0.3, **trains),
        "lora": partial(lora, *side, photos, labels, **trains),
        "tent": partial(tent.tent, *side, photos.images, batch=5, **sgd),
        "tent_reset": partial(
            tent.tent, *side, photos.images, batch=5, steps=3, reset=True, **sgd
        ),
        "marginal": partial(tent.marginal, *side, views, steps=3, **sgd),
        "encoder": partial(rlcf.encoder, *side, views, *theirs, rho=1.0),
    }

    def run() -> tuple[Tensor, pd.DataFrame]:
        made = calls[method]()
        if isinstance(made, Tensor):
            return made, pd.DataFrame()
        return loop.logits(made.model, photos.images), made.log.drop(columns="seconds")

    whole, log = run()
    assert max(watched.graphs) == 5
    watched.graphs.clear()
    student = Student(ImageTower(vit, norms=True), classes)
    one = loop.graph_bytes(student, lambda: student(photos.images[:1]))
    monkeypatch.setattr(loop, "GRAPHS", 2.5 * loop.HEADROOM * one)
    parted, parted_log = run()
    assert {*watched.graphs} <= {1, 2}
    assert torch.allclose(parted, whole, atol=2e-3)
    assert not torch.equal(parted, whole)  # rounding tells that they took another way
    pd.testing.assert_frame_equal(parted_log, log, rtol=1e-3)


def test_batch_statistics_are_those_of_whole_batches_in_less_memory(
    photos, monkeypatch
):
    backbone = clip.load("picto-rn", "picto", device="cpu")
    make, classes = partial(ImageTower, backbone), unit(C, backbone.embed_dim)
    call = partial(tent.tent, make, classes, 30.0, photos.images, 5, batch_norm=True)
    whole = call()
    kept = []
    for recompute in (False, True):
        student = Student(make(norms=True), classes, 30.0)
        tent._use_batch_statistics(student, recompute)
        kept.append(loop.graph_bytes(student, partial(student, photos.images)))
    assert kept[1] < 0.5 * kept[0]
    monkeypatch.setattr(loop, "GRAPHS", kept[0] / 4)
    recomputed = []
    monkeypatch.setattr(
        tent, "checkpoint", lambda *a, **k: recomputed.append(1) or checkpoint(*a, **k)
    )
    assert torch.allclose(call(), whole, atol=1e-3)
    assert recomputed


def test_looks_without_graph_take_few_large_images_at_once():
    seen = []
    model = nn.Linear(3, 2)
    model.forward = lambda images: seen.append(len(images)) or images.flatten(1)[:, :2]
    for side, at_once in ((64, 100), (224, 8), (2000, 1)):
        seen.clear()
        loop.logits(model, torch.zeros(1, 3, side, side).expand(120, -1, -1, -1))
        assert max(seen) == at_once
        assert sum(seen) == 120
