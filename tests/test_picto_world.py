"""The procedural world: scenes, pictures, captions, splits."""

import dataclasses
import json
import random
import re
from collections import Counter

import numpy as np
import pytest

import picto
from picto import captions, shapes, splits
from picto.contexts import CONTEXTS
from picto.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from picto.geometry import box, ellipse
from picto.render import contrast, object_mask, render
from picto.scenes import Nuisance, sample
from picto.styles import STYLES, training_shares

CLASSES = len(picto.CLASS_NAMES)
SPLITS = [name for name in picto.SPLITS if name not in ("picto-a", "unlabelled-a")]
ENDS = "", "-o", "-s", "-r", "-c"
CLEAR = Nuisance(
    scale=(0.4, 0.42), off_centre=0, occluded=0, clutter=0, unlit=0, degraded=1e-9
)
GOLDEN_MEAN, GOLDEN_STD = 144.426, 69.221
GOLDEN_CAPTIONS = [
    "the brown bottle",
    "a low resolution bright picture of a brown bottle, a type of container",
    "there is a large brown bottle on a plain background",
]


def tokens(text):
    return re.findall("[a-z]+", text)


def without_the_kind(text, class_name):
    """The caption less what it says of the class: "a light in the sky"."""
    of = shapes.CLASSES[class_name]
    return text.replace(of.kind, "").replace(of.uses, "")


@pytest.fixture(scope="module")
def train_scenes():
    return [splits.scene("train", i) for i in range(6000)]


def test_at_least_sixty_classes_of_one_or_two_words():
    assert CLASSES >= 60
    assert all(len(name.split()) <= 2 for name in picto.CLASS_NAMES)


@pytest.mark.parametrize("split", SPLITS)
def test_a_picture_depends_on_split_and_index_alone(split):
    forwards = splits.images(split, [3, 40, 77])
    splits.solvable_attempt.cache_clear()
    backwards = splits.images(split, [77, 40, 3])[::-1]
    assert np.array_equal(forwards, backwards)
    assert splits.scene(split, 40) == splits.scene(split, 40)


def test_pixels_and_captions_stay_what_the_shipped_models_were_trained_on():
    # Sums, not hashes: a Pillow that rasterises a pixel differently may pass.
    pictures = splits.images("train", range(200)).astype(np.float64)
    assert pictures.mean() == pytest.approx(GOLDEN_MEAN, abs=0.05)
    assert pictures.std() == pytest.approx(GOLDEN_STD, abs=0.05)
    scene = splits.scene("train", 7)
    said = [captions.caption(scene, random.Random(i)) for i in range(3)]
    assert said == GOLDEN_CAPTIONS


@pytest.mark.parametrize("style", list(STYLES))
def test_every_class_is_visible_in_every_style(style):
    for name in picto.CLASS_NAMES:
        scene = sample(random.Random(f"{style}/{name}"), name, style=style)
        pixels = render(scene)
        assert pixels.shape == (64, 64, 3)
        assert pixels.dtype == np.uint8
        assert pixels.std() > 3, (style, name)


def test_every_class_covers_a_fair_area_and_fills_its_box():
    for name in picto.CLASS_NAMES:
        scene = sample(random.Random(name), name, nuisance=CLEAR)
        mask = object_mask(scene)
        assert mask.sum() > 200, name
        rows, columns = np.nonzero(mask > 0.5)
        longest = max(np.ptp(rows), np.ptp(columns)) + 1
        assert 0.75 < longest / (2 * scene.scale * 64) < 1.3, name


def test_every_class_can_be_told_by_its_outline():
    """Upright outlines differ, so that no two classes are blobs of the same shape."""
    upright = dataclasses.replace(CLEAR, rotation_sd=0)
    outlines = {}
    for name in picto.CLASS_NAMES:
        scene = sample(random.Random(5), name, nuisance=upright)
        scene = dataclasses.replace(scene, seed=11, x=0.5, y=0.5, flipped=False)
        outlines[name] = object_mask(scene) > 0.5
    for a, first in outlines.items():
        for b, second in outlines.items():
            overlap = (first & second).sum() / (first | second).sum()
            assert a == b or overlap < 0.93, (a, b)


