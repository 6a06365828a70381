"""CoOp and CoCoOp against literal oracles in float64, and their files."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods import cocoop, coop
from helpers.methods.cocoop import CoCoOp
from helpers.methods.zero_shot import zero_shot
from helpers.models import clip
from helpers.store import chunks, contexts

C, D, M, W = 5, 32, 3, 8
SCALE = 20.0


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(normal(*shape, seed=seed), dim=-1)


NAMES, MIX, OUT = normal(C, W, seed=11), normal(M, W, W, seed=12), normal(W, D, seed=13)


def toy_tower(context: Tensor, order: slice | list[int] = slice(None)) -> Tensor:
    """[..., M, W] -> [..., C, D]: context and class names meet in one hidden layer."""
    names, mix, out = (tensor.to(context) for tensor in (NAMES[order], MIX, OUT))
    told = torch.einsum("...mw,mwv->...v", context, mix)
    return F.normalize(torch.tanh(names + told[..., None, :]) @ out, dim=-1)


def toy_images(count: int, context: Tensor) -> tuple[Tensor, Tensor]:
    """Images around the classes as a context describes them, and their labels."""
    labels = torch.arange(count) % C
    noisy = toy_tower(context)[labels] + 0.1 * normal(count, D, seed=21)
    return F.normalize(noisy, dim=-1), labels


def literal_sgd(parameters, loss_of, epochs, steps):
    """SGD with momentum and decay as its definition has it; a rate per epoch."""
    speed = [torch.zeros_like(p) for p in parameters]
    for epoch in range(epochs):
        rate = 1e-5
        if epoch > 0:
            rate = 0.001 * (1 + math.cos(math.pi * (epoch - 1) / epochs))
        for _ in range(steps):
            leaves = [p.requires_grad_() for p in parameters]
            grads = torch.autograd.grad(loss_of(*leaves), leaves)
            speed = [
                0.9 * v + g + 5e-4 * p.detach()
                for v, g, p in zip(speed, grads, parameters, strict=True)
            ]
            parameters = [
                p.detach() - rate * v for p, v in zip(parameters, speed, strict=True)
            ]
    return parameters


def test_schedule_is_a_warm_up_epoch_and_a_late_cosine():
    rates = [coop.learning_rate(epoch, 50) for epoch in range(50)]
    assert rates[:2] == [1e-5, 2e-3]
    assert rates[26] == pytest.approx(1e-3)  # half way along the cosine
    assert rates[49] == pytest.approx(7.8853e-6, rel=1e-4)  # near zero, not at it
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=2e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for rate in rates[1:]:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        cosine.step()


def test_draws_are_epochs_without_the_incomplete_batch():
    generator = torch.Generator().manual_seed(0)
    epochs = [list(coop.draws(70, 7, 32, generator)) for _ in range(2)]
    for epoch in epochs:
        assert [len(rows) for rows, _ in epoch] == [32, 32]
        assert len(torch.cat([rows for rows, _ in epoch]).unique()) == 64
        assert torch.cat([views for _, views in epoch]).unique().tolist() == [*range(7)]
    (first, _), (second, _) = epochs[0][0], epochs[1][0]
    assert not torch.equal(first, second)
    ((rows, views),) = coop.draws(5, 1, 32, generator)
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4]
    assert views.tolist() == [0] * 5


def test_random_start_is_the_papers():
    start = coop.random_start(16, 512)
    assert start.shape == (16, 512)
    assert start.std().item() == pytest.approx(0.02, rel=0.03)
    assert abs(start.mean().item()) < 1e-3
    assert torch.equal(start, coop.random_start(16, 512))
    assert not torch.equal(start, coop.random_start(16, 512, seed=1))


def test_coop_against_literal_steps():
    images, labels = toy_images(10, normal(M, W, seed=1))
    start = coop.random_start(M, W)
    trained = coop.train(images, labels, toy_tower, SCALE, start, epochs=4)

    def loss(context: Tensor) -> Tensor:
        cosine = images.double() @ toy_tower(context).T
        chosen = torch.softmax(SCALE * cosine, dim=-1)[torch.arange(10), labels]
        return -chosen.log().mean()

    (expected,) = literal_sgd([start.double()], loss, epochs=4, steps=1)
    assert (expected - start).abs().max() > 1e-3  # it has moved
    assert (trained.context - expected).abs().max() < 1e-6
    assert trained.losses[0] == pytest.approx(loss(start.double()).item(), abs=1e-5)
    assert start.grad is None
    assert torch.equal(start, coop.random_start(M, W))


def test_coop_learns_what_a_start_does_not_know():
    truth = 0.3 * normal(M, W, seed=1)
    images, labels = toy_images(160, truth)
    seen, held_out = slice(0, 80), slice(80, 160)
    start = coop.random_start(M, W)
    trained = coop.train(
        images[seen], labels[seen], toy_tower, SCALE, start, epochs=40, batch=8
    )

    def accuracy(context: Tensor) -> float:
        logits = zero_shot(images[held_out], toy_tower(context), SCALE)
        return (logits.argmax(-1) == labels[held_out]).float().mean().item()

    assert accuracy(trained.context) > accuracy(start) + 0.05
    assert trained.losses[-1] < 0.7 * trained.losses[0]


def test_coop_is_a_function_of_its_arguments():
    images, labels = toy_images(40, normal(M, W, seed=1))
    start = coop.random_start(M, W)

    def run(features: Tensor, seed: int = 0) -> Tensor:
        torch.randn(3)  # the global generator has no say
        return coop.train(
            features, labels, toy_tower, SCALE, start, epochs=3, batch=8, seed=seed
        ).context

    plain = run(images)
    assert torch.equal(plain, run(images))
    assert not torch.equal(plain, run(images, seed=1))
    same_views = images[:, None].expand(-1, 4, -1)
    assert torch.equal(plain, run(same_views))
    half = images.half()
    assert torch.equal(run(half), run(half.float()))
    assert run(half).dtype == torch.float32


def test_an_epoch_draws_one_view_of_each_image():
    labels = torch.arange(6) % C
    views = unit(6, 4, D)
    met = []

    def tower(context: Tensor) -> Tensor:
        met.append(1)
        return toy_tower(context)

    start = coop.random_start(M, W)
    trained = coop.train(views, labels, tower, SCALE, start, epochs=30, batch=6)
    assert len(met) == 30  # a batch of all six per epoch
    generator = torch.Generator().manual_seed(0)
    first = next(coop.draws(6, 4, 6, generator))
    logits = zero_shot(views[first], toy_tower(start), SCALE)
    expected = F.cross_entropy(logits, labels[first[0]]).item()
    assert trained.losses[0] == pytest.approx(expected, abs=1e-5)


def test_order_of_classes_does_not_matter():
    images, labels = toy_images(40, normal(M, W, seed=1))
    order = [3, 0, 4, 1, 2]
    place = torch.tensor(order).argsort()
    start = coop.random_start(M, W)
    options = {"logit_scale": SCALE, "start": start, "epochs": 3, "batch": 8}
    plain = coop.train(images, labels, toy_tower, **options)
    moved = coop.train(images, place[labels], lambda v: toy_tower(v, order), **options)
    assert torch.allclose(plain.context, moved.context, atol=1e-6)


def test_one_class_leaves_nothing_to_learn_but_decay():
    images, start = unit(4, D), coop.random_start(M, W)
    trained = coop.train(
        images,
        torch.zeros(4, dtype=torch.int64),
        lambda context: toy_tower(context, [2]),
        SCALE,
        start,
        epochs=2,
    )
    assert trained.losses == [0.0, 0.0]
    shrunk = start - (1e-5 + 2e-3 * 1.9) * 5e-4 * start
    assert torch.allclose(trained.context, shrunk, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_features": unit(D)}, r"shape \[32\]"),
        ({"image_features": unit(0, D)}, r"shape \[0, 32\]"),
        ({"labels": torch.arange(3)}, r"\[3\] for 4 images"),
        ({"labels": torch.zeros(4)}, "torch.float32"),
        ({"labels": torch.tensor([0, 1, -1, 2])}, "label -1"),
        ({"labels": torch.tensor([0, 1, 5, 2])}, "label 5.* 5 classes"),
        ({"epochs": 1}, "1 epochs"),
        ({"batch": 0}, "batches of 0"),
        ({"start": torch.zeros(W)}, r"start of shape \[8\]"),
        ({"image_features": torch.full((4, D), math.nan)}, "not finite"),
    ],
)
@pytest.mark.parametrize("method", [coop, cocoop])
def test_what_does_not_fit_is_refused(method, change, message):
    arguments = {
        "image_features": unit(4, D),
        "labels": torch.arange(4),
        "text_features": toy_tower,
        "logit_scale": SCALE,
        "start": torch.zeros(M, W),
    }
    with pytest.raises(ValueError, match=message):
        method.train(**{**arguments, **change})


def literal_context(model: CoCoOp, feature: Tensor) -> Tensor:
    """One image's context [M, W] with the net as PyTorch's modules, in float64."""
    net = torch.nn.Sequential(
        torch.nn.Linear(D, D // 16), torch.nn.ReLU(), torch.nn.Linear(D // 16, W)
    ).double()
    tensors = [tensor.double() for tensor in model]
    net.load_state_dict(dict(zip(net.state_dict(), tensors[1:], strict=True)))
    return tensors[0] + net(feature.double()).detach()


def test_cocoop_in_a_batch_is_the_loop_over_images():
    model = cocoop.initial(coop.random_start(M, W), D)
    raw = 9 * normal(7, D, seed=3)
    directions = F.normalize(raw, dim=-1)
    for normalised, features in ((True, directions), (False, raw)):
        together = cocoop.contexts(model, raw, normalised=normalised)
        assert together.shape == (7, M, W)
        alone = torch.stack([literal_context(model, f) for f in features])
        assert (together - alone).abs().max() < 1e-5
        logits = cocoop.logits(model, raw, toy_tower, SCALE, normalised, chunk=3)
        for n, context in enumerate(alone):
            row = SCALE * toy_tower(context) @ directions[n].double()
            assert (logits[n] - row).abs().max() < 1e-4


def test_cocoop_shifts_all_tokens_of_an_image_alike():
    start = coop.random_start(M, W)
    model = cocoop.initial(start, D)
    shift = cocoop.contexts(model, unit(4, D)) - start
    assert torch.allclose(shift, shift[:, :1].expand_as(shift), atol=1e-6)
    assert (shift[0] - shift[1]).abs().max() > 1e-3
    still = model._replace(
        shift_weight=torch.zeros(W, D // 16), shift_bias=torch.zeros(W)
    )
    assert torch.equal(cocoop.contexts(still, unit(4, D)), start.expand(4, M, W))


def test_cocoop_reads_the_norm_only_where_it_is_told_to():
    model, raw = cocoop.initial(torch.zeros(M, W), D), 5 * unit(4, D)
    assert torch.allclose(
        cocoop.contexts(model, raw), cocoop.contexts(model, 3 * raw), atol=1e-6
    )
    longer = cocoop.contexts(model, 3 * raw, normalised=False)
    assert (cocoop.contexts(model, raw, normalised=False) - longer).abs().max() > 1e-2
    with pytest.raises(ValueError, match="normalised=False was given unit features"):
        cocoop.contexts(model, unit(4, D).half(), normalised=False)


def test_cocoop_first_weights_are_those_of_linear_layers():
    model = cocoop.initial(torch.zeros(4, 512), 1024)
    assert [tuple(t.shape) for t in model[1:]] == [(64, 1024), (64,), (512, 64), (512,)]
    for tensor, bound in zip(model[1:], [1 / 32, 1 / 32, 1 / 8, 1 / 8], strict=True):
        assert 0.9 * bound < tensor.abs().max() <= bound
        assert abs(tensor.mean()) < 0.2 * bound
    assert not torch.equal(
        model.shift_bias, cocoop.initial(model.context, 1024, 1).shift_bias
    )
    with pytest.raises(ValueError, match="width 15"):
        cocoop.initial(torch.zeros(4, 512), 15)


def test_cocoop_against_literal_steps():
    images, labels = toy_images(6, normal(M, W, seed=1))
    start = coop.random_start(M, W)
    trained = cocoop.train(
        images, labels, toy_tower, SCALE, start, epochs=3, batch=6, seed=4
    )

    def loss(context, hidden_weight, hidden_bias, shift_weight, shift_bias):
        losses = []
        for image, label in zip(images.double(), labels, strict=True):
            hidden = (hidden_weight @ image + hidden_bias).clamp(min=0)
            shifted = context + shift_weight @ hidden + shift_bias
            logits = SCALE * toy_tower(shifted) @ image
            losses.append(logits.logsumexp(0) - logits[label])
        return torch.stack(losses).mean()

    first = [tensor.double() for tensor in cocoop.initial(start, D, seed=4)]
    expected = literal_sgd(first, loss, epochs=3, steps=1)
    for tensor, truth, before in zip(trained.model, expected, first, strict=True):
        assert (truth - before).abs().max() > 1e-5
        assert (tensor - truth).abs().max() < 1e-6


def test_cocoop_learns_with_batches_of_one():
    images, labels = toy_images(40, 0.3 * normal(M, W, seed=1))
    start = coop.random_start(M, W)
    model, losses = cocoop.train(images, labels, toy_tower, SCALE, start, epochs=3)
    logits = cocoop.logits(model, images, toy_tower, SCALE)
    before = cocoop.logits(cocoop.initial(start, D), images, toy_tower, SCALE)
    assert F.cross_entropy(logits, labels) < 0.7 * F.cross_entropy(before, labels)
    assert losses[-1] < losses[0]
    again = cocoop.train(images, labels, toy_tower, SCALE, start, epochs=3).model
    assert all(map(torch.equal, model, again))


@pytest.fixture(scope="module")
def backbone() -> clip.Backbone:
    return clip.load("picto-rn", "picto", device="cpu")


def width(backbone: clip.Backbone) -> int:
    return backbone.model.token_embedding.weight.shape[1]


def literal_tower(backbone: clip.Backbone, names: list[str], tokens: int):
    """Full-length prompts with the context's place left to fill."""
    model = backbone.model
    ids = backbone.tokenize([f"{' '.join(['x'] * tokens)} {name}." for name in names])
    words = model.token_embedding(ids)

    def text_features(context: Tensor) -> Tensor:
        held = context.expand(len(names), -1, -1)
        x = torch.cat([words[:, :1], held, words[:, 1 + tokens :]], dim=1)
        x = model.transformer(x + model.positional_embedding, model.attn_mask)
        ends = model.ln_final(x)[torch.arange(len(names)), ids.argmax(-1)]
        return F.normalize(ends @ model.text_projection, dim=-1)

    return text_features


