"""LaFTer, what it tunes, what it may see, and the loop that trains it."""

import gc
import math
import warnings
import weakref
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn

from helpers.data.dataset import Dataset, Pixels
from helpers.data.pool import Pool, held_out, pool, protocol, twins
from helpers.methods import lafter as method
from helpers.methods import training
from helpers.methods.lafter import ABLATIONS, lafter, text_classifier
from helpers.methods.training import Step, Student
from helpers.models import clip
from helpers.models.visual import ImageTower, norm_affines, tuned_share
from helpers.store.checkpoints import Checkpoint
from helpers.views import strong
from helpers.views.crop_flip import random_box
from picto import splits

C, N, SIDE = 6, 12, 64
FIGURES = ["loss", "agreement", "labelled", "effective_classes", "student_norm"]


@pytest.fixture(scope="module")
def vit() -> clip.Backbone:
    return clip.load("picto-vit", "picto", device="cpu")


@pytest.fixture(scope="module")
def resnet() -> clip.Backbone:
    return clip.load("picto-rn", "picto", device="cpu")


@pytest.fixture(scope="module")
def photos() -> Pool:
    """Twelve pictures of the embedded world, as a pool."""
    return pool(data_of("picto"), crop, SIDE, strong.strong)


@pytest.fixture(scope="module")
def weight() -> Tensor:
    return 0.3 * normal(C, 128, seed=7)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def crop(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def data_of(split: str, count: int = N) -> Dataset:
    pictures = splits.images(split, range(count))
    ids = tuple(f"{split}/{i}" for i in range(count))
    names = tuple(f"class {c}" for c in range(C))
    return Dataset(split, ids, np.arange(count) % C, names, Pixels(pictures))


def run(backbone: clip.Backbone, weight: Tensor, photos: Pool, **changes):
    settings = {"prompts": 3, "epochs": 2, "batch": 5, **changes}
    return lafter(partial(ImageTower, backbone), weight, photos, **settings)


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


# The text classifier


def texts(per_class: int = 20, classes: int = C) -> tuple[Tensor, Tensor]:
    """Unit features around a centre for each class, as texts about it would be."""
    labels = torch.arange(classes).repeat_interleave(per_class)
    spread = 0.5 * normal(len(labels), 64, seed=1) / 8
    centres = F.normalize(normal(classes, 64, seed=2), dim=-1)
    return F.normalize(centres[labels] + spread, dim=-1), labels


def test_text_classifier_against_literal_adamw():
    features, labels = texts()
    made = text_classifier(features, labels, C, steps=4, seed=3)

    generator = torch.Generator().manual_seed(3)
    bound = 1 / math.sqrt(64)
    weight = torch.empty(C, 64).uniform_(-bound, bound, generator=generator).double()
    mean = square = torch.zeros_like(weight)
    target = torch.full((len(labels), C), 0.1 / C, dtype=torch.float64)
    target[torch.arange(len(labels)), labels] += 0.9
    for step in range(1, 5):
        noisy = features + 0.1 * torch.randn(features.shape, generator=generator)
        weight = weight.detach().requires_grad_()
        log_p = (noisy.double() @ weight.T).log_softmax(dim=-1)
        (g,) = torch.autograd.grad(-(target * log_p).sum(dim=-1).mean(), weight)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        length = (square / (1 - 0.999**step)).sqrt() + 1e-8
        move = mean / (1 - 0.9**step) / length
        weight = weight.detach() * (1 - 5e-4 * 0.01) - 5e-4 * move
    assert torch.allclose(made.double(), weight, atol=2e-6)


def test_text_classifier_learns_with_the_codes_noise_not_with_the_papers():
    features, labels = texts()
    losses = {}
    for noise in (0.1, 1.0):
        weight = text_classifier(features, labels, C, steps=300, noise=noise)
        noisy = features + noise * normal(*features.shape, seed=9)
        losses[noise] = F.cross_entropy(noisy @ weight.T, labels).item()
    clean = (features @ text_classifier(features, labels, C).T).argmax(dim=-1)
    assert (clean == labels).double().mean() > 0.95
    assert losses[0.1] < 0.7 * math.log(C)
    assert losses[1.0] > 0.85 * math.log(C)


def test_text_classifier_without_steps_knows_nothing_and_seeds_differ():
    features, labels = texts(per_class=50)
    start = text_classifier(features, labels, C, steps=0)
    right = (features @ start.T).argmax(dim=-1) == labels
    assert right.double().mean() < 0.5
    assert start.abs().max() <= 1 / 8
    assert torch.equal(start, text_classifier(features, labels, C, steps=0))
    assert not torch.equal(start, text_classifier(features, labels, C, 0, seed=1))


def test_texts_come_with_their_classes():
    texts, labels = method.labelled([["a", "b"], ["c"]])
    assert texts == ["a", "b", "c"]
    assert labels.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="1 of 3 classes have no text: 1"):
        method.labelled([["a"], [], ["b"]])


