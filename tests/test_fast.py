"""Fast image towers give open_clip's features, and leave open_clip's model alone."""

import copy
import dataclasses

import open_clip
import pytest
import torch
from torch import nn

from helpers.models import clip, fast

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
RESNET = {"image_size": 64, "layers": [2, 1, 2, 1], "width": 16, "head_width": 32}
VIT = {"image_size": 48, "patch_size": 16, "width": 64, "head_width": 16, "layers": 3}


def narrow(vision: dict, quick_gelu: bool = True, **options) -> nn.Module:
    """A small CLIP whose every weight and statistic is random, none at its default."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(24, vision, TEXT, quick_gelu=quick_gelu, **options)
    norms = (nn.BatchNorm2d, nn.LayerNorm)
    for module in model.modules():
        for name, value in [*module.named_parameters(recurse=False)]:
            if isinstance(module, norms) or name.endswith("bias"):
                shift = 1.0 if name == "weight" else 0.0
                value.data.normal_(shift, 0.3, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.3, 3.0, generator=generator)
    return model.eval()


def pictures(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, size, size, generator=generator)


def distance(features: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest relative error of a row."""
    difference = (features.double() - expected.double()).norm(dim=-1)
    return float((difference / expected.double().norm(dim=-1)).max())


@pytest.mark.parametrize("count", [1, 3, 101])  # 101: more than a chunk of either
@pytest.mark.parametrize(
    ("vision", "quick_gelu"),
    [
        (RESNET, True),
        (RESNET | {"image_size": 96, "head_width": 64}, True),
        (VIT, True),
        (VIT, False),
        (VIT | {"layers": 1, "ls_init_value": 0.5, "no_ln_pre": True}, True),
        (VIT | {"final_ln_after_pool": True}, True),
        (VIT | {"patch_dropout": 0.5, "mlp_ratio": 2.0}, True),
    ],
)
def test_features_are_open_clips(vision, quick_gelu, count, monkeypatch):
    monkeypatch.setattr(fast, "CHUNK_PIXELS", 40 * vision["image_size"] ** 2)
    model = narrow(vision, quick_gelu)
    images = pictures(count, vision["image_size"])
    with torch.no_grad():
        expected = model.double().encode_image(images.double())
    features = fast.image_encoder(model.float())(images)
    assert features.dtype == torch.float32
    assert distance(features, expected) < 1e-5


def test_the_embedded_weights_see_the_same():
    backbone = clip.load("picto-rn", "picto", device="cpu")
    images = pictures(5, 64)
    with torch.no_grad():
        expected = backbone.model.encode_image(images, normalize=True)
    assert distance(backbone.encode_images(images), expected) < 1e-5


def test_every_batch_gives_an_image_the_same_features(monkeypatch):
    model, images = narrow(RESNET), pictures(7, 64)
    whole = fast.image_encoder(model)(images)
    monkeypatch.setattr(fast, "CHUNK_PIXELS", 1)  # then one image at a time
    alone = fast.image_encoder(model)(images)
    assert distance(alone, whole) < 1e-5
    assert fast.image_encoder(model)(images[:0]).shape == (0, 24)


def test_a_broken_image_breaks_no_other():
    images = pictures(4, 64)
    expected = fast.image_encoder(narrow(RESNET))(images)
    images[2] = float("nan")
    features = fast.image_encoder(narrow(RESNET))(images)
    assert features[2].isnan().all()
    assert distance(features[[0, 1, 3]], expected[[0, 1, 3]]) < 1e-5


@pytest.mark.parametrize("vision", [RESNET, VIT])
def test_the_model_is_untouched(vision):
    model = narrow(vision).requires_grad_(True)
    before, modules = clip.fingerprint(model), [*model.modules()]
    features = fast.image_encoder(model)(pictures(3, vision["image_size"]))
    assert clip.fingerprint(model) == before
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
    assert not features.requires_grad
    model.encode_image(pictures(3, vision["image_size"])).sum().backward()
    assert model.visual.conv1.weight.grad.abs().sum() > 0


def test_running_statistics_are_used_whatever_the_mode():
    model, images = narrow(RESNET), pictures(3, 64)
    expected = fast.image_encoder(model)(images)
    statistics = model.visual.bn1.running_mean.clone()
    assert torch.equal(fast.image_encoder(model.train())(images), expected)
    assert torch.equal(model.visual.bn1.running_mean, statistics)
    assert model.visual.training


@pytest.mark.parametrize(
    "vision",
    [
        VIT | {"pool_type": "avg"},
        VIT | {"attentional_pool": True},
        VIT | {"block_type": "custom", "qk_norm": True},
    ],
)
def test_other_towers_are_left_to_open_clip(vision):
    model, images = narrow(vision), pictures(3, 48)
    with torch.no_grad():
        expected = model.encode_image(images)
    features = fast.image_encoder(model)(images)
    assert torch.equal(features, expected)
    assert not features.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vision", [RESNET, VIT])
def test_half_precision_is_as_near_as_open_clips(vision, dtype):
    """Autocast rounds every product, in our order as in open_clip's."""
    model, images = narrow(vision), pictures(6, vision["image_size"])
    with torch.no_grad():
        exact = model.encode_image(images)
        with torch.autocast("cpu", dtype):
            theirs = model.encode_image(images)
            ours = fast.image_encoder(model)(images)
    assert ours.dtype == theirs.dtype == dtype
    assert 0 < distance(ours, exact) < 1.5 * distance(theirs, exact)


def test_a_backbone_builds_its_encoder_once_and_for_its_own_model():
    backbone = clip.load("picto-rn", "random", device="cpu")
    images = pictures(2, 64)
    first = backbone.encode_images(images)
    assert backbone._encode_image is backbone._encode_image
    other = copy.deepcopy(backbone.model)
    other.visual.attnpool.c_proj.bias.data += 1.0
    replaced = dataclasses.replace(backbone, model=other)
    assert distance(replaced.encode_images(images), first) > 0.1
    assert torch.equal(backbone.encode_images(images), first)