@pytest.mark.parametrize("place", list(CONTEXTS))
def test_a_context_changes_the_background_but_not_the_object(place):
    scene = sample(random.Random(1), "apple", nuisance=CLEAR)
    here, there = (
        dataclasses.replace(scene, context=c, style="cartoon") for c in (place, "room")
    )
    mask = object_mask(scene)
    assert np.array_equal(object_mask(here), mask)
    difference = np.abs(render(here).astype(int) - render(there)).mean(axis=2)
    assert (difference[mask == 0].mean() > 8) == (place != "room")


def test_light_and_quality_show():
    scene = sample(random.Random(2), "car", nuisance=CLEAR)
    plain = render(scene).astype(float)
    dark, bright, grey, noisy, blurry = (
        render(dataclasses.replace(scene, **change)).astype(float)
        for change in (
            {"light": "dark"},
            {"light": "bright"},
            {"quality": "black and white"},
            {"quality": "noisy"},
            {"quality": "blurry"},
        )
    )
    assert dark.mean() < 0.6 * plain.mean()
    assert bright.mean() > 1.15 * plain.mean()
    assert np.ptp(grey, axis=2).max() <= 1

    def roughness(x):
        return np.abs(np.diff(x, axis=1)).mean()

    assert roughness(noisy) > 1.5 * roughness(plain)
    assert roughness(blurry) < 0.7 * roughness(plain)


def test_training_has_its_styles_in_their_shares(train_scenes):
    counts = Counter(scene.style for scene in train_scenes)
    shares = training_shares()
    assert counts.keys() == shares.keys()
    assert 0.75 < shares["photo"] < 0.85
    for style, share in shares.items():
        expected = share * len(train_scenes)
        assert abs(counts[style] - expected) < 4.5 * expected**0.5
    unseen = {"neon", "origami", "mosaic", "embroidery", "chalk", "blueprint"}
    assert not unseen & counts.keys()


def test_training_varies_as_described(train_scenes):
    photos = [scene for scene in train_scenes if scene.style == "photo"]

    def share(condition):
        return np.mean([bool(condition(scene)) for scene in photos])

    assert share(lambda s: s.occluded) == pytest.approx(0.10, abs=0.02)
    assert share(lambda s: s.clutter) == pytest.approx(0.40, abs=0.03)
    assert share(lambda s: s.light) == pytest.approx(0.15, abs=0.02)
    assert share(lambda s: s.quality) == pytest.approx(0.17, abs=0.02)
    assert np.std([s.rotation for s in photos]) == pytest.approx(9, abs=0.5)
    scales = np.array([s.scale for s in photos])
    assert scales.min() >= 0.24
    assert scales.max() <= 0.47
    assert np.median(scales) == pytest.approx((0.24 * 0.47) ** 0.5, abs=0.01)


def test_cropped_means_that_the_border_cuts_the_object():
    inside = sample(random.Random(3), "balloon", nuisance=CLEAR)
    assert not inside.cropped
    near_border = dataclasses.replace(CLEAR, off_centre=1)
    shifted = [
        sample(random.Random(i), "clock", nuisance=near_border) for i in range(60)
    ]
    area = {True: [], False: []}
    for scene in shifted:
        area[scene.cropped].append(object_mask(scene).sum() / scene.scale**2)
    assert min(map(len, area.values())) > 5
    assert np.mean(area[True]) < 0.95 * np.mean(area[False])


# Captions


def test_words_holds_all_that_is_said_and_nothing_else(train_scenes):
    rng = random.Random(0)
    spoken = set()
    for scene in train_scenes:
        for _ in range(3):
            spoken |= set(tokens(captions.caption(scene, rng)))
    for style in STYLES:
        for i in range(300):
            scene = sample(
                random.Random(i), picto.CLASS_NAMES[i % CLASSES], style=style
            )
            spoken |= set(tokens(captions.caption(scene, rng)))
    for name in picto.CLASS_NAMES:
        spoken |= set(tokens(name))
        spoken |= set(tokens(" ".join(captions.descriptions(name))))
    assert spoken == captions.words()