def test_text_classifier_does_not_see_the_order_of_texts():
    features, labels = texts()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    one = text_classifier(features, labels, C, steps=50, noise=0)
    other = text_classifier(features[shuffled], labels[shuffled], C, 50, noise=0)
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 1]), "3 texts leave 1 of 3 classes without one: 2"),
        (torch.tensor([0, 1, 3]), "labels must be 0 to 2"),
        (torch.tensor([0, 1, -1]), "labels must be 0 to 2"),
        (torch.tensor([0, 1]), r"need \[M, D\] and torch.int64 \[M\]"),
        (torch.tensor([0.0, 1.0, 2.0]), "labels torch.float32"),
    ],
)
def test_text_classifier_refuses(labels, message):
    with pytest.raises(ValueError, match=message):
        text_classifier(F.normalize(normal(3, 8), dim=-1), labels, 3)


def test_fewer_texts_than_classes_and_broken_features_are_refused():
    with pytest.raises(ValueError, match="2 texts leave 3 of 5 classes without one"):
        text_classifier(normal(2, 8), torch.tensor([0, 4]), 5)
    with pytest.raises(ValueError, match="not finite"):
        text_classifier(torch.full((2, 8), torch.nan), torch.tensor([0, 1]), 2, 2)


# What is tuned


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_untuned_tower_is_the_backbones(name, request, photos):
    backbone = request.getfixturevalue(name)
    features = ImageTower(backbone)(photos.images)
    expected = backbone.encode_images(backbone.normalise(photos.images))
    assert torch.allclose(F.normalize(features, dim=-1), expected, atol=1e-5)
    raw = backbone.model.encode_image(backbone.normalise(photos.images))
    assert torch.allclose(features, raw, rtol=1e-4, atol=1e-4)


def test_prompts_come_after_positions_and_first_norm(vit, photos):
    """Against open_clip's own blocks, which see 1 + P + 64 tokens."""
    tower = ImageTower(vit, prompts=3, norms=True)
    seen = []
    hook = tower.visual.transformer.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape)
    )
    visual = tower.visual
    tokens = visual.ln_pre(_embedded(visual, vit.normalise(photos.images)))
    prompts = tower.prompts.expand(N, -1, -1)
    tokens = torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], dim=1)
    literal = visual.ln_post(visual.transformer(tokens)[:, 0]) @ visual.proj
    hook.remove()
    assert seen == [(N, 1 + 3 + 64, 128)]
    made = tower(photos.images)
    assert torch.allclose(made, literal, rtol=1e-4, atol=1e-4)

    direction = normal(N, 128)
    parameters = [p for p in tower.parameters() if p.requires_grad]
    ours = torch.autograd.grad((made * direction).sum(), parameters)
    theirs = torch.autograd.grad((literal * direction).sum(), parameters)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-3, atol=1e-3 * other.abs().max())


def _embedded(visual: nn.Module, pixels: Tensor) -> Tensor:
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    start = visual.class_embedding.expand(len(pixels), 1, -1)
    return torch.cat([start, patches], dim=1) + visual.positional_embedding