def test_coop_through_a_text_tower_leaves_its_weights_alone(backbone):
    names = ["cat", "dog", "house", "tree"]
    tower = literal_tower(backbone, names, 4)
    ids = backbone.tokenize(["a photo of a"])[0, 1:5]
    start = backbone.model.token_embedding.weight[ids]
    told = backbone.encode_texts([f"a photo of a {name}." for name in names])
    assert torch.allclose(tower(start), told, atol=1e-5)

    labels = torch.arange(16) % 4
    images = F.normalize(told[labels] + 1.5 * unit(16, backbone.embed_dim), dim=-1)
    before = clip.fingerprint(backbone.model)
    trained = coop.train(
        images, labels, tower, backbone.logit_scale, start, epochs=8, batch=8
    )
    assert trained.losses[-1] < trained.losses[0]
    assert clip.fingerprint(backbone.model) == before
    assert all(p.grad is None for p in backbone.model.parameters())


def official(path, tensors: dict, **more):
    """A checkpoint as the authors' training framework leaves it."""
    state = {
        **{name: tensor.half() for name, tensor in tensors.items()},
        "token_prefix": torch.zeros(7, 1, 4).half(),
        "token_suffix": torch.zeros(7, 72, 4).half(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "epoch": 50, "val_result": None, **more}, path)
    return path


