"""Prompt towers and prompt tuning against literal oracles in float64."""

import copy
import dataclasses
import itertools

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods.ctpt import ctpt, dispersion
from helpers.methods.tpt import adamw_step, path, revote, tpt, tpt_linear, tune
from helpers.models import clip
from helpers.models.prompts import PromptTower

NAMES = ["kite", "rocking chair", "apple", "hot air balloon", "ladder", "sun"]
WORDS = "a photo of a"
SCALE = 50.0


@pytest.fixture(scope="module")
def picto() -> clip.Backbone:
    return clip.load("picto-rn", "picto", device="cpu")


def shrunken(picto: clip.Backbone, build=open_clip.model.CLIP, **text) -> clip.Backbone:
    """A random CLIP of three text layers with GELU, in float64."""
    config = open_clip.get_model_config("picto-rn") | {"quick_gelu": False}
    config["text_cfg"] = config["text_cfg"] | {"layers": 3} | text
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(**config).double().eval().requires_grad_(False)
    return dataclasses.replace(picto, model=model)


@pytest.fixture(scope="module")
def exact(picto) -> clip.Backbone:
    """Picto's own weights in float64."""
    return dataclasses.replace(picto, model=copy.deepcopy(picto.model).double())


def literal_features(backbone: clip.Backbone, context: Tensor, names=NAMES) -> Tensor:
    """Unit features [C, D] of every prompt in full, as CoOp's code assembles them."""
    words = " ".join(["X"] * len(context))
    tokens = backbone.tokenize([f"{words} {name}." for name in names])
    tower = getattr(backbone.model, "text", backbone.model)
    x = tower.token_embedding(tokens)
    learned = context.expand(len(names), -1, -1)
    x = torch.cat([x[:, :1], learned, x[:, 1 + len(context) :]], dim=1)
    x = tower.transformer(x + tower.positional_embedding, attn_mask=tower.attn_mask)
    x = tower.ln_final(x)[torch.arange(len(names)), tokens.argmax(dim=-1)]
    return F.normalize(x @ tower.text_projection, dim=-1)


def some_views(features: Tensor, images: int, views: int, seed: int = 0) -> Tensor:
    """Views scattered about one class feature for each image, unit [B, V, D]."""
    generator = torch.Generator().manual_seed(seed)
    classes, width = features.shape
    labels = torch.randint(classes, (images, 1), generator=generator)
    noise = torch.randn(images, views, width, generator=generator) / width**0.5
    return F.normalize(features[labels].float() + 1.5 * noise, dim=-1)