def test_prompts_start_as_the_released_code_has_them(vit):
    start = ImageTower(vit, prompts=50).prompts
    v = math.sqrt(6 / (3 * 256 + 128))
    assert start.shape == (50, 128)
    assert 0.98 * v < start.abs().max() <= v
    assert start.detach().std() == pytest.approx(v / math.sqrt(3), rel=0.02)
    assert math.sqrt(6 / (3 * 256 + 768)) == pytest.approx(0.0625, rel=1e-6)
    assert not torch.equal(start, ImageTower(vit, prompts=50, seed=1).prompts)


def test_without_prompts_the_prompted_tower_is_the_plain_one(vit, photos):
    tower, plain = ImageTower(vit, prompts=4, norms=True), ImageTower(vit)
    assert torch.equal(tower(photos.images, prompted=False), plain(photos.images))
    assert not torch.allclose(tower(photos.images), plain(photos.images), atol=1e-2)


def test_parameter_counts_of_the_papers_backbone():
    """590k for 1,000 classes at ViT-B/32, 0.39 % of CLIP; shapes alone, no weights."""
    with torch.device("meta"):
        model = open_clip.create_model("ViT-B-32-quickgelu", device="meta")
    shapes = SimpleNamespace(
        name="ViT-B-32",
        model=model,
        device="meta",
        precision="float32",
        normalise=None,
        autocast=None,
    )
    tower = ImageTower(shapes, prompts=50, norms=True)
    assert tuned_share(tower, shapes)[0] == 50 * 768 + 39_936
    assert len(norm_affines(tower.visual)) == 2 * 26
    student = Student(tower, torch.empty(1000, 512, device="meta"), tune_weight=True)
    tuned, share = tuned_share(student, shapes)
    assert tuned == 590_336
    assert share == pytest.approx(0.0039, abs=1e-4)


def test_resnets_have_norms_but_no_prompts(resnet, photos, weight):
    with pytest.raises(ValueError, match="picto-rn has an image tower of ModifiedResN"):
        ImageTower(resnet, prompts=50)
    with pytest.raises(ValueError, match="prompts=0, lora_rank=0 and norms=True"):
        run(resnet, weight, photos)
    wide = 0.3 * normal(C, resnet.embed_dim)
    made = run(resnet, wide, photos, prompts=0)
    tower, start = made.model.tower.visual, resnet.model.visual
    assert not torch.equal(tower.bn1.weight, start.bn1.weight)
    assert torch.equal(tower.bn1.running_mean, start.bn1.running_mean)
    assert torch.equal(tower.conv1.weight, start.conv1.weight)


def test_towers_refuse_what_cannot_be_tuned(vit):
    with pytest.raises(ValueError, match="0 or more"):
        ImageTower(vit, prompts=-1)


def test_towers_of_float16_are_tuned_in_float32(vit, photos):
    half = ImageTower(replace(vit, precision="float16"), norms=True)
    assert torch.equal(half(photos.images), ImageTower(vit)(photos.images))
    rough = ImageTower(replace(vit, precision="bfloat16"))(photos.images)
    assert not torch.allclose(rough, half(photos.images), atol=1e-3)


@pytest.mark.parametrize(
    "parts", [{"norms": True}, {"prompts": 2}, {"lora_rank": 2}, {"whole": True}]
)
def test_towers_copy_what_trains_and_share_the_rest(vit, photos, parts):
    """As many students as there are trainings stay in memory."""
    before = clip.fingerprint(vit.model)
    tower = ImageTower(vit, **parts)
    ours = {p.data_ptr() for p in vit.model.parameters()}
    shared = [p for p in tower.parameters() if p.data_ptr() in ours]
    trains = [p for p in tower.parameters() if p.requires_grad]
    assert len(shared) + len(trains) == len([*tower.parameters()])
    assert not any(p.requires_grad for p in shared)
    assert not {b.data_ptr() for b in tower.buffers()} & {
        b.data_ptr() for b in vit.model.buffers()
    }
    optimizer = torch.optim.SGD(trains, lr=1.0)
    tower(photos.images[:2]).sum().backward()
    optimizer.step()
    assert clip.fingerprint(vit.model) == before
    assert not any(p.requires_grad for p in vit.model.parameters())


# The second stage