def test_official_coop_checkpoint(backbone, tmp_path):
    context = coop.random_start(4, width(backbone))
    path = official(tmp_path / "prompt_learner/model.pth.tar-50", {"ctx": context})
    loaded = contexts.load(path, backbone)
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, context.half().float())


def test_checkpoint_with_objects_tells_how_to_convert_it(backbone, tmp_path):
    context = coop.random_start(4, width(backbone))
    scheduler = {"successor": SimpleNamespace(T_max=50)}
    path = official(tmp_path / "m.pth.tar-50", {"ctx": context}, scheduler=scheduler)
    with pytest.raises(ValueError, match=r"tensors only.*weights_only=False"):
        contexts.load(path, backbone)
    converted = tmp_path / "m.pth.tar-50.pt"
    c = torch.load(path, map_location="cpu", weights_only=False)
    torch.save({"state_dict": c["state_dict"]}, converted)
    assert torch.equal(contexts.load(converted, backbone), context.half().float())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 512), r"context \[16, 512\]; picto-rn needs .* \[M, 128\]"),
        ((7, 4, 128), r"context \[7, 4, 128\]; picto-rn needs one for all classes"),
        ((45, 128), r"context \[45, 128\].* M from 1 to 44"),
        ((128,), r"context \[128\]"),
    ],
)
def test_context_of_another_shape_is_refused(backbone, tmp_path, shape, message):
    path = official(tmp_path / "model.pth.tar-50", {"ctx": torch.zeros(shape)})
    with pytest.raises(ValueError, match=message) as refusal:
        contexts.load(path, backbone)
    assert str(path) in str(refusal.value)