def literal_tpt(views, text_features, context, steps=1, rho=0.1, weight=0.0):
    """TPT image by image: tuned context, selected views, logits of view 0."""
    for image, start in zip(views, context, strict=True):
        learned = torch.nn.Parameter(start.clone())
        optimiser = torch.optim.AdamW([learned], lr=5e-3)
        chosen = None
        for _ in range(steps):
            features = text_features(learned)
            logits = SCALE * image @ features.T
            if chosen is None:
                p = logits.softmax(-1)
                chosen = (-(p * p.log()).sum(-1)).argsort()[: int(rho * len(image))]
            mean = logits[chosen].softmax(-1).mean(0)
            loss = -(mean * mean.log()).sum()
            centre = features.mean(0)
            loss = loss - weight * (features - centre).norm(dim=-1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            yield learned.data, chosen, SCALE * image[0] @ text_features(learned).T


def toy(context: Tensor) -> Tensor:
    """A small smooth tower: contexts [..., 2, 3] -> unit features [..., 5, 4]."""
    weights = torch.linspace(-80, 80, 120, dtype=context.dtype).sin().view(6, 20)
    features = (context.flatten(-2) @ weights).unflatten(-1, (5, 4))
    apart = torch.eye(5, 4).to(context)
    return F.normalize(1 + 0.4 * apart + 0.3 * torch.tanh(features), dim=-1)


def toy_case(images=7, views=20) -> tuple[Tensor, Tensor]:
    context = torch.linspace(-0.3, 0.4, 6, dtype=torch.float64).view(2, 3)
    return some_views(toy(context), images, views).double(), context


# The tower


@pytest.mark.parametrize("name", ["picto", "shrunken", "custom"])
def test_packed_prompts_are_the_full_prompts(picto, name):
    backbone = {
        "picto": picto,
        "shrunken": shrunken(picto),
        "custom": shrunken(picto, open_clip.model.CustomTextCLIP),
    }[name]
    prompts = [f"{WORDS} {name}." for name in NAMES]
    tower = PromptTower(backbone, NAMES, WORDS)
    encoded = clip.encode_tokens(backbone.model, backbone.tokenize(prompts))
    expected = F.normalize(encoded, dim=-1)
    assert torch.allclose(tower.features(tower.context), expected, atol=1e-6)


def test_learned_contexts_and_their_gradients_are_exact(picto):
    backbone = shrunken(picto)
    tower = PromptTower(backbone, NAMES, 3)
    assert tower.context.shape == (3, 128)
    assert not tower.context.any()
    generator = torch.Generator().manual_seed(0)
    contexts = 0.1 * torch.randn(2, 2, 3, 128, generator=generator).double()
    contexts.requires_grad_()
    features = tower.features(contexts)
    expected = [literal_features(backbone, c) for c in contexts.flatten(0, 1)]
    expected = torch.stack(expected).unflatten(0, (2, 2))
    assert torch.allclose(features, expected, atol=1e-12)
    onto = torch.randn(features.shape, generator=generator).double()
    (gradient,) = torch.autograd.grad(features, contexts, onto)
    (literal,) = torch.autograd.grad(expected, contexts, onto)
    assert torch.allclose(gradient, literal, atol=1e-10)
    assert literal.abs().max() > 1e-3


def test_jacobian_is_every_gradient(picto):
    backbone = shrunken(picto, width=32, heads=2, layers=2)
    tower = PromptTower(backbone, ["sun", "hot air balloon", "sun"], "photo of")
    context = tower.context.detach()
    jacobian = tower.jacobian(context)
    expected = torch.func.jacrev(tower.features)(context)
    assert torch.allclose(jacobian, expected, atol=1e-12)
    assert expected.abs().max() > 1e-3
    assert tower.jacobian_bytes == jacobian.numel() * 4


def test_names_may_come_in_any_order_and_twice(picto):
    context = PromptTower(picto, NAMES).context
    features = PromptTower(picto, NAMES).features(context)
    order = [3, 0, 5, 3, 2]
    tower = PromptTower(picto, [NAMES[i] for i in order])
    assert torch.allclose(tower.features(context), features[order], atol=1e-6)
    assert torch.equal(tower.features(context)[0], tower.features(context)[3])


def test_a_tower_costs_the_model_nothing_and_leaves_it_alone(picto):
    before = clip.fingerprint(picto.model)
    tower = PromptTower(picto, NAMES)
    views = some_views(tower.features(tower.context), 2, 20)
    tpt(views, tower.features, SCALE, tower.context)
    tower.jacobian(tower.context)
    assert clip.fingerprint(picto.model) == before
    assert all(p.grad is None for p in picto.model.parameters())


def test_lower_precision_stays_inside_the_tower(picto):
    half = dataclasses.replace(picto, precision="bfloat16")
    tower = PromptTower(half, NAMES)
    exact = PromptTower(picto, NAMES).features(tower.context)
    features = tower.features(tower.context)
    assert features.dtype == tower.context.dtype == torch.float32
    assert not torch.equal(features, exact)
    assert torch.allclose(features, exact, atol=0.02)
    views = some_views(features, 2, 20)
    assert tpt(views, tower.features, SCALE, tower.context).isfinite().all()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_jacobian_in_lower_precision_is_near_the_exact_one(picto, precision):
    exact = PromptTower(picto, NAMES)
    half = PromptTower(dataclasses.replace(picto, precision=precision), NAMES)
    expected, found = (tower.jacobian(tower.context) for tower in (exact, half))
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_gradients_of_sure_images_do_not_underflow_in_float16(picto):
    half = dataclasses.replace(picto, precision="float16")
    gradients = []
    for backbone in (picto, half):
        tower = PromptTower(backbone, NAMES)
        start = tower.context.repeat(2, 1, 1).requires_grad_()
        size = torch.tensor([1.0, 1e-9])[:, None, None]  # of an unsure, a sure image
        onto = size * tower.features(start).detach().flip(1)
        gradients += torch.autograd.grad(tower.features(start), start, onto)
    exact, found = gradients
    error = (found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert error.max() < 0.02
    none = torch.zeros(2, len(NAMES), tower.embed_dim)
    assert not torch.autograd.grad(tower.features(start), start, none)[0].any()


@pytest.mark.parametrize("contexts", [1, 5])
def test_memory_is_told_beforehand(picto, contexts):
    tower = PromptTower(picto, NAMES)
    kept = {}
    keep = torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    )
    with keep:
        start = tower.context.repeat(contexts, 1, 1).requires_grad_()
        features = tower.features(start)
    weights = {p.untyped_storage().data_ptr() for p in picto.model.parameters()}
    graph = sum(
        t.untyped_storage().nbytes() for p, t in kept.items() if p not in weights
    )
    told = tower.peak_bytes(contexts, gradient=True)
    assert features.requires_grad
    assert graph < told < 4 * graph
    assert tower.peak_bytes(contexts) < told


@pytest.mark.parametrize(
    ("names", "context", "message"),
    [
        ([], WORDS, "at least one"),
        ("kite", WORDS, "give a list"),
        (NAMES, 0, "from 1 on"),
        (NAMES, "  ", "give words"),
        (["kite " * 60], WORDS, "at most 48"),
        (NAMES, 47, "at most 48"),
    ],
)
def test_impossible_prompts_are_refused(picto, names, context, message):
    with pytest.raises(ValueError, match=message):
        PromptTower(picto, names, context)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"pool_type": "last"}, "not causal, or is not read at the end"),
        ({"no_causal_mask": True}, "not causal, or is not read at the end"),
        ({"embed_cls": True}, "not causal, or is not read at the end"),
        ({"qk_norm": True}, "CustomResidualAttentionBlock"),
    ],
)
def test_other_towers_are_refused(picto, text, message):
    backbone = shrunken(picto, open_clip.model.CustomTextCLIP, **text)
    with pytest.raises(ValueError, match=message):
        PromptTower(backbone, NAMES)