def test_lafter_against_literal_steps(vit, photos, weight):
    """Two epochs of one batch, with open_clip's encoder and torch's AdamW."""
    made = run(vit, weight, photos, prompts=0, epochs=2, batch=N, seed=5)

    model = ImageTower(vit, norms=True).visual
    frozen, head = weight.clone(), nn.Parameter(weight.clone())
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [p for n, p in named if "bias" not in n]
    free = [p for n, p in named if "bias" in n]
    optimizer = torch.optim.AdamW(
        [
            {"params": [head, *decayed], "weight_decay": 0.01},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=5e-4,
    )
    for epoch in range(2):
        with torch.no_grad():
            plain = F.normalize(model(vit.normalise(photos.images)), dim=-1)
            labels = (plain @ frozen.T).argmax(dim=-1)
        views = photos.views(torch.arange(N), epoch, seed=5)
        log_p = (model(vit.normalise(views)) @ head.T).log_softmax(dim=-1)
        smooth = 0.9 * log_p[torch.arange(N), labels] + 0.1 * log_p.mean(dim=-1)
        optimizer.zero_grad()
        (-smooth.mean()).backward()
        optimizer.step()
        assert made.log["loss"][epoch] == pytest.approx(-smooth.mean().item(), rel=1e-4)
        assert torch.equal(made.labels[epoch], labels)
    assert torch.allclose(made.model.weight, head, atol=1e-4)


def test_student_starts_where_the_teacher_is(vit, photos, weight):
    student = Student(ImageTower(vit, norms=True), weight)
    made = run(vit, weight, photos, prompts=0, augment=False, epochs=1, batch=N)
    assert made.log["agreement"][0] == 1
    assert torch.equal(made.labels[0], student(photos.images).argmax(dim=-1))


def test_teacher_is_normalised_and_student_is_not(vit, photos, weight):
    log = run(vit, weight, photos).log
    assert log["teacher_norm"].to_numpy() == pytest.approx(1)
    assert log["student_norm"].min() > 3
    model = run(vit, weight, photos, epochs=1).model
    features = model.tower(photos.images)
    assert torch.equal(model(photos.images), features @ model.weight.T)


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_train_what_they_say(name, vit, photos, weight):
    off = ABLATIONS[name]
    settings = {"prompts": 3} | dict(off)
    model = run(vit, weight, photos, epochs=1, **settings).model
    moved = {n for n, p in trained(model).items()}
    start = Student(ImageTower(vit, prompts=settings["prompts"]), weight)
    for key, value in model.state_dict().items():
        assert torch.equal(value, start.state_dict()[key]) == (key not in moved), key
    assert ("tower.prompts" in moved) == (name != "w/o Prompts")
    assert ("weight" in moved) == (name != "w/o Cls")
    norms = {f"tower.visual.{n}" for n in norm_affines(vit.model.visual)}
    assert moved - {"tower.prompts", "weight"} == (
        set() if name == "w/o Affine" else norms
    )


def test_teacher_moves_by_norms_alone(vit, photos, weight):
    fast = {"learning_rate": 0.05, "epochs": 3, "batch": N}
    full = run(vit, weight, photos, **fast).labels
    assert not torch.equal(full[0], full[1])
    still = run(vit, weight, photos, norms=False, **fast).labels
    assert torch.equal(still[0], still[2])
    live = run(vit, weight, photos, norms=False, stop_gradient=False, **fast).labels
    assert not torch.equal(live[0], live[2])


def test_the_teachers_classifier_stays_while_the_students_learns(vit, photos, weight):
    """Where norms train too, which is the default."""
    fast = {"learning_rate": 0.05, "batch": N, "prompts": 0}
    after_one = run(vit, weight, photos, epochs=1, **fast).model
    features = F.normalize(after_one.tower(photos.images, prompted=False), dim=-1)
    frozen, moved = (features @ w.T for w in (weight, after_one.weight))
    assert not torch.equal(frozen.argmax(dim=-1), moved.argmax(dim=-1))
    taught = run(vit, weight, photos, epochs=2, **fast).labels[1]
    assert torch.equal(taught, frozen.argmax(dim=-1))
    live = run(vit, weight, photos, epochs=2, stop_gradient=False, **fast).labels[1]
    assert torch.equal(live, moved.argmax(dim=-1))


def test_labels_made_once_are_those_of_every_batch(vit, photos, weight):
    """Norms that train with a rate of 0 take the other path to the same labels."""
    slow = {"prompts": 2, "epochs": 1, "batch": 5, "learning_rate": 0.0}
    once = run(vit, weight, photos, norms=False, **slow)
    live = run(vit, weight, photos, **slow)
    assert torch.equal(once.labels, live.labels)
    assert once.log["loss"][0] == pytest.approx(live.log["loss"][0], rel=1e-5)


def test_nothing_to_tune_is_refused(vit, photos, weight):
    with pytest.raises(ValueError, match="nothing to tune"):
        run(vit, weight, photos, prompts=0, norms=False, tune_classifier=False)


def test_backbone_stays_as_it_was(vit, photos, weight):
    before = clip.fingerprint(vit.model)
    run(vit, weight, photos, learning_rate=0.05)
    assert clip.fingerprint(vit.model) == before == vit.fingerprint
    assert not any(p.requires_grad for p in vit.model.parameters())


def test_only_biases_are_spared_the_decay(vit, weight):
    student = Student(ImageTower(vit, prompts=2, norms=True), weight, None, True)
    decayed, free = training.decay_groups(student, 0.01)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0)
    names = {id(p): n for n, p in student.named_parameters()}
    assert {names[id(p)] for p in free["params"]} == {
        n for n in trained(student) if n.endswith("bias")
    }
    kept = {names[id(p)] for p in decayed["params"]}
    assert {"weight", "tower.prompts", "tower.visual.ln_post.weight"} <= kept