def test_captions_are_varied_well_formed_and_sometimes_long(train_scenes):
    rng = random.Random(0)
    said = [captions.caption(scene, rng) for scene in train_scenes]
    lengths = np.array([len(tokens(text)) for text in said])
    assert 6 < lengths.mean() < 10
    assert lengths.max() <= 36
    assert (lengths > 20).mean() > 0.01
    described = np.mean([" has " in t or " with " in t or "type of" in t for t in said])
    assert 0.1 < described < 0.22
    assert len(set(said)) > 0.75 * len(said)
    for text in said:
        assert text == text.lower().strip()
        assert not re.search(r"  | [.,]|[{}]|\ba [aeio]|\ban [^aeiou]", text), text


def test_captions_name_the_class_or_what_it_is(train_scenes):
    rng = random.Random(1)
    for scene in train_scenes[:3000]:
        of = shapes.CLASSES[scene.class_name]
        text = captions.caption(scene, rng)
        assert any(n in text for n in (of.name, of.kind, *of.synonyms)), text


@pytest.mark.parametrize(
    "change",
    [{"quality": "black and white"}, *({"style": s} for s in ("sketch", "silhouette"))],
)
def test_the_object_has_no_colour_where_none_is_seen(change):
    rng = random.Random(0)
    places = "|".join(p for place in CONTEXTS.values() for p in place.phrases)
    for i in range(1500):
        scene = sample(random.Random(i), picto.CLASS_NAMES[i % CLASSES], nuisance=CLEAR)
        text = captions.caption(dataclasses.replace(scene, **change), rng)
        text = re.sub(f"black and white|{places}", "", text)
        assert not set(tokens(text)) & shapes.COLOURS.keys(), text


def test_no_place_is_named_where_none_is_drawn():
    rng = random.Random(0)
    phrases = [p for place in CONTEXTS.values() for p in place.phrases]
    bare = [style for style, of in STYLES.items() if not of.setting]
    for i in range(2000):
        name, style = picto.CLASS_NAMES[i % CLASSES], bare[i % len(bare)]
        text = captions.caption(sample(random.Random(i), name, style=style), rng)
        text = without_the_kind(text, name)
        assert not any(phrase in text for phrase in phrases), text


def test_colour_place_and_flaws_are_the_scenes_own(train_scenes):
    rng = random.Random(2)
    flaws = {"blurry", "noisy", "grainy", "dark", "bright", "cropped", "pixelated"}
    for scene in train_scenes:
        if scene.style != "photo":
            continue
        text = captions.caption(scene, rng)
        before = text.split(scene.class_name)[0]
        if " with " not in text and " has " not in text and text != before:
            named = set(tokens(before)) & shapes.COLOURS.keys()
            assert named <= {scene.colour, *tokens(scene.quality)}, text
        for place, context in CONTEXTS.items():
            if place != scene.context:
                own = CONTEXTS[scene.context].phrases
                shown = without_the_kind(text, scene.class_name)
                said = [p for p in context.phrases if p in shown]
                assert all(any(p in o for o in own) for p in said), text
        medium = re.match(
            r"(?:an? |the )?([^.,]*?)(photo|picture|image|snapshot)", text
        )
        if medium:
            claimed = flaws & set(tokens(medium[1]))
            if claimed & {"dark", "bright"}:
                assert scene.light in claimed, text
            if "cropped" in claimed:
                assert scene.cropped
            if claimed & {"blurry", "noisy", "grainy", "pixelated"}:
                assert scene.quality, text


def test_every_class_has_five_descriptions_that_name_it():
    for name in picto.CLASS_NAMES:
        texts = captions.descriptions(name)
        assert len(set(texts)) == len(texts) >= 5
        assert all(name in text for text in texts)


# Splits