def test_contexts_of_another_shape_are_refused(picto):
    tower = PromptTower(picto, NAMES, 4)
    with pytest.raises(ValueError, match="4 tokens, width 128"):
        tower.features(torch.zeros(2, 3, 128))
    with pytest.raises(ValueError, match=r"takes \[4 tokens"):
        tower.jacobian(torch.zeros(1, 4, 128))


# Tuning


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_tpt_is_the_literal_algorithm(exact, steps, own):
    tower = PromptTower(exact, NAMES, WORDS)
    views = some_views(tower.features(tower.context), 3, 40).double()
    context = tower.context
    if own:  # as CoCoOp's, one for each image
        generator = torch.Generator().manual_seed(2)
        shift = 0.01 * torch.randn(3, 1, 128, generator=generator).double()
        context = context + shift
    starts = context.expand(3, -1, -1)
    tuned = tune(views, tower.features, SCALE, context, steps=steps, batch=2)
    logits = tpt(views, tower.features, SCALE, context, steps=steps, batch=2)
    oracle = literal_tpt(views, lambda c: literal_features(exact, c), starts, steps)
    for i, (at, chosen, expected) in enumerate(oracle):
        assert tuned.selected[i].tolist() == chosen.tolist()
        assert torch.allclose(tuned.context[i], at, atol=1e-8)
        assert torch.allclose(logits[i], expected, atol=1e-6)
    untuned = SCALE * views[:, 0] @ tower.features(tower.context).T
    assert (logits - untuned).abs().max() > 0.1


def test_float32_does_as_well(picto, exact):
    """What runs in practice; a sign of a vanishing coordinate may turn, no more."""
    tower = PromptTower(picto, NAMES, WORDS)
    views = some_views(tower.features(tower.context), 4, 40)
    logits = tpt(views, tower.features, SCALE, tower.context)
    tuned = tune(views, tower.features, SCALE, tower.context)
    exactly = PromptTower(exact, NAMES, WORDS)
    doubles = (views.double(), exactly.features, SCALE, exactly.context)
    reference = tune(*doubles)
    assert logits.dtype == tuned.context.dtype == torch.float32
    assert tuned.selected.equal(reference.selected)
    firm = reference.gradient.abs() > 1e-5
    assert firm.double().mean() > 0.5
    gap = (tuned.context.double() - reference.context).abs()
    assert gap[firm].max() < 1e-6
    assert torch.allclose(logits.double(), tpt(*doubles), atol=2e-3)