def test_results_do_not_depend_on_test_labels(vit, photos, weight):
    """Shuffled labels for evaluation change their own column and no other number."""
    labels = torch.arange(N) % C

    def accuracy(of: Tensor, model: nn.Module) -> dict[str, float]:
        right = training.logits(model, photos.images).argmax(dim=-1) == of
        return {"accuracy": right.double().mean().item()}

    one = run(vit, weight, photos, evaluate=partial(accuracy, labels))
    other = run(vit, weight, photos, evaluate=partial(accuracy, labels.flip(0)))
    assert not hasattr(photos, "labels")
    drop = ["accuracy", "seconds"]
    pd.testing.assert_frame_equal(
        one.log.drop(columns=drop), other.log.drop(columns=drop)
    )
    for name, parameter in trained(one.model).items():
        assert torch.equal(parameter, trained(other.model)[name])
    assert "accuracy" not in run(vit, weight, photos, epochs=1).log


def test_seeds_decide_everything(vit, photos, weight):
    one, same = (run(vit, weight, photos, seed=1) for _ in range(2))
    other = run(vit, weight, photos, seed=2)
    assert one.log[FIGURES].equals(same.log[FIGURES])
    assert not one.log[FIGURES].equals(other.log[FIGURES])
    assert torch.equal(one.model.weight, same.model.weight)


# The loop


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def toy_run(rate: float = 1e-2, schedule=None, features=None, **loop):
    """Twenty features that learn to belong to a class each."""
    torch.manual_seed(0)
    model, labels = Toy(), torch.arange(20) % C
    features = normal(20, 8) if features is None else features

    def step(rows: Tensor, epoch: int) -> Step:
        made = model(features[rows])
        return Step(F.cross_entropy(made, labels[rows]), made, labels[rows])

    arguments = {"epochs": 4, "batch": 6, "seed": 0, "settings": {"method": "toy"}}
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    arguments |= {"rate": schedule, **loop}
    return training.train(model, optimizer, step, 20, **arguments)


def test_an_epoch_takes_each_image_once_and_no_incomplete_batch():
    epochs = [training.order(20, 6, seed=0, epoch=e) for e in (0, 1)]
    for batches in epochs:
        assert [len(b) for b in batches] == [6, 6, 6]
        assert len(torch.cat(batches).unique()) == 18
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
    made = toy_run()
    assert made.log["steps"].tolist() == [3] * 4
    assert ((made.labels == -1).sum(dim=1) == 2).all()
    assert toy_run(batch=50).log["steps"].tolist() == [1] * 4


