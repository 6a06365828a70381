"""Every chapter runs in lower precision, and every method that tunes stays near."""

import dataclasses
from functools import partial

import pandas as pd
import pytest
import torch
from torch import Tensor

from helpers import data
from helpers.chapters import adaptation
from helpers.data.pool import pool
from helpers.methods import cocoop, coop, ctpt, rlcf, tent, tpt
from helpers.methods.fixmatch import fixmatch
from helpers.methods.lafter import lafter
from helpers.methods.lora import lora
from helpers.methods.upl import upl
from helpers.methods.zero_shot import zero_shot
from helpers.models import clip, template_prompts
from helpers.models.prompts import PromptTower
from helpers.models.visual import ImageTower
from helpers.study import main
from helpers.views.strong import strong
from picto import CLASS_NAMES

# A training of two steps on eight images: what the loop says of it is no surprise.
pytestmark = pytest.mark.filterwarnings("ignore:.*have collapsed:RuntimeWarning")

LOWER = ["bfloat16", "float16"]  # CPUs compute float16 slowly, and right
C, N, NEAR = (
    5,
    8,
    {"bfloat16": 0.2, "float16": 0.05},
)  # of logits that differ by 1 and more


@pytest.fixture(scope="module")
def full() -> clip.Backbone:
    return clip.load("picto-vit", "picto", device="cpu")


def results(backbone: clip.Backbone) -> dict[str, Tensor]:
    """What each method that tunes makes of the same few images."""
    dataset = data.load("picto-s", images=64).subset(range(N))
    seen = pool(dataset, backbone.crop, backbone.image_size, strong)
    names = CLASS_NAMES[:C]
    tower = PromptTower(backbone, names)
    side = [tower.features, backbone.logit_scale, tower.context]
    classes, scale = tower.features(tower.context), backbone.logit_scale
    views = torch.stack([seen.views(torch.arange(N), e, 0) for e in range(4)], dim=1)
    features = backbone.encode_images(backbone.normalise(views.flatten(0, 1)))
    features = features.unflatten(0, (N, 4))
    labels = torch.arange(N) % C
    logits = zero_shot(features[:, 0], classes, scale)
    make, brief = partial(ImageTower, backbone), {"epochs": 1, "batch": 4}
    text = adaptation.prepare(backbone, names, jacobian=True)
    conditional = cocoop.train(features, labels, *side, 2).model
    trained = {
        "lafter": lafter(make, classes, seen, prompts=2, **brief),
        "fixmatch": fixmatch(make, classes, scale, seen, logits, 0.0, **brief),
        "lora": lora(make, classes, scale, seen, labels, **brief),
        "upl": upl(features[:, 0], logits, *side, **brief),
    }
    found = {
        name: t.model(features[:, 0] if name == "upl" else seen.images).detach()
        for name, t in trained.items()
    }
    by_prompt = {
        "tpt": tpt.tpt(features, *side, rho=0.5),
        "tpt, jacobian": tpt.tpt(features, *side, rho=0.5, jacobian=text.jacobian),
        "ctpt": ctpt.ctpt(features, *side, rho=0.5),
        "rlcf prompt": rlcf.prompt(
            features, features, side[0], classes, *side[1:], rho=0.5
        ),
    }
    # What a step adds to all classes has no gradient but rounding, and cancels.
    found |= {name: x - x.mean(dim=1, keepdim=True) for name, x in by_prompt.items()}
    found |= {
        "coop": coop.train(features, labels, *side, 2).context,
        "cocoop": conditional.context,
        "tent": tent.tent(make, classes, scale, seen.images, batch=4),
        "marginal": tent.marginal(make, classes, scale, views),
        "rlcf encoder": rlcf.encoder(
            make, classes, scale, views, features, classes, rho=0.5
        ),
    }
    ((_, filled),) = template_prompts.features(backbone, ["a photo of {a}."], names)
    return found | {"templates": filled[0]}


@pytest.fixture(scope="module")
def exact(full) -> dict[str, Tensor]:
    return results(full)


@pytest.mark.parametrize("precision", LOWER)
def test_what_tunes_is_near_in_lower_precision(precision, full, exact):
    found = results(dataclasses.replace(full, precision=precision))
    for name, expected in exact.items():
        assert found[name].dtype == torch.float32, name
        assert found[name].isfinite().all(), name
        near = NEAR[precision] * expected.std()
        assert (found[name] - expected).abs().mean() < near, name
    assert not torch.equal(found["tpt"], exact["tpt"])


@pytest.mark.soak
@pytest.mark.parametrize(
    ("precision", "device"),
    [
        ("bfloat16", "cpu"),
        pytest.param(
            "float16",
            "cuda",
            marks=pytest.mark.skipif(
                not torch.cuda.is_available(), reason="float16 is for GPUs"
            ),
        ),
    ],
)
def test_the_smoke_study_runs_in(precision, device, tmp_path):
    given = ["-p", "precision", precision, "-p", "device", device]
    assert main(["run", "smoke", "--outputs", str(tmp_path), *given]) == 0
    found = pd.read_csv(tmp_path / "smoke" / "results.csv")
    assert found["settings"].str.contains(f'"precision": "{precision}"').all()
    assert {"tpt-preaugment", "lafter", "rlcf_encoder"} <= {*found["method"]}