def test_marginal_entropy_of_the_confident_views():
    """Rows 2 and 0 are the surest (0 and 1 tie), then all four."""
    rows = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [5.0, 0, 0], [0, 0, 0]])[None]

    def identity(context: Tensor) -> Tensor:
        return torch.eye(3) + 0 * context.sum((-2, -1))[..., None, None]

    for rho, expected, selected in ((0.5, 0.431495, [2, 0]), (1.0, 0.963776, None)):
        tuned = tune(rows, identity, 1.0, torch.ones(1, 1), rho=rho)
        assert tuned.losses.item() == pytest.approx(expected, abs=1e-6)
        assert selected in (None, tuned.selected[0].tolist())


def test_the_first_step_is_a_sign_step():
    views, context = toy_case()
    tuned = tune(views, toy, SCALE, context)
    large = tuned.gradient.abs() > 1e-4
    assert large.float().mean() > 0.5
    step = context * (1 - 5e-3 * 1e-2) - 5e-3 * tuned.gradient.sign()
    assert torch.allclose(tuned.context[large], step[large], atol=1e-6)


def test_adamw_is_torchs():
    generator = torch.Generator().manual_seed(0)
    at = torch.randn(4, 3, generator=generator)
    parameter = torch.nn.Parameter(at.clone())
    optimiser = torch.optim.AdamW([parameter], lr=5e-3)
    mean = square = torch.zeros_like(at)
    for step in range(1, 5):
        gradient = 10.0**-step * torch.randn(4, 3, generator=generator)
        parameter.grad = gradient
        optimiser.step()
        at, mean, square = adamw_step(at, gradient, mean, square, step)
    assert torch.allclose(at, parameter, atol=1e-7)