def test_rate_is_constant_unless_scheduled():
    assert toy_run().log["learning_rate"].tolist() == [1e-2] * 4
    scheduled = toy_run(schedule=lambda epoch: 0.1 * (epoch + 1))
    assert scheduled.log["learning_rate"].tolist() == pytest.approx(
        [0.1, 0.2, 0.3, 0.4]
    )


def test_interrupted_training_ends_with_the_same_numbers(tmp_path):
    whole = toy_run(checkpoint=Checkpoint(tmp_path / "whole"))
    calls, cut = [], Checkpoint(tmp_path / "cut")

    def interrupt(model: nn.Module) -> dict:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        toy_run(checkpoint=cut, evaluate=interrupt)
    assert len(pd.read_csv(tmp_path / "cut" / "log.csv")) == 2
    resumed = toy_run(checkpoint=cut)
    drop = ["seconds"]
    pd.testing.assert_frame_equal(
        resumed.log.drop(columns=drop), whole.log.drop(columns=drop)
    )
    assert torch.equal(resumed.labels, whole.labels)
    assert torch.equal(resumed.model.linear.weight, whole.model.linear.weight)
    again = toy_run(checkpoint=cut)
    assert again.log.equals(resumed.log)


def test_interrupted_lafter_ends_with_the_same_numbers(tmp_path, vit, photos, weight):
    cut = Checkpoint(tmp_path)
    whole = run(vit, weight, photos)
    run(vit, weight, photos, epochs=1, checkpoint=cut)
    resumed = run(vit, weight, photos, checkpoint=cut)
    assert resumed.log[FIGURES].equals(whole.log[FIGURES])
    for name, parameter in trained(whole.model).items():
        assert torch.equal(parameter, trained(resumed.model)[name])


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    kept = Checkpoint(tmp_path)
    toy_run(checkpoint=kept)
    with pytest.raises(ValueError, match=r"another run .*seed 0, not 1"):
        toy_run(checkpoint=kept, seed=1)
    with pytest.raises(ValueError, match="method 'toy', not 'other'"):
        toy_run(checkpoint=kept, settings={"method": "other"})
    with pytest.raises(ValueError, match="4 epochs on, past the 2 asked for"):
        toy_run(checkpoint=kept, epochs=2)


def test_healthy_training_is_not_called_a_collapse():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not toy_run(rate=0.1, epochs=6).log["collapsed"].any()


def test_collapsing_predictions_warn():
    model, features = Toy(), normal(20, 8)
    labels = torch.arange(20) % C

    def step(rows: Tensor, epoch: int) -> Step:
        towards = labels[rows] if epoch == 0 else torch.zeros_like(rows)
        made = model(features[rows])
        return Step(F.cross_entropy(made, towards), made, towards)

    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    with pytest.warns(
        RuntimeWarning,
        match=r"collapsed to \d.\d effective classes, from labels with 5.9",
    ) as told:
        log = training.train(model, optimizer, step, 20, 20, 20, 0, {}).log
    assert len(told) == 1
    assert log["collapsed"].iloc[-1]
    assert not log["collapsed"].iloc[0]
    assert log["effective_classes"].iloc[-1] == pytest.approx(1)
    assert log["largest_class"].iloc[-1] == 1


def test_collapse_is_a_fall_or_a_start_that_never_grows():
    def verdict(*classes: float) -> bool:
        rows = [{"effective_classes": c} for c in classes[:-1]]
        return training._collapsed(rows, classes[-1], labels=40)

    assert not verdict(3.0)  # prompts and new heads begin with few classes
    assert not verdict(3.0, 9.0, 15.0, 18.0)
    assert not verdict(3.0, 3.0, 3.0)
    assert verdict(3.0, 3.0, 3.0, 3.0)
    assert verdict(30.0, 14.0)
    assert not verdict(30.0, 16.0)