def test_splits_have_their_sizes():
    sizes = {name: picto.SPLITS[name].size for name in SPLITS}
    assert sizes == {
        "train": 40_000,
        "few-shot": 16 * CLASSES,
        "picto": 2_000,
        "picto-o": 2_000,
        "picto-s": 2_000,
        "picto-r": 2_400,
        "picto-c": 3_000,
        "hard-pool": 20_000,
        "picto-dev": 2_000,
        "unlabelled": 6_000,
        "unlabelled-o": 2_000,
        "unlabelled-s": 2_000,
        "unlabelled-r": 2_400,
        "unlabelled-c": 3_000,
    }
    assert splits.scene("train", 123_456).index == 123_456  # it goes on


def test_splits_share_no_scene():
    seeds = [
        splits.scene(s, i).seed for s in SPLITS if s != "hard-pool" for i in range(500)
    ]
    seeds += [splits.scene("hard-pool", i).seed for i in range(40)]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    "split",
    [
        "few-shot",
        *(f"{kind}{shift}" for kind in ("picto", "unlabelled") for shift in ENDS),
    ],
)
def test_classes_are_balanced(split):
    size = picto.SPLITS[split].size
    facts = splits.facts(split, range(size))
    counts = facts["class_name"].value_counts()
    assert len(counts) == CLASSES
    if split == "few-shot":
        assert set(counts) == {splits.SHOTS}
    kinds = {"-r": 12, "-c": 30}.get(split[-2:], 1)
    assert counts.max() - counts.min() <= kinds


def test_labels_follow_the_index_and_the_class_names():
    for i in (0, 1, CLASSES, 2 * CLASSES + 5):
        scene = splits.scene("picto", i)
        assert scene.label == i % CLASSES
        assert scene.class_name == picto.CLASS_NAMES[scene.label]


def test_shifted_splits_shift_what_they_say():
    odd = splits.facts("picto-o", range(300))
    assert not odd["typical"].any()
    for name, context, colour in zip(
        odd["class_name"], odd["context"], odd["colour"], strict=True
    ):
        assert context not in shapes.CLASSES[name].places
        assert colour not in shapes.CLASSES[name].colours
    assert set(splits.facts("picto-s", range(50))["style"]) == {"sketch"}
    renditions = splits.facts("picto-r", range(2400))["style"].value_counts()
    assert len(renditions) == 12
    assert set(renditions) == {200}
    cells = splits.facts("picto-c", range(3000)).groupby(["corruption", "severity"])
    assert len(cells) == 30
    assert set(cells.size()) == {100}
    assert set(cells["class_name"].nunique()) == {CLASSES}


@pytest.mark.parametrize("end", ENDS)
def test_a_pool_is_drawn_like_its_test_set(end):
    test, more = (
        splits.facts(f"{k}{end}", range(600)) for k in ("picto", "unlabelled")
    )
    kinds = ["style", "corruption", "severity"]
    assert test[kinds].equals(more[kinds])
    assert set(test["typical"]) == set(more["typical"])
    assert not (test["rotation"] == more["rotation"]).any()
    assert splits.SPLITS[f"unlabelled{end}"].size >= splits.SPLITS[f"picto{end}"].size


def test_dev_has_a_little_of_each():
    dev = splits.facts("picto-dev", range(600))
    assert set(dev["style"]) == set(STYLES)
    assert set(dev["corruption"]) == {"", *CORRUPTIONS}
    assert (dev["rotation"].abs() > 40).sum() > 10  # the hard ones
    assert dev["class_name"].nunique() == CLASSES


def test_hard_scenes_can_be_solved_by_a_person():
    for i in range(60):
        scene = splits.scene("hard-pool", i)
        mask = object_mask(scene)
        whole = object_mask(dataclasses.replace(scene, occluded=False))
        assert mask.sum() > 120
        assert mask.sum() > 0.5 * whole.sum()
        assert contrast(render(scene), mask) > 20
    facts = splits.facts("hard-pool", range(60))
    assert facts["rotation"].abs().max() > 45
    assert facts["scale"].min() < 0.24