@pytest.mark.parametrize("batch", [1, 3, 100])
@pytest.mark.parametrize("steps", [1, 2])
def test_an_image_does_not_depend_on_its_company(batch, steps):
    views, context = toy_case(images=40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    how = {"steps": steps, "batch": batch}
    together = tpt(views, toy, SCALE, context, **how)
    shuffled = tpt(views[order], toy, SCALE, context, **how)
    alone = torch.cat([tpt(v, toy, SCALE, context, **how) for v in views.split(1)])
    assert torch.allclose(together[order], shuffled, atol=1e-10)
    assert torch.allclose(together, alone, atol=1e-10)


def test_further_steps_keep_the_selected_views():
    views, context = toy_case()
    once, often = (tune(views, toy, SCALE, context, steps=n) for n in (1, 30))
    assert torch.equal(once.selected, often.selected)
    assert often.losses.shape == (7, 30)
    assert (often.losses[:, -1] < often.losses[:, 0]).all()
    expected = literal_tpt(views, toy, context.expand(7, -1, -1), 30)
    logits = tpt(views, toy, SCALE, context, steps=30)
    assert torch.allclose(logits, torch.stack([e[2] for e in expected]), atol=1e-6)
    again = tune(views, toy, SCALE, often.context)
    assert not torch.equal(again.selected, once.selected)  # freezing does matter


@pytest.mark.parametrize("batch", [1, 3])
def test_a_path_has_what_every_number_of_steps_gives(batch):
    views, context = toy_case(images=40)
    how = {"batch": batch, "learning_rate": 0.03, "rho": 0.2}
    made = path(views, toy, SCALE, context, steps=3, **how)
    zero_shot = SCALE * views[:, 0] @ toy(context).T
    expected = [tpt(views, toy, SCALE, context, steps=n, **how) for n in (1, 2, 3)]
    assert torch.allclose(made, torch.stack([zero_shot, *expected], 1), atol=1e-9)
    assert (made.diff(dim=1).abs().amax(dim=(0, 2)) > 0.01).all()  # each step counts
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled = path(views[order], toy, SCALE, context, steps=3, **how)
    assert torch.allclose(shuffled, made[order], atol=1e-9)


def test_the_jacobian_changes_the_cost_only():
    views, context = toy_case(images=40)
    jacobian = torch.func.jacrev(toy)(context)
    for steps in (1, 3):
        plain = tune(views, toy, SCALE, context, steps=steps)
        quick = tune(views, toy, SCALE, context, steps=steps, jacobian=jacobian)
        for ours, theirs in zip(quick, plain, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-10)


def test_linear_tpt_is_the_first_order_of_tpt():
    views, context = toy_case(images=40)
    jacobian = torch.func.jacrev(toy)(context)
    zero_shot = SCALE * views[:, 0] @ toy(context).T

    def errors(learning_rate: float) -> tuple[float, float]:
        how = {"learning_rate": learning_rate}
        exact = tpt(views, toy, SCALE, context, **how)
        linear = tpt_linear(views, toy, SCALE, context, jacobian, **how)
        return (linear - exact).norm().item(), (exact - zero_shot).norm().item()

    (error, moved), (smaller_error, _) = errors(5e-3), errors(5e-4)
    assert error < 0.05 * moved
    assert smaller_error == pytest.approx(error / 100, rel=0.2)  # of second order
    with pytest.raises(ValueError, match="one step"):
        tpt_linear(views, toy, SCALE, context, jacobian, steps=2)


def test_revote_selects_again_with_the_tuned_context():
    views, context = toy_case()
    log_q = revote(views, toy, SCALE, context, rho=0.3, batch=3)
    oracle = literal_tpt(views, toy, context.expand(7, -1, -1), rho=0.3)
    for image, (at, _, _), ours in zip(views, oracle, log_q, strict=True):
        p = (SCALE * image @ toy(at).T).softmax(-1)
        surest = (-(p * p.log()).sum(-1)).argsort()[:6]
        assert torch.allclose(ours.exp(), p[surest].mean(0), atol=1e-9)


def test_ctpt_is_the_literal_algorithm_and_spreads_the_classes():
    views, context = toy_case()
    starts = context.expand(7, -1, -1)
    for weight, steps in itertools.product((20.0, 1e3), (1, 2)):
        logits = ctpt(views, toy, SCALE, context, weight, steps=steps)
        oracle = literal_tpt(views, toy, starts, steps, weight=weight)
        expected = torch.stack([e[2] for e in oracle])
        assert torch.allclose(logits, expected, atol=1e-7)
    none = ctpt(views, toy, SCALE, context, spread_weight=0.0)
    assert torch.allclose(none, tpt(views, toy, SCALE, context))

    spread = tune(views, toy, SCALE, context, loss=lambda z, t: -dispersion(t))
    assert (dispersion(toy(spread.context)) > dispersion(toy(context))).all()


def test_dispersion_is_the_mean_distance_from_the_mean():
    assert dispersion(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])) == 1
    assert dispersion(torch.tensor([[0.6, 0.8]])) == 0


def test_edges():
    context = torch.full((2, 3), 0.1)
    views = some_views(toy(context), 2, 1)
    one_view = tpt(views.half(), toy, SCALE, context, rho=1.0)
    assert one_view.shape == (2, 5)
    assert one_view.dtype == torch.float32

    def one_class(context: Tensor) -> Tensor:
        return toy(context)[..., :1, :]

    tuned = tune(views, one_class, SCALE, context, rho=1.0)
    assert not tuned.losses.any()  # nothing to be unsure about: only the decay acts
    assert torch.allclose(tuned.context, context * (1 - 5e-5), atol=1e-7)
    tied = tune(views[:, [0] * 20], toy, SCALE, context)
    assert tied.selected.tolist() == [[0, 1]] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": 0.04}, "rho"),
        ({"rho": 1.2}, "rho"),
        ({"steps": 0}, "steps 0"),
        ({"batch": 0}, "batch 0"),
        ({"context": torch.zeros(2, 3).half()}, "float32"),
        ({"context": torch.zeros(3, 2, 3)}, r"\[7, M, W\]"),
        ({"context": torch.full((2, 3), torch.nan)}, "context holds NaN"),
        ({"views": torch.zeros(20, 4)}, r"\[B, V, D\]"),
        ({"views": torch.full((7, 20, 4), torch.nan)}, "views hold NaN"),
        ({"jacobian": torch.zeros(5, 4, 3, 3)}, "jacobian of shape"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    views, context = toy_case()
    given = {"views": views, "context": context.float()} | change
    with pytest.raises(ValueError, match=message):
        tpt(text_features=toy, logit_scale=SCALE, **given)