def test_effective_classes():
    assert training.effective_classes(torch.tensor([3, 3, 3])) == 1
    assert training.effective_classes(torch.arange(8)) == pytest.approx(8)
    mixed = training.effective_classes(torch.tensor([0, 0, 0, 2]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert mixed == pytest.approx(math.exp(entropy))


def test_broken_loss_stops_training():
    with pytest.raises(ValueError, match="epoch 0: the loss became nan"):
        toy_run(settings={}, features=torch.full((20, 8), torch.nan))


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 0}])
def test_loop_refuses_nothing_to_do(wrong):
    with pytest.raises(ValueError, match="1 up"):
        toy_run(**wrong)


def test_memory_is_estimated_before_the_start(vit, photos, weight):
    x, w = normal(100, 50), nn.Parameter(normal(50, 50))
    holder = nn.ParameterList([w])
    made: list[weakref.ref[Tensor]] = []

    def forward() -> None:
        out = (x @ w).relu()
        made.append(weakref.ref(out))

    kept = training.graph_bytes(holder, forward)
    assert kept == 4 * (100 * 50 + 100 * 50)  # x, and what the rectifier let through
    gc.collect()
    assert made[0]() is None
    with pytest.raises(MemoryError, match=r"batches of 12 need about 0\.\d GB") as told:
        run(vit, weight, photos, batch=12, free=lambda device: 10e6)
    assert "at most" in str(told.value)


def test_reported_number_is_the_last_unless_faithful():
    log = pd.DataFrame({"accuracy": [0.4, 0.6, 0.5]})
    assert training.reported(log, "accuracy") == (0.5, 2, "last epoch")
    value, epoch, chosen = training.reported(log, "accuracy", faithful=True)
    assert (value, epoch) == (0.6, 1)
    assert "test labels" in chosen


# What training may see


def test_strong_views_depend_on_seed_epoch_and_id_alone(photos):
    views = photos.views(torch.arange(N), epoch=1, seed=0)
    assert views.shape == (N, 3, SIDE, SIDE)
    assert views.dtype == torch.uint8
    alone = photos.views(torch.tensor([7]), epoch=1, seed=0)
    assert torch.equal(alone[0], views[7])
    assert not torch.equal(photos.views(torch.tensor([7]), 2, 0)[0], views[7])
    assert not torch.equal(photos.views(torch.tensor([7]), 1, 1)[0], views[7])


@pytest.mark.parametrize(("most", "read"), [(2**28, 1), (0, 2)])
def test_pictures_stay_in_memory_once_they_are_looked_at(most, read, monkeypatch):
    """A pool that is tested and not trained on holds no full pictures."""
    monkeypatch.setattr("helpers.data.pool.KEPT_PIXELS", most)
    dataset, reads = data_of("picto"), []
    image = dataset.image
    counted = replace(dataset)
    object.__setattr__(counted, "image", lambda i: reads.append(i) or image(i))
    made = pool(counted, crop, SIDE, strong.strong)
    assert reads == [*range(N)]
    first = made.views(torch.tensor([7]), 0, 0)
    assert torch.equal(made.views(torch.tensor([7]), 0, 0), first)
    assert len(reads) == N + read


def test_strong_view_is_the_recipe():
    """Grey in a fifth, flipped in half, jittered in four fifths, always blurred."""
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 255, 0, 0
    picture = Image.fromarray(edge)
    generator = np.random.default_rng(0)
    whole = (0.999, 1.0)
    views = [strong.strong(picture, 64, generator, whole) for _ in range(600)]
    values = torch.stack(views).double()
    grey = (values[:, 0] == values[:, 1]).flatten(1).all(dim=1)
    assert grey.double().mean() == pytest.approx(0.2, abs=0.05)
    left = values[:, :, :, :20].mean(dim=(1, 2, 3))
    right = values[:, :, :, -20:].mean(dim=(1, 2, 3))
    assert (left > right).double().mean() == pytest.approx(0.5, abs=0.06)
    untouched = (values[:, 0].amax(dim=(1, 2)) == 255) & ~grey
    assert untouched.double().mean() > 0.2 * 0.8 - 0.05
    small = strong.strong(picture, 32, generator)
    assert small.shape == (3, 32, 32)