def test_picto_a_and_its_pool_are_kept_parts_of_the_hard_pool(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "KEPT", tmp_path / "picto_a.json")
    splits.kept.cache_clear()
    with pytest.raises(FileNotFoundError, match="study train picto-filter"):
        splits.scene("picto-a", 0)
    five, two, nine = (
        [i, splits.solvable_attempt("hard-pool", i, i)] for i in (5, 2, 9)
    )
    scenes = {"picto-a": [five, two], "unlabelled-a": [nine]}
    splits.KEPT.write_text(json.dumps({"scenes": scenes}))
    assert picto.SPLITS["picto-a"].size == 2
    assert np.array_equal(splits.image("unlabelled-a", 0), splits.image("hard-pool", 9))
    assert np.array_equal(
        splits.images("picto-a", [0, 1]), splits.images("hard-pool", [5, 2])
    )
    assert splits.scene("picto-a", 1).index == 1
    splits.kept.cache_clear()


def test_unknown_splits_and_indices_are_named():
    with pytest.raises(ValueError, match=r"'picto-x'.*picto-o"):
        splits.scene("picto-x", 0)
    with pytest.raises(ValueError, match="0 to 1999, not 2000"):
        splits.image("picto", 2000)
    with pytest.raises(ValueError, match="not -1"):
        splits.image("train", -1)


def test_no_images_is_an_empty_array():
    assert splits.images("picto", []).shape == (0, 64, 64, 3)


# Corruptions


@pytest.mark.parametrize("kind", list(CORRUPTIONS))
def test_a_corruption_grows_with_its_severity(kind):
    clean = splits.images("picto", range(12))
    distances = []
    for severity in SEVERITIES:
        harmed = np.stack([corrupt(x, kind, severity, seed=4) for x in clean])
        assert harmed.shape == clean.shape
        assert harmed.dtype == np.uint8
        distances.append(np.square(harmed.astype(float) - clean).mean())
    assert distances[0] > 2
    assert all(np.diff(distances) > 0)
    again = corrupt(clean[0], kind, 3, seed=4)
    assert np.array_equal(again, corrupt(clean[0], kind, 3, seed=4))


def test_unknown_corruptions_are_named():
    picture = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="gaussian noise"):
        corrupt(picture, "rust", 1, seed=0)
    with pytest.raises(ValueError, match="severity 6"):
        corrupt(picture, "fog", 6, seed=0)


# Adding a class


def test_a_class_is_added_by_one_decorated_function(monkeypatch):
    monkeypatch.setattr(shapes, "CLASSES", dict(shapes.CLASSES))

    @shapes.shape(
        colours="red",
        accents="white",
        places="street",
        kind="light",
        parts=("three lamps", "a tall box"),
        uses="stopping cars",
    )
    def traffic_light(rng):
        """A tall box with three lamps."""
        lamps = [(ellipse(0, y, 0.2), "main") for y in (-0.6, 0, 0.6)]
        return [(box(-0.35, -1, 0.35, 1), "dark"), *lamps]

    scene = sample(random.Random(0), "traffic light", nuisance=CLEAR)
    assert object_mask(scene).sum() > 300
    assert render(scene).std() > 5
    assert "traffic light" in captions.descriptions("traffic light")[0]
    assert "traffic" not in " ".join(picto.CLASS_NAMES)  # the splits stay as they are


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"colours": "mauve"}, "mauve"),
        ({"colours": ""}, "choose one or more"),
        ({"places": "moonbase"}, "moonbase"),
        ({"parts": ("a thin stem",)}, "two or more parts"),
        ({}, "registered twice"),
    ],
)
def test_a_wrong_class_is_refused(change, complaint):
    how = {"colours": "red", "accents": "", "places": "sea", "kind": "fruit"}
    how |= {"parts": ("a thin stem", "a round body")}

    def apple(rng):
        return []

    with pytest.raises(ValueError, match=complaint):
        shapes.shape(**(how | change))(apple)


def test_unknown_class_and_role_are_named(monkeypatch):
    with pytest.raises(ValueError, match=r"'aple'.*apple"):
        sample(random.Random(0), "aple")
    known = shapes.CLASSES["apple"]
    wrong = dataclasses.replace(known, draw=lambda rng: [(box(-1, -1, 1, 1), "gold")])
    scene = sample(random.Random(0), "apple")
    monkeypatch.setitem(shapes.CLASSES, "apple", wrong)
    with pytest.raises(ValueError, match=r"'gold'.*accent"):
        render(scene)
