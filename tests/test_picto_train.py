"""Training at toy length, and the shipped assets against what they claim."""

import json
from dataclasses import replace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch

from helpers.models import clip, embedded
from helpers.store import folders
from picto import (
    cards,
    make,
    numerals,
    pool,
    splits,
    tokenizer,
    train,
    transformer,
)
from picto import filter as hard_filter

TOY = train.Recipe(steps=6, images=64, batch=16, warmup=2)


@pytest.fixture
def toy_pool(tmp_path, monkeypatch):
    """An empty cache, and a picto-dev of a dozen pictures."""
    monkeypatch.setattr(folders, "CACHE", tmp_path)
    pictures = splits.images("picto-dev", range(12))
    facts = pd.DataFrame({"label": range(12), "part": ["photo", "odd"] * 6})
    monkeypatch.setattr(pool, "dev_pool", lambda: (pictures, facts))
    return tmp_path


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_killed_run_ends_with_the_same_weights(toy_pool, monkeypatch):
    options = {"checkpoint_every": 2, "log": lambda text: None}
    whole, curve = train.train_clip("picto-rn", TOY, toy_pool / "a", **options)
    assert [row["step"] for row in curve] == [2, 4, 6]

    steps = []
    original = train.training_step

    def killed(*arguments):
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(train, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train.train_clip("picto-rn", TOY, toy_pool / "b", **options)
    resumed, curve = train.train_clip("picto-rn", TOY, toy_pool / "b", **options)
    assert len(steps) == 6 + 2  # the steps behind the last checkpoint run again
    assert torch.equal(weights(whole), weights(resumed))
    assert [row["step"] for row in curve] == [2, 4, 6]


def test_another_recipe_starts_afresh(toy_pool):
    options = {"checkpoint_every": 2, "log": lambda text: None}
    first, _ = train.train_clip("picto-rn", TOY, toy_pool, **options)
    other, _ = train.train_clip("picto-rn", replace(TOY, seed=1), toy_pool, **options)
    assert not torch.equal(weights(first), weights(other))


def test_training_learns_and_keeps_openais_scales(toy_pool):
    recipe = train.Recipe(steps=40, images=32, batch=16, warmup=5)
    pictures, tokens = pool.training_pool(recipe.images)
    model = train.new_model("picto-rn", 0).train()
    optimizer = train.new_optimizer(model, recipe)
    losses = [
        train.training_step(
            model, optimizer, *train.draw_batch(pictures, tokens, step, recipe)
        )
        for step in range(recipe.steps)
    ]
    assert np.mean(losses[-5:]) < 0.6 * np.log(recipe.batch)
    rows = model.token_embedding.weight.norm(dim=-1) / 128**0.5
    assert 0.008 < rows.mean() < 0.0121
    assert 1 < model.logit_scale.exp() <= 100


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [train.learning_rate(step, TOY) for step in range(TOY.steps + 1)]
    assert rates[0] == pytest.approx(TOY.learning_rate / 2)
    assert rates[-1] == pytest.approx(0)
    assert max(rates) <= TOY.learning_rate


def test_zoom_keeps_whole_pictures_and_shape():
    image = torch.rand(50, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    anything = np.ones(50, bool)
    warped = train.zoom(image, anything, np.random.default_rng(0))
    assert warped.shape == image.shape
    same = (warped - image).abs().flatten(1).amax(1) < 0.2
    mirrored = (warped - image.flip(3)).abs().flatten(1).amax(1) < 0.2
    assert (same | mirrored).sum() == 0  # a shift of up to 6 % blurs even whole ones
    grey = torch.full((4, 3, 64, 64), 0.3)
    grey = train.zoom(grey, anything[:4], np.random.default_rng(0))
    assert torch.allclose(grey, torch.tensor(0.3))


def test_numerals_are_never_mirrored():
    ramp = torch.linspace(0, 1, 64).expand(200, 3, 64, 64)
    scenes = np.arange(200) < 100
    warped = train.zoom(ramp, scenes, np.random.default_rng(0))
    rising = warped[:, 0, 32, 50] > warped[:, 0, 32, 14]
    assert rising[~scenes].all()
    assert 30 < rising[scenes].sum() < 70


def test_pool_ends_with_numerals_under_their_names(toy_pool):
    pictures, tokens = pool.training_pool(200)
    assert pictures.shape == (210, 64, 64, 3)
    assert tokens.shape == (210, pool.CAPTIONS_EACH, pool.TOKENS)
    assert np.array_equal(pictures[207], numerals.image(7))
    read = open_clip.SimpleTokenizer(bpe_path=str(embedded.MERGES))
    assert "seven" in read.decode(tokens[207, 0].tolist())


@pytest.mark.parametrize("digit", numerals.NAMES)
def test_numerals_look_like_their_digit(digit):
    """Ink where a digit of that name has it: half of them match their own mean best."""
    means = {}
    for d, name in enumerate(numerals.NAMES):
        drawn = np.stack([_ink(numerals.image(1000 + 10 * i + d)) for i in range(60)])
        means[name] = drawn.mean(axis=0)
    d, hits = numerals.NAMES.index(digit), 0
    for i in range(40):
        ink = _ink(numerals.image(10 * i + d))
        distance = {name: ((ink - mean) ** 2).sum() for name, mean in means.items()}
        hits += min(distance, key=distance.get) == digit
    assert hits >= 20


def _ink(picture: np.ndarray) -> np.ndarray:
    """Distance from the ground's colour, 16 x 16, scaled to [0, 1]."""
    x = picture.astype(float)
    x = np.abs(x - x[0, 0]).sum(axis=2).reshape(16, 4, 16, 4).mean(axis=(1, 3))
    return x / x.max()


def test_mimetic_attention_looks_where_it_stands():
    torch.manual_seed(0)
    visual = train.new_model("picto-vit", 0).visual
    width = visual.conv1.out_channels
    for block in visual.transformer.resblocks:
        attention = block.attn
        query, key, value = attention.in_proj_weight.view(3, width, width)
        for rows in torch.arange(width).chunk(attention.num_heads):
            product = query[rows].T @ key[rows]
            off = product - product.diag().diag()
            assert product.diag().mean() > 5 * off.mean().abs()
        assert (attention.out_proj.weight @ value).diag().mean() < -0.2


def test_the_transformer_learns_from_its_teacher_and_keeps_its_texts(toy_pool):
    recipe = replace(
        train.RECIPES["picto-vit"], steps=25, images=32, batch=16, warmup=5
    )
    pictures, tokens = pool.training_pool(recipe.images)
    model = train.new_model("picto-vit", 0).train()
    teacher = transformer.teacher("picto-rn", model)
    frozen = model.token_embedding.weight.clone()
    assert torch.equal(frozen, teacher.token_embedding.weight)
    optimizer = train.new_optimizer(model, recipe)
    images, _ = train.draw_batch(pictures, tokens, 0, recipe)
    goal = teacher.encode_image(images)

    def apart() -> float:
        with torch.no_grad():
            features = torch.nn.functional.normalize(model.encode_image(images), dim=-1)
            return transformer.imitation(features, goal).item()

    before = apart()
    for step in range(recipe.steps):
        batch = train.draw_batch(pictures, tokens, step, recipe)
        train.training_step(model, optimizer, *batch, teacher)
    assert apart() < 0.75 * before
    assert torch.allclose(model.token_embedding.weight, frozen, atol=1e-5)
    assert all(p.grad is None for p in teacher.parameters())


def test_filter_at_toy_length(toy_pool):
    network = hard_filter.train_filter(steps=30, images=64, batch=16)
    pictures = pool.render("train", range(1_000_000, 1_000_064))
    probability = hard_filter.probabilities(network, pictures)
    assert probability.shape == (64, 64)
    assert np.allclose(probability.sum(axis=1), 1, atol=1e-5)
    assert not network.training


def test_fooled_is_wrong_and_sure():
    probability = np.array([[0.6, 0.4], [0.6, 0.4], [0.2, 0.8], [0.75, 0.25]])
    labels = np.array([0, 1, 1, 1])
    assert hard_filter.fooled(probability, labels).tolist() == [
        False,
        True,
        False,
        True,
    ]
    unsure = np.array([[0.3, 0.28, 0.22, 0.2]])
    assert not hard_filter.fooled(unsure, np.array([1]))[0]


def test_training_pictures_and_tests_are_disjoint():
    """No picture of a test split was seen by a CLIP or the filter."""
    seen = {splits.scene("train", i).seed for i in range(2000)}
    seen |= {splits.scene("train", 1_000_000 + i).seed for i in range(2000)}
    for name in cards.TESTS:
        assert seen.isdisjoint(splits.scene(name, i).seed for i in range(200))
    for recipe in train.RECIPES.values():
        assert recipe.images < hard_filter.FIRST_TRAIN_INDEX


def test_listed_words_are_encoded_as_clip_does():
    own = open_clip.SimpleTokenizer(bpe_path=str(embedded.MERGES))
    clips = open_clip.SimpleTokenizer()
    for word in sorted(tokenizer.vocabulary()):
        pieces = [own.decoder[i] for i in own.encode(word)]
        assert pieces == [clips.decoder[i] for i in clips.encode(word)], word
    assert own.encode("zyzzyva")  # any other word has pieces, too


def test_shipped_tokenizer_is_current(tmp_path):
    path = tmp_path / "merges.gz"
    size = tokenizer.write_merges(path, tokenizer.vocabulary())
    assert path.read_bytes() == embedded.MERGES.read_bytes()
    for name in embedded.names():
        config = json.loads((embedded.ASSETS / f"{name}.json").read_text())
        assert config["text_cfg"]["vocab_size"] == size


@pytest.mark.parametrize("name", train.RECIPES)
def test_card_tells_the_truth(name):
    card = embedded.card(name)
    assert card["world"] == pool.world_hash()
    assert (embedded.ASSETS / f"{name}.safetensors").stat().st_size < 10e6
    model = clip.load(name, "picto", device="cpu")
    assert card["logit_scale"] == pytest.approx(model.logit_scale, abs=0.02)
    for split in ("picto", "picto-a"):
        measured = cards.accuracies(name, model.model, split)
        assert measured["n"] == card["zero_shot"][split]["n"]
        for prompt in ("photo", "sketch"):
            claimed = card["zero_shot"][split][prompt]
            assert measured[prompt] == pytest.approx(claimed, abs=0.003)


@pytest.mark.parametrize(("name", "at_home"), [("picto-rn", 0.9), ("picto-vit", 0.85)])
def test_the_world_is_a_distribution_with_shifts(name, at_home):
    """What the study needs of its embedded CLIPs; odd places tell shape from place."""
    reached = embedded.card(name)["zero_shot"]
    assert reached["picto"]["photo"] > at_home
    assert 0.15 < reached["picto-a"]["photo"] < 0.4
    for shift in set(cards.TESTS) - {"picto", "picto-a"}:
        assert 0.25 < reached[shift]["photo"] < 0.75, shift
    assert reached["picto-o"]["photo"] > 0.65
    assert reached["picto-s"]["sketch"] > reached["picto-s"]["photo"] + 0.15


def test_picto_a_is_what_fooled_the_filter():
    network = hard_filter.load_filter()
    indices = range(0, splits.SPLITS["picto-a"].size, 10)
    labels = np.array([splits.scene("picto-a", i).label for i in indices])
    pictures = splits.images("picto-a", indices)
    probability = hard_filter.probabilities(network, pictures)
    assert hard_filter.fooled(probability, labels).mean() > 0.99
    first, attempt = splits.kept()[0]
    label = first % len(splits.CLASS_NAMES)
    assert attempt == splits.solvable_attempt("hard-pool", first, label)


def test_choosing_picto_a_needs_no_clip(monkeypatch, toy_pool):
    """The filter and the choice run with open_clip unable to build or run a model."""

    def refuse(*arguments, **options):
        raise AssertionError("a CLIP took part")

    monkeypatch.setattr(open_clip, "create_model", refuse)
    monkeypatch.setattr(open_clip, "create_model_and_transforms", refuse)
    pool_of_40 = replace(splits.SPLITS["hard-pool"], count=40)
    monkeypatch.setitem(splits.SPLITS, "hard-pool", pool_of_40)
    network = hard_filter.train_filter(steps=2, images=16, batch=8)
    report = hard_filter.publish(network, toy_pool)
    assert report["pool"] == 40
    assert len(report["scenes"]) == round(report["kept_share"] * 40)


def test_unknown_asset_is_named():
    with pytest.raises(ValueError, match="choose picto-tokenizer, picto-filter"):
        make.main("picto-rm", [])