def test_files_that_are_something_else(backbone, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        contexts.load(tmp_path / "nowhere.pt", backbone)
    path = official(tmp_path / "other.pt", {"weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"'ctx' is missing.*'weight'"):
        contexts.load(path, backbone)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ValueError, match="'ctx' is missing"):
        contexts.load(path, backbone)
    for name in ("noise.pt", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"\0" * 100)
        with pytest.raises(ValueError, match=name):
            contexts.load(tmp_path / name, backbone)


def test_own_file_comes_back_with_its_story(backbone, tmp_path):
    context = coop.random_start(16, width(backbone))
    path = tmp_path / "learned" / "coop.safetensors"
    contexts.save(path, {"context": context}, backbone, "few-shot", {"epochs": 50})
    assert torch.equal(contexts.load(path, backbone), context)
    assert [file.name for file in path.parent.iterdir()] == ["coop.safetensors"]
    _, told = chunks.load(path)
    assert told["backbone"] == backbone.key
    assert (told["dataset"], told["recipe"]) == ("few-shot", '{"epochs": 50}')
    other = clip.load("picto-rn", "random", device="cpu")
    with pytest.raises(ValueError, match=f"weights {other.fingerprint}"):
        contexts.load(path, other)


def test_conditional_contexts_from_both_kinds_of_file(backbone, tmp_path):
    model = cocoop.initial(torch.zeros(4, width(backbone)), backbone.embed_dim)
    ours = tmp_path / "cocoop.safetensors"
    contexts.save(ours, model._asdict(), backbone, "few-shot", {})
    loaded = CoCoOp(**contexts.load_conditional(ours, backbone))
    assert all(map(torch.equal, model, loaded))
    theirs = tmp_path / "model.pth.tar-10"
    names = ["ctx", "meta_net.linear1.weight", "meta_net.linear1.bias"]
    names += ["meta_net.linear2.weight", "meta_net.linear2.bias"]
    official(theirs, dict(zip(names, model, strict=True)))
    loaded = CoCoOp(**contexts.load_conditional(theirs, backbone))
    assert all(map(torch.equal, loaded, (t.half().float() for t in model)))
    with pytest.raises(ValueError, match="load_conditional"):
        contexts.load(theirs, backbone)
    official(theirs, {"ctx": model.context})
    with pytest.raises(ValueError, match="lacks hidden_weight"):
        contexts.load_conditional(theirs, backbone)
    wider = model._replace(hidden_weight=torch.zeros(8, 64))
    contexts.save(ours, wider._asdict(), backbone, "few-shot", {})
    with pytest.raises(ValueError, match=r"hidden_weight \[8, 64\].* needs \[8, 128\]"):
        contexts.load_conditional(ours, backbone)