@pytest.mark.parametrize("size", [224, 64])
def test_strong_view_against_the_literal_recipe(size):
    """Byte by byte; only the blur is in pixels, and it is that of 224 of them."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    picture = Image.fromarray(noise)
    for seed in range(12):
        made = strong.strong(picture, size, np.random.default_rng(seed))
        generator = np.random.default_rng(seed)
        left, top, width, height = random_box(120, 90, generator, (0.2, 1.0))
        box = (left, top, left + width, top + height)
        view = picture.resize((size, size), Image.Resampling.BILINEAR, box)
        if generator.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if generator.random() < 0.8:
            view = strong.jittered(view, generator)
        if generator.random() < 0.2:
            view = view.convert("L").convert("RGB")
        radius = generator.uniform(0.1, 2.0) * {224: 1, 64: 64 / 224}[size]
        view = view.filter(ImageFilter.GaussianBlur(radius))
        assert np.array_equal(made.permute(1, 2, 0).numpy(), np.array(view))


def test_blur_counts_at_224_pixels():
    dot = Image.fromarray(np.full((224, 224, 3), 0, np.uint8))
    dot.paste((255, 255, 255), (112, 0, 224, 224))

    def sharpest(size: int) -> float:
        generator = np.random.default_rng(3)
        views = [strong.strong(dot, size, generator, (0.99, 1)) for _ in range(20)]
        steps = torch.stack(views).double().mean(dim=1).diff(dim=-1).abs()
        return (steps.amax(dim=(1, 2)) / 255).mean().item()

    assert sharpest(64) > 1.3 * sharpest(224)


def test_weak_view_flips_what_it_is_told_to(photos):
    flipped = torch.arange(N) % 2 == 0
    views = strong.weak(photos.images, flipped)
    assert torch.equal(views[1::2], photos.images[1::2])
    assert torch.equal(views[::2], photos.images[::2].flip(-1))


def test_pool_has_no_labels_and_refuses_what_is_no_pool(photos):
    assert set(vars(photos)) == {"ids", "images", "strong"}
    with pytest.raises(ValueError, match=r"need torch.uint8 \[N, 3, S, S\]"):
        Pool(("a",), torch.zeros(1, 3, 8, 8), photos.strong)
    with pytest.raises(ValueError, match="2 ids for 1 images"):
        Pool(("a", "b"), photos.images[:1], photos.strong)
    other = Pool(photos.ids, photos.images.flip(0), photos.strong)
    assert len({photos.key, other.key}) == 2


def test_overlap_is_refused_unless_transductive(photos):
    others = pool(data_of("picto-o"), crop, SIDE, strong.strong)
    assert protocol(photos, others) == "inductive"
    with pytest.raises(ValueError, match=r"12 of 12 test .* 'picto/0' the first"):
        protocol(photos, photos)
    assert protocol(photos, photos, transductive=True) == "transductive"
    renamed = Pool(tuple("abcdefghijkl"), photos.images, photos.strong)
    with pytest.raises(ValueError, match="12 of 12"):
        protocol(renamed, photos)
    assert twins(renamed, photos) == dict(zip(renamed.ids, photos.ids, strict=True))
    assert twins(others, photos) == {}


def test_held_out_follows_ids():
    ids = [f"image/{i}" for i in range(50)]
    train, test = held_out(ids)
    assert (len(train), len(test)) == (40, 10)
    assert sorted([*train, *test]) == list(range(50))
    back_train, back_test = held_out(ids[::-1])
    assert {ids[i] for i in test} == {ids[::-1][i] for i in back_test}
    assert {*test} != {*held_out(ids, seed=1)[1]}
    assert {*test} < {*held_out(ids, share=0.5)[1]}
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="held out"):
            held_out(ids, share)
    with pytest.raises(ValueError, match="leaves a part empty"):
        held_out(ids[:2])
    assert back_train.dtype == np.int64


def test_ablations_are_the_papers_table():
    published = ["w/o Aug", "w/o Prompts", "w/o Affine", "w/o Cls", "w/o Stop Grad"]
    assert [*ABLATIONS] == ["LaFTer", *published]
    assert (method.NOISE, method.SMOOTHING, method.LEARNING_RATE) == (0.1, 0.1, 5e-4)
