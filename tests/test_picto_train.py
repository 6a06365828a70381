"""Training at toy length, and the shipped assets against what they claim."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from helpers import keys
from helpers.models import clip, embedded
from picto import (
    augment,
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

TOY = train.Recipe(steps=6, images=16, warmup=2)


@pytest.fixture
def toy_pool(tmp_path, monkeypatch):
    """An empty cache, and a picto-dev of a dozen pictures."""
    monkeypatch.setattr(keys, "CACHE", tmp_path)
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


def members_of(images: int) -> list[np.ndarray]:
    labels = pool.training_labels(images)
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def test_training_learns_and_keeps_openais_scales(toy_pool):
    recipe = train.Recipe(steps=40, images=8, warmup=5)
    pictures, tokens = pool.training_pool(recipe.images)
    members = members_of(recipe.images)
    model = train.new_model("picto-rn", 0).train()
    optimizer = train.new_optimizer(model, recipe)
    losses = [
        train.training_step(
            model, optimizer, *train.draw_batch(pictures, tokens, members, step, recipe)
        )
        for step in range(recipe.steps)
    ]
    assert np.mean(losses[-5:]) < 0.92 * np.log(len(members))
    rows = model.token_embedding.weight.norm(dim=-1) / 128**0.5
    assert 0.008 < rows.mean() < 0.0121
    assert 1 < model.logit_scale.exp() <= 100


def test_a_batch_holds_one_picture_of_each_class_and_all_come_in_turn(toy_pool):
    members = members_of(200)
    labels = pool.training_labels(200)
    assert labels[207] == len(splits.CLASS_NAMES) + 7  # the numeral seven
    most = max(map(len, members))
    drawn = [train.class_rows(members, step, seed=3) for step in range(most)]
    for rows in drawn:
        assert labels[rows].tolist() == sorted(set(labels))
    for label, rows in enumerate(members):
        seen = [batch[label] for batch in drawn[: len(rows)]]
        assert sorted(seen) == rows.tolist()
    again = train.class_rows(members, 0, seed=3)
    assert np.array_equal(again, drawn[0])
    assert not np.array_equal(train.class_rows(members, 0, seed=4), drawn[0])


@pytest.mark.parametrize("each", [2, 3])
def test_a_batch_holds_several_pictures_of_some_classes_and_all_have_turns(each):
    members = [np.arange(label * 12, label * 12 + 12) for label in range(7)]
    batches = [train.class_rows(members, step, seed=3, each=each) for step in range(12)]
    for rows in batches:
        _, count = np.unique(rows // 12, return_counts=True)
        assert set(count) == {each}
        assert len(set(rows)) == len(rows)
    for turn in range(0, 12, each):  # consecutive batches share the classes out
        together = np.concatenate(batches[turn : turn + each]) // 12
        assert np.array_equal(np.bincount(together), [each] * 7)
    assert sorted(np.concatenate(batches)) == list(range(7 * 12))
    orders = {tuple(np.unique(rows // 12)) for rows in batches}
    assert len(orders) > each  # which classes meet is drawn anew


def test_batches_of_one_and_of_two_pictures_of_a_class_alternate(toy_pool):
    recipe = replace(TOY, images=200, each=(1, 2))
    labels, members = pool.training_labels(200), members_of(200)
    for step in range(4):
        rows = train.class_rows(members, step // 2, recipe.seed, 1 + step % 2)
        _, count = np.unique(labels[rows], return_counts=True)
        assert set(count) == {1 + step % 2}
        _, texts = train.draw_batch(*pool.training_pool(200), members, step, recipe)
        assert len(texts) == len(rows)


def test_checkpoints_of_one_name_differ_in_their_seeds_alone():
    for name, recipe in train.RECIPES.items():
        first, number = re.fullmatch(r"(picto-[a-z]+)(-\d)?", name).groups()
        same = replace(train.RECIPES[first], seed=recipe.seed, teacher=recipe.teacher)
        assert recipe == same
        if name in embedded.names():
            told = embedded.card(name)["recipe"]
            assert told == json.loads(json.dumps(asdict(recipe)))
        assert recipe.seed == int((number or "-1")[1:]) - 1
        if recipe.teacher:
            assert recipe.teacher == f"picto-rn{number or ''}"
        config = (embedded.ASSETS / f"{name}.json").read_text()
        assert config == (embedded.ASSETS / f"{first}.json").read_text()


def test_captions_encoded_by_length_are_the_same(toy_pool):
    model = train.new_model("picto-rn", 0)
    _, tokens = pool.training_pool(64)
    texts = torch.from_numpy(tokens[:, 0].astype(np.int64))
    with torch.no_grad():
        found, plain = (
            train.encode_captions(model, texts),
            clip.encode_tokens(model, texts),
        )
    assert torch.allclose(found, plain, atol=1e-5)


def test_file_names_stand_before_a_share_of_the_captions(toy_pool):
    pictures, tokens = pool.training_pool(200)
    texts = np.tile(tokens[:, 0].astype(np.int64), (5, 1))
    moved = train.precede(texts, np.random.default_rng(0))
    more = moved.argmax(axis=1) - texts.argmax(axis=1)
    for before, after, count in zip(texts, moved, more, strict=True):
        assert after[0] == before[0]
        assert np.array_equal(after[1 + count :], before[1 : len(before) - count])
        name = after[1 : 1 + count]
        assert ((name > 0) & (name < train.CHARACTERS)).all()
    assert set(more) == set(range(train.LONGEST_NAME + 1))
    assert (more > 0).mean() == pytest.approx(train.NAMED, abs=0.04)
    full = np.full((50, 8), 600)
    full[:, 6] = 1794  # room for one character
    assert set(train.precede(full, np.random.default_rng(0)).argmax(axis=1)) == {6, 7}

    recipe, members = replace(TOY, images=200, names_from=3), members_of(200)
    plain = replace(recipe, names_from=9)
    for step in range(5):
        batch, same = (
            train.draw_batch(pictures, tokens, members, step, r)
            for r in (recipe, plain)
        )
        assert torch.equal(batch[0], same[0])
        assert torch.equal(batch[1], same[1]) == (step < recipe.names_from)


def test_the_logit_scale_learns_ten_times_faster():
    optimizer = train.new_optimizer(train.new_model("picto-rn", 0), TOY)
    rates = {p.ndim: g["rate"] for g in optimizer.param_groups for p in g["params"]}
    assert (rates[0], rates[1], rates[2]) == (10, 1, 1)


def test_a_compiled_run_is_the_same_run(toy_pool):
    options = {"checkpoint_every": 2, "log": lambda text: None}
    recipe = replace(TOY, steps=2)
    plain, _ = train.train_clip("picto-rn", recipe, toy_pool / "a", **options)
    with torch.compiler.set_stance("force_eager"):  # the compiler itself takes minutes
        other, _ = train.train_clip(
            "picto-rn", recipe, toy_pool / "b", compiled=True, **options
        )
    assert torch.equal(weights(plain), weights(other))


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [train.learning_rate(step, TOY) for step in range(TOY.steps)]
    assert rates[0] == pytest.approx(TOY.learning_rate / 2)
    last = (1 + np.cos(np.pi * (TOY.steps - 1) / TOY.steps)) / 2  # 0 a step later
    assert rates[-1] == pytest.approx(last * TOY.learning_rate)
    assert max(rates) <= TOY.learning_rate
    twice = replace(TOY, steps=2 * TOY.steps, cycles=2)
    again = [train.learning_rate(step, twice, 2) for step in range(twice.steps)]
    assert again == rates * 2


def test_image_features_get_their_length_and_keep_their_cosines(toy_pool):
    model = train.new_model("picto-vit", 0).eval()
    pictures, _ = pool.dev_pool()
    before = cards.image_features(model, pictures)
    cards.set_length(model)
    after = cards.image_features(model, pictures)
    assert after.norm(dim=-1).mean().item() == pytest.approx(cards.LENGTH, rel=1e-4)
    kept = torch.cosine_similarity(before, after)
    assert torch.allclose(kept, torch.ones(len(pictures)), atol=1e-5)
    other = train.new_model("picto-rn", 0)
    before = weights(other)
    cards.set_length(other)
    assert torch.equal(weights(other), before)


def test_zoom_keeps_shape_and_plain_pictures():
    image = torch.rand(50, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    anything = np.ones(50, bool)
    warped = augment.zoom(image, anything, np.random.default_rng(0))
    assert warped.shape == image.shape
    grey = torch.full((4, 3, 64, 64), 0.3)
    grey = augment.zoom(grey, anything[:4], np.random.default_rng(0))
    assert torch.allclose(grey, torch.tensor(0.3))


def test_numerals_are_never_mirrored():
    ramp = torch.linspace(0, 1, 64).expand(200, 3, 64, 64)
    scenes = np.arange(200) < 100
    warped = augment.zoom(ramp, scenes, np.random.default_rng(0))
    rising = warped[:, 0, 32, 50] >= warped[:, 0, 32, 14]
    assert rising[~scenes].all()
    assert 30 < rising[scenes].sum() < 70


def test_pictures_vary_in_colour_blur_and_noise_by_the_chances():
    pictures = np.random.default_rng(0).integers(0, 255, (400, 16, 16, 3), np.uint8)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    recoloured = augment.recolour(x, np.random.default_rng(1))
    changed = (recoloured - x).abs().flatten(1).amax(1) > 1e-4
    spread = recoloured.amax(1) - recoloured.amin(1)
    grey = spread.flatten(1).amax(1) < 1e-5
    assert 0.45 < changed.float().mean() < 0.65
    assert 0.06 < grey.float().mean() < 0.15
    blurred = augment.blur(x, np.random.default_rng(1))
    softer = blurred.flatten(1).std(1) < 0.98 * x.flatten(1).std(1)
    assert 0.15 < softer.float().mean() < 0.32
    flat = torch.full((9, 3, 16, 16), 0.4)
    assert torch.allclose(augment.blur(flat, np.random.default_rng(2)), flat)
    varied = augment.vary(pictures, np.ones(400, bool), np.random.default_rng(3))
    again = augment.vary(pictures, np.ones(400, bool), np.random.default_rng(3))
    assert torch.equal(varied, again)
    assert varied.shape == x.shape
    assert varied.isfinite().all()


def test_disturbance_leaves_out_patches_and_adds_strangers_in_training_alone():
    x = torch.randn(5, 17, 8, generator=torch.Generator().manual_seed(0))
    layer = transformer.Disturbance()
    assert torch.equal(layer.eval()(x), x)
    layer.train()
    torch.manual_seed(0)
    lengths = set()
    for _ in range(40):
        seen = layer(x)
        assert torch.equal(seen[:, 0], x[:, 0])
        kept = seen[:, 1:9]
        assert (kept[:, :, None] == x[:, None, 1:]).all(-1).any(-1).all()
        lengths.add(seen.shape[1] - 9)
    assert lengths == set(transformer.STRANGERS)


def test_pool_ends_with_numerals_under_their_names(toy_pool):
    pictures, tokens = pool.training_pool(200)
    assert pictures.shape == (210, 64, 64, 3)
    assert tokens.shape == (210, pool.CAPTIONS_EACH, pool.TOKENS)
    assert np.array_equal(pictures[207], numerals.image(7))
    read = open_clip.SimpleTokenizer(bpe_path=str(embedded.MERGES))
    assert "seven" in read.decode(tokens[207, 0].tolist())


def test_numerals_look_like_their_digit():
    """Ink where a digit of that name has it: half of them match their own mean best."""
    seen = [
        [_ink(numerals.image(1000 + 10 * i + d)) for i in range(60)] for d in range(10)
    ]
    means = np.mean(seen, axis=1)
    for d, name in enumerate(numerals.NAMES):
        inks = np.stack([_ink(numerals.image(10 * i + d)) for i in range(40)])
        distances = ((inks[:, None] - means) ** 2).sum(axis=(2, 3))
        assert (distances.argmin(axis=1) == d).sum() >= 20, name


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


def test_the_transformer_takes_over_its_teachers_texts_and_learns_on(toy_pool):
    recipe = replace(train.RECIPES["picto-vit-2"], steps=25, images=8, warmup=5)
    pictures, tokens = pool.training_pool(recipe.images)
    members = members_of(recipe.images)
    model = train.new_model("picto-vit-2", 0).train()
    teacher = train.new_model("picto-rn", 1).eval().requires_grad_(False)
    slow = transformer.take_over_texts(model, teacher)
    optimizer = train.new_optimizer(model, recipe, slow)
    images, texts = train.draw_batch(pictures, tokens, members, 0, recipe)
    goal = teacher.encode_image(images)
    assert torch.equal(model.encode_text(texts), teacher.encode_text(texts))
    assert torch.equal(model.logit_scale, teacher.logit_scale)
    rates = {id(p): g["rate"] for g in optimizer.param_groups for p in g["params"]}
    assert {rates[id(p)] for p in model.transformer.parameters()} == {train.SLOW_RATE}
    assert {rates[id(p)] for p in model.visual.parameters()} == {1}
    assert rates[id(model.logit_scale)] == train.SCALE_RATE

    def apart() -> float:
        with torch.no_grad():
            features = torch.nn.functional.normalize(model.encode_image(images), dim=-1)
            return transformer.imitation(features, goal).item()

    before, words = apart(), model.encode_text(texts).detach()
    for step in range(recipe.steps):
        batch = train.draw_batch(pictures, tokens, members, step, recipe)
        train.training_step(model, optimizer, *batch, teacher)
    assert apart() < 0.75 * before
    assert not torch.allclose(model.encode_text(texts), words, atol=1e-3)
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


@pytest.mark.parametrize("name", embedded.names())
def test_card_tells_the_truth(name):
    """On one split: weights and world are those of the card for all of them."""
    card = embedded.card(name)
    assert card["world"] == pool.world_hash()
    assert (embedded.ASSETS / f"{name}.safetensors").stat().st_size < 10e6
    model = clip.load(name, "picto", device="cpu")
    assert card["logit_scale"] == pytest.approx(model.logit_scale, abs=0.02)
    measured, claimed = (
        cards.accuracies(name, model.model, "picto-a"),
        card["zero_shot"],
    )
    assert measured == pytest.approx(claimed["picto-a"], abs=0.003)


@pytest.mark.parametrize(
    ("name", "at_home"),
    [
        ("picto-rn", 0.9),
        ("picto-rn-2", 0.9),
        ("picto-rn-3", 0.9),
        ("picto-vit", 0.85),
        ("picto-vit-2", 0.85),
    ],
)
def test_the_world_is_a_distribution_with_shifts(name, at_home):
    """What the study needs of its embedded CLIPs; odd places tell shape from place."""
    reached = embedded.card(name)["zero_shot"]
    assert reached["picto"]["photo"] > at_home
    assert 0.15 < reached["picto-a"]["photo"] < 0.4
    for shift in set(cards.TESTS) - {"picto", "picto-a"}:
        assert 0.25 < reached[shift]["photo"] < reached["picto"]["photo"] - 0.1, shift
    assert reached["picto-o"]["photo"] > 0.65
    assert reached["picto-s"]["sketch"] > reached["picto-s"]["photo"] + 0.1


@pytest.mark.parametrize("name", ["picto-vit", "picto-vit-2"])
def test_a_shipped_vit_has_the_length_of_clips_features(name):
    model = clip.load(name, "picto", device="cpu").model
    pictures = pool.render("picto-dev", range(0, splits.SPLITS["picto-dev"].size, 20))
    lengths = cards.image_features(model, pictures).norm(dim=-1)
    assert lengths.mean().item() == pytest.approx(cards.LENGTH, rel=0.02)


@pytest.mark.parametrize("split", ["picto-a", "unlabelled-a"])
def test_picto_a_and_its_pool_are_what_fooled_the_filter(split):
    network = hard_filter.new_network(len(splits.CLASS_NAMES)).eval()
    network.load_state_dict(load_file(embedded.ASSETS / "picto-filter.safetensors"))
    indices = range(0, splits.SPLITS[split].size, 10)
    labels = np.array([splits.scene(split, i).label for i in indices])
    pictures = splits.images(split, indices)
    probability = hard_filter.probabilities(network, pictures)
    assert hard_filter.fooled(probability, labels).mean() > 0.99
    first, attempt = splits.kept(split)[0]
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
    monkeypatch.setitem(hard_filter.KEEP, "picto-a", 3)
    monkeypatch.setattr(hard_filter, "CONFIDENCE", 0.0)
    network = hard_filter.train_filter(steps=2, images=16, batch=8)
    report = hard_filter.publish(network, toy_pool)
    assert report["pool"] == 40
    scenes = report["scenes"]
    assert set(scenes) == {"picto-a", "unlabelled-a"}
    kept = [i for i, _ in [*scenes["picto-a"], *scenes["unlabelled-a"]]]
    assert len(scenes["picto-a"]) == 3
    assert kept == sorted(set(kept))
    assert len(kept) == round(report["kept_share"] * 40)


def test_unknown_asset_is_named():
    with pytest.raises(ValueError, match="choose picto-tokenizer, picto-filter"):
        make.main("picto-rm", [])
