"""The behaviour card: its measures against literal ones, and what it leaves out."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from helpers import data, paths
from helpers.models import behaviour, clip
from helpers.results import published
from helpers.study import behaviour as cards
from helpers.study import main

SMALL = {"images": 12, "views": 10}


@pytest.fixture(scope="module")
def dev():
    """A small stand-in for picto-dev, which takes seconds to lay out."""
    photos = data.read("picto-few-shot").subset(range(72))
    parts = ["photo", "hard", "sketch"] * 24
    return replace(photos, facts=photos.facts.assign(part=parts))


@pytest.fixture(scope="module")
def vit():
    return clip.load("picto-vit", "picto", "cpu")


@pytest.fixture(scope="module")
def vit_card(vit, dev):
    return cards.card(vit, dev, **SMALL).set_index("measure")


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def test_gap_is_that_of_the_two_means():
    images, texts = unit(7, 5), unit(3, 5, seed=1)
    mean = [sum(row[d] for row in images.tolist()) / 7 for d in range(5)]
    other = [sum(row[d] for row in texts.tolist()) / 3 for d in range(5)]
    distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(mean, other, strict=True)))
    product = sum(a * b for a, b in zip(mean, other, strict=True))
    cosine = product / math.hypot(*mean) / math.hypot(*other)
    found = behaviour.modality_gap(images, texts)
    assert found == pytest.approx((distance, cosine), rel=1e-6)
    assert behaviour.modality_gap(images, images) == pytest.approx((0, 1), abs=1e-7)


def test_each_pair_of_classes_counts_once():
    features = unit(4, 6)
    literal = [features[i] @ features[j] for i in range(4) for j in range(i + 1, 4)]
    torch.testing.assert_close(behaviour.pair_cosines(features), torch.stack(literal))


def test_common_share_of_movements():
    step = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    alike, opposite = step.expand(6, 5), torch.cat([step, -step])
    assert behaviour.common_share(alike).item() == pytest.approx(1)
    assert behaviour.common_share(opposite).item() == pytest.approx(0, abs=1e-12)
    moved = unit(3, 6, 5)
    for image, share in zip(moved, behaviour.common_share(moved), strict=True):
        squares = [sum(x * x for x in row) for row in image.tolist()]
        mean = [sum(column) / 6 for column in zip(*image.tolist(), strict=True)]
        literal = 6 * sum(x * x for x in mean) / sum(squares)
        assert share.item() == pytest.approx(literal, rel=1e-5)
    shuffled = moved[:, torch.tensor([3, 0, 5, 1, 4, 2])]
    found = behaviour.common_share(shuffled)
    torch.testing.assert_close(found, behaviour.common_share(moved))
    assert behaviour.common_share(torch.zeros(2, 3)).isnan()


@pytest.mark.parametrize("name", ["picto-rn", "picto-vit"])
def test_end_attention_is_that_of_the_whole_prompt(name):
    backbone = clip.load(name, "random", "cpu")
    model, names = backbone.model, ["mug", "hot air balloon", "cat", "ice cream"]
    literal = []
    for class_name in names:
        tokens = backbone.tokenize([f"a photo of a {class_name}."])
        end, own = int(tokens.argmax()), len(backbone.tokenizer.encode(class_name))
        assert end == 5 + own + 1  # start, four words, the name, the full stop
        part = [0] + [1] * 4 + [2] * own + [3] * (tokens.shape[1] - own - 5)
        x, layers = model.token_embedding(tokens) + model.positional_embedding, []
        for block in model.transformer.resblocks:
            y = block.ln_1(x)
            attended, weights = block.attn(
                *(y, y, y), attn_mask=model.attn_mask, average_attn_weights=False
            )
            row = weights[0, :, end].mean(dim=0)
            assert row[end + 1 :].abs().max() == 0
            layers.append(
                [sum(row[i] for i in range(48) if part[i] == p) for p in (0, 1, 2, 3)]
            )
            x = x + block.ls_1(attended)
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        literal.append(torch.tensor(layers))
    found = behaviour.end_attention(backbone, names)
    torch.testing.assert_close(
        found, torch.stack(literal).mean(dim=0), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(found)))
    torch.testing.assert_close(behaviour.end_attention(backbone, names[::-1]), found)


def test_length_is_that_of_features_before_they_are_normalised(vit, dev, vit_card):
    photos = dev.subset(np.flatnonzero(dev.facts["part"] == "photo"))
    photos = photos.sample(SMALL["images"], 0)
    pictures = [vit.preprocess(photos.image(i)) for i in range(len(photos))]
    with torch.no_grad():
        found = [vit.model.encode_image(x[None]).norm().item() for x in pictures]
    told = vit_card.loc["length of image features"]
    assert told["value"] == pytest.approx(np.mean(found), rel=1e-4)
    assert told["n"] == len(found)


def test_card_is_whole_and_its_numbers_agree(vit, vit_card):
    assert not vit_card.index.duplicated().any()
    assert (vit_card["note"] == "").all()
    assert vit_card["value"].notna().all()
    assert (vit_card["n"] > 0).all()
    assert (vit_card["of"] != "").all()
    value = vit_card["value"]
    assert value["logit scale"] == pytest.approx(vit.logit_scale)
    assert value["agreement, 0 unknown tokens"] == 1
    plain = value["accuracy, whole picture"]
    assert value["accuracy, 0 unknown tokens"] == pytest.approx(plain)
    low, middle, high = value.filter(like="over 20 wordings")
    assert low <= middle <= high
    assert value[vit_card["unit"] == "share"].between(0, 1).all()
    layers = value.filter(regex="attention to .*, layer")
    assert len(layers) == 2 * len(vit.model.transformer.resblocks)


@pytest.mark.parametrize("name", ["picto-rn", "picto-vit"])
def test_the_committed_card_is_that_of_the_weights(name, monkeypatch):
    """All but TPT's step and the changes that take longest, on the run's images."""
    few = "centre crop, area 0.5"
    monkeypatch.setattr(cards, "CHANGES", {few: cards.CHANGES[few]})
    monkeypatch.setattr(cards, "_step", lambda *_: None)
    committed = paths.ROOT / "outputs/reference/picto_full/tables/00_behaviour.csv"
    told = pd.read_csv(committed, dtype=str).set_index("measure")
    images = int(told.loc["accuracy, whole picture", "n"].split()[0])
    backbone = clip.load(name, "picto", "cpu")
    found = cards.card(backbone, data.load("picto-dev"), images=images)
    found = found[~found["measure"].str.contains(", layer ")]
    shown = {row["measure"]: cards._shown(row) for _, row in found.iterrows()}
    assert len(shown) > 25
    for measure, value in shown.items():
        number, _, unit = value.replace("%", " %").partition(" ")
        then, _, its_unit = told.loc[measure, name].replace("%", " %").partition(" ")
        assert unit == its_unit
        if number != "left":  # another machine may round an image or two elsewhere
            assert float(number) == pytest.approx(float(then), rel=0.02, abs=0.01)


def test_measures_take_their_part_of_the_development_set():
    dev = data.read("picto-dev")
    for name in ("photo", "hard", "sketch"):
        part = cards._part(dev, name, 12, 0)
        assert set(part.facts["part"]) == {name}
        assert len(part) == 12
    assert set(cards._part(dev, "sketch", 0, 0).facts["style"]) == {"sketch"}


def test_labels_are_not_read_where_they_are_closed(vit, dev, vit_card):
    found = cards.card(vit, dev, labelled=False, **SMALL).set_index("measure")
    assert list(found.index) == list(vit_card.index)
    lacking = found["note"].str.contains("needs label")
    assert found["value"].isna().equals(lacking)
    for measure in found.index:
        by_label = measure.startswith(("accuracy", "gain", "calib", "cosine of match"))
        assert lacking[measure] == by_label, measure
    hidden = np.random.default_rng(0).permutation(dev.labels)
    other = replace(dev, labels=hidden)
    again = cards.card(vit, other, labelled=False, **SMALL).set_index("measure")
    pd.testing.assert_frame_equal(again, found)


def test_only_development_sets_and_folders_have_open_labels(tmp_path):
    for name in data.names():
        assert (name in cards.OPEN_LABELS) == (
            name in ("picto-dev", "picto-few-shot", "folder")
        )
    for number, name in enumerate(["mug", "cat"]):
        (tmp_path / name).mkdir()
        shade = Image.new("RGB", (80, 70), (90 * number, 60, 20))
        shade.save(tmp_path / name / "one.png")
    dataset, labelled = cards.read(str(tmp_path))
    assert labelled
    assert dataset.class_names == ("cat", "mug")
    dataset, labelled = cards.read(str(tmp_path), class_names=["dog", "hat", "sun"])
    assert not labelled
    assert dataset.ids == ("cat/one.png", "mug/one.png")
    assert cards.read("picto-a")[1] is False
    dataset, labelled = cards.read(str(tmp_path), class_names=["mug", "cat", "sun"])
    assert labelled
    assert dataset.labels.tolist() == [1, 0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures in"):
        cards.read(str(tmp_path / "empty"), class_names=["dog", "hat"])


def test_a_change_that_changes_nothing_agrees_with_itself(vit, dev, monkeypatch):
    same = {"nothing": lambda backbone, image, _: backbone.crop(image)}
    black = {"black": lambda backbone, image, _: 0 * backbone.crop(image)}
    monkeypatch.setattr(cards, "CHANGES", same | black)
    rows, home = cards._Rows(), cards._part(dev, "photo", 12, 0)
    pixels = cards._stacked(vit.crop(image) for image in cards._pictures(home))
    features = cards._encode(vit, pixels)
    classes = vit.template_features(dev.class_names, [cards.PHOTO])[0]
    labels = torch.from_numpy(home.labels)
    cards._changes(rows, vit, home, features, classes, labels, 0)
    value = pd.DataFrame(rows.rows).set_index("measure")["value"]
    assert value["agreement, nothing"] == 1
    assert value["agreement, black"] < 0.3


def test_views_have_the_area_they_name(vit):
    ramp = np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 64, 3))
    image, generator = Image.fromarray(ramp), np.random.default_rng(0)
    for area in (0.5, 0.25):
        view = cards.CHANGES[f"centre crop, area {area}"](vit, image, generator)
        span = float(view[0, -1, 0]) - float(view[0, 0, 0])
        assert span == pytest.approx(64 * math.sqrt(area), abs=3)
        view = cards.CHANGES[f"random crop, area {area}"](vit, image, generator)
        assert view.shape == (3, 64, 64)
        assert view.dtype == torch.uint8
    dot = np.zeros((64, 64, 3), dtype=np.uint8)
    dot[32, 32] = 255
    spread = cards.CHANGES["blur"](vit, Image.fromarray(dot), generator)[0].double()
    assert spread[32, 32] == pytest.approx(255 / (2 * math.pi), abs=1.5)  # sigma 1


@pytest.mark.parametrize(
    ("name", "precision"), [("picto-rn", "float32"), ("picto-vit", "bfloat16")]
)
def test_random_towers_and_low_precision(name, precision, dev):
    backbone = clip.load(name, "random", "cpu", precision)
    found = cards.card(backbone, dev, images=4, views=10).set_index("measure")
    lacking = found.index[found["value"].isna()]
    drawn = found.index.str.contains("[1-9]\\d* unknown tokens?")
    tokens = found.index[drawn] if name == "picto-rn" else []
    assert list(lacking) == list(tokens)
    assert found.loc[tokens, "note"].str.contains("no ViT").all()


def test_text_towers_of_another_kind_are_left_out(vit, dev, monkeypatch):
    def refuse(backbone):
        raise ValueError("not causal")

    monkeypatch.setattr(behaviour, "check_tower", refuse)
    monkeypatch.setattr(cards, "PromptTower", lambda *_: refuse(None))
    found = cards.card(vit, dev, **SMALL).set_index("measure")
    lacking = found.index[found["note"].str.contains("not causal")]
    assert len(lacking) == 4
    assert all("TPT" in m or "token's" in m for m in lacking)


def test_published_values_have_a_measure_and_a_source(vit_card):
    known = published.behaviour()
    assert set(known) <= set(vit_card.index)
    assert all("arXiv" in text or "README" in text for text in known.values())
    both = {"one": vit_card.reset_index(), "two": vit_card.reset_index()}
    table = cards.beside_published(both).set_index("measure")
    assert list(table.columns) == ["n", "one", "two", "published"]
    assert table.loc["modality gap: distance of means", "published"].startswith("0.82")
    assert table.loc["agreement, blur", "published"] == cards.UNPUBLISHED
    assert not table.index.str.contains("layer").any()


def test_command_prints_the_card_and_writes_it(tmp_path, capsys):
    file = tmp_path / "card.json"
    given = ["--weights", "random", "--dataset", "picto-few-shot", "--images", "4"]
    assert main(["behaviour", "picto-rn", *given, "--json", str(file)]) == 0
    told = capsys.readouterr().out
    assert "logit scale" in told
    assert "not published" in told
    assert "no ViT" in told
    written = {row["measure"]: row for row in json.loads(file.read_text())}
    assert written["logit scale"]["value"] == pytest.approx(1 / 0.07, rel=1e-3)
    assert main(["behaviour", "picto-nn"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_paths_of_the_command_count_from_where_the_user_stands(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["behaviour", "picto-rn", "--weights", "./mine.pt"]) == 2
    assert f"no weights file at {tmp_path}/mine.pt" in capsys.readouterr().err
    given = ["--dataset", "folder", "--data-root", "photos"]
    assert main(["behaviour", "picto-rn", *given]) == 2
    assert f"{tmp_path}/photos" in capsys.readouterr().err
