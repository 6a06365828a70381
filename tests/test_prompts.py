"""Templates, class descriptions and noise: every text that a class can stand in."""

import json
import re
import shutil

import open_clip
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from helpers.methods.descriptions import class_features
from helpers.methods.zero_shot import ensemble, zero_shot
from helpers.models import embedded
from helpers.prompts import descriptions, waffle
from helpers.prompts.templates import TEMPLATES
from picto import captions
from picto.shapes import CLASSES
from tools import generate

NAMES = ("hen", "barn owl", "Great_White Shark")
DCLIP = {
    "hen": ["two legs", "a red comb", "used for eggs"],
    "barn owl": ["antlers", "often white", "canvas"],
    "great white shark": [],
}
CUPL = {
    "hen": ["A hen is a bird.", "It has feathers."],
    "barn owl": ["A barn owl hunts at night"],
    "great white shark": ["A shark swims."],
}


def words_of(*texts: str) -> list[str]:
    return [word for text in texts for word in re.findall("[a-z]+", text.lower())]


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def written(tmp_path, content) -> str:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


# templates


def test_the_styles_use_known_words():
    styles = TEMPLATES["styles"]
    assert len(set(styles)) == len(styles) == 23
    # The embedded tokenizer's merges are those of these words: a new one changes it.
    known = captions.words() | set(words_of(*TEMPLATES["openai_80"]))
    assert set(words_of(*styles)) <= known


# descriptions


@pytest.mark.parametrize("kind", descriptions.KINDS)
def test_the_embedded_texts_cover_the_world_in_its_words(kind):
    names = [of.name for of in CLASSES.values()]
    texts = descriptions.load("picto", names, kind)
    least, most = (5, 5) if kind == "sentences" else (4, 6)
    assert all(least <= len(set(t)) == len(t) <= most for t in texts)
    known = captions.words()
    for of_class in texts:
        words = words_of(*of_class)
        assert sum(word in known for word in words) > 0.7 * len(words)


def test_the_embedded_texts_are_as_their_methods_need_them():
    names = [of.name for of in CLASSES.values()]
    sentences = [t for ts in descriptions.load("picto", names) for t in ts]
    assert all(
        t[0].isupper() and t.count(".") == 1 == t[-1:].count(".") for t in sentences
    )
    lists = descriptions.load("picto", names, "descriptors")
    prompts = [t for ts in descriptions.dclip_prompts(names, lists, True) for t in ts]
    glued = re.compile(r"which (has (?!an? )|is an? |is used )")
    assert all(glued.search(prompt) for prompt in prompts)
    tokenizer = open_clip.SimpleTokenizer(bpe_path=str(embedded.MERGES))
    config = json.loads((embedded.ASSETS / "picto-rn.json").read_text())
    longest = max(len(tokenizer.encode(text)) for text in sentences + prompts)
    assert longest + 2 <= config["text_cfg"]["context_length"]


def test_the_embedded_texts_say_who_wrote_them():
    content = json.loads((descriptions.ASSETS / "picto.json").read_text())
    assert "language model" in content["provenance"]["written_by"]
    assert "not chosen or edited by accuracy" in content["provenance"]["selection"]


def test_published_layouts_are_told_apart(tmp_path):
    path = written(tmp_path, DCLIP)
    assert descriptions.load(path, NAMES, "descriptors") == list(DCLIP.values())
    with pytest.raises(ValueError, match="holds descriptors, not sentences"):
        descriptions.load(path, NAMES)
    path = written(tmp_path, CUPL)
    assert descriptions.load(path, NAMES) == list(CUPL.values())
    with pytest.raises(ValueError, match="wrap them"):
        descriptions.load(path, NAMES, "descriptors")
    path = written(tmp_path, {"sentences": DCLIP | {"great white shark": ["gills"]}})
    assert descriptions.load(path, ["hen"]) == [DCLIP["hen"]]  # the file's word counts


def test_order_is_the_callers_and_twins_share_their_texts(tmp_path):
    path = written(tmp_path, CUPL | {"HEN": ["A loud hen."]})
    texts = descriptions.load(path, ["HEN", "Barn_Owl", "hen", "hen"])
    assert texts == [["A loud hen."], CUPL["barn owl"], CUPL["hen"], CUPL["hen"]]
    with pytest.raises(ValueError, match="'hen', 'HEN'"):
        descriptions.load(path, ["Hen"])


def test_missing_classes_are_all_named(tmp_path):
    path = written(tmp_path, CUPL | {"emu": [" "]})
    with pytest.raises(ValueError, match=r"3 of 4 classes: 'cat', 'dog', 'emu'"):
        descriptions.load(path, ["cat", "hen", "dog", "emu"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([["a"]], "must hold an object"),
        ({}, "must hold an object"),
        ({"hen": "two legs"}, "'hen' must be a list of strings"),
        ({"hen": [1]}, "'hen' must be a list of strings"),
        ({"sentences": {"hen": None}}, "'hen' must be a list of strings"),
    ],
)
def test_other_layouts_are_refused_by_name(tmp_path, content, says):
    with pytest.raises(ValueError, match=says):
        descriptions.read(written(tmp_path, content))


def test_what_is_not_there_or_not_json(tmp_path):
    with pytest.raises(FileNotFoundError, match="picto"):
        descriptions.read(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"hen": [')
    with pytest.raises(ValueError, match=r"half\.json is not JSON"):
        descriptions.read(tmp_path / "half.json")
    with pytest.raises(ValueError, match="choose one of sentences, descriptors"):
        descriptions.load("picto", ["cat"], "captions")


@pytest.mark.parametrize(
    ("descriptor", "prompt"),
    [
        ("two legs", "which has two legs"),
        ("a red comb", "which is a red comb"),
        ("antlers", "which is antlers"),
        ("used for eggs", "which is used for eggs"),
        ("has gills", "which has gills"),
        ("often white", "which often white"),
        ("typically brown", "which typically brown"),
        ("may be striped", "which may be striped"),
        ("can fly", "which can fly"),
        ("canvas", "which canvas"),
        ("A comb", "which has A comb"),
    ],
)
def test_dclips_glue_is_the_published_one(descriptor, prompt):
    assert descriptions.glue(descriptor) == prompt


def test_dclip_prompts_with_and_without_a_photo():
    bare = descriptions.dclip_prompts(("hen", "cat"), [["two legs", "a comb"], []])
    assert bare == [["hen, which has two legs", "hen, which is a comb"], ["cat"]]
    photo = descriptions.dclip_prompts(("hen", "cat"), [["two legs"], []], photo=True)
    assert photo == [["A photo of a hen, which has two legs."], ["A photo of a cat."]]
    with pytest.raises(ValueError, match="shorter"):
        descriptions.dclip_prompts(("hen", "cat"), [["two legs"]])


def test_pooled_templates_are_shared_and_seeded():
    lists = [["two legs", "a beak"], ["two legs", "fur {soft}"], ["fins", "gills"]]
    pool = {"two legs", "a beak", "fur {soft}", "fins", "gills"}
    all_five = descriptions.pooled_templates(lists, 5)
    assert {t.format("cat") for t in all_five} == {
        f"A photo of a cat, which has {text}." for text in pool
    }
    turned = [list(reversed(texts)) for texts in reversed(lists)]
    assert descriptions.pooled_templates(turned, 5) == all_five
    drawn = {descriptions.pooled_templates(lists, 3, seed) for seed in range(9)}
    assert len(drawn) > 3
    assert all(len(set(templates)) == 3 for templates in drawn)
    many = descriptions.pooled_templates(lists, 50)
    assert len(many) == 50
    assert set(many) <= set(all_five)
    with pytest.raises(ValueError, match="no class has"):
        descriptions.pooled_templates([[], []], 4)
    with pytest.raises(ValueError, match="count"):
        descriptions.pooled_templates(lists, 0)


# averages


@pytest.mark.parametrize("renormalise", [False, True])
def test_averages_against_the_literal_definition(renormalise):
    texts = [unit(n, 8, seed=n) for n in (1, 2, 5)]
    images = unit(6, 8)
    logits = zero_shot(images, class_features(texts, renormalise), 100.0)
    for c, of_class in enumerate(texts):
        mean = sum(e.double() for e in of_class) / len(of_class)
        for n, image in enumerate(images.double()):
            score = sum(float(image @ e.double()) for e in of_class) / len(of_class)
            score /= float(mean.norm()) if renormalise else 1
            assert logits[n, c].item() == pytest.approx(100 * score, abs=1e-4)


def test_the_two_averages_can_disagree():
    """One text, or two that disagree: the shorter mean loses where it should win."""
    image = torch.tensor([[1.0, 0.0]])
    lone = torch.tensor([[0.8, 0.6]])
    split = torch.tensor([[0.6, 0.8], [0.6, -0.8]])
    for renormalise, winner in ((False, 0), (True, 1)):
        features = class_features([lone, split], renormalise)
        assert zero_shot(image, features, 1.0).argmax().item() == winner


def test_shared_templates_are_a_special_case_in_any_precision():
    texts = unit(4, 3, 8)
    assert torch.allclose(class_features(texts.unbind(1), True), ensemble(texts))
    half = class_features(texts.half().unbind(1), False)
    assert half.dtype == torch.float32
    assert torch.allclose(half, texts.mean(dim=0), atol=1e-3)
    alone = class_features([texts[:, 0]], False)
    assert alone.shape == (1, 8)


@pytest.mark.parametrize("bad", [torch.empty(0, 8), torch.ones(8)])
def test_a_class_without_texts_is_named(bad):
    with pytest.raises(ValueError, match="class 1 has"):
        class_features([unit(2, 8), bad], False)


# noise


def test_noise_is_as_long_as_the_names():
    assert waffle.noise_size(["hen", "barn owl", "great white shark"]) == (2, 4)
    assert waffle.noise_size(["a", "b c"]) == (2, 1)  # 1.5 words: half to even
    assert waffle.noise_size(["x"]) == (1, 1)


def test_waffle_templates_are_pairs_of_words_and_characters():
    words = ["feather", "by", "mountain"]
    templates = waffle.waffle_templates(["barn owl", "lime tree"], words)
    assert len(templates) == 30
    pattern = re.compile(r"A photo of a \{\}, which has ([a-z]+) ([a-z]+)\.")
    found = [pattern.fullmatch(template).groups() for template in templates]
    for drawn, noise in zip(found[::2], found[1::2], strict=True):
        assert set(drawn) <= {"feat", "by", "moun"}
        assert [len(word) for word in drawn] == [len(word) for word in noise]
        assert drawn != noise
    assert {word for drawn in found[::2] for word in drawn} == {"feat", "by", "moun"}


def test_waffle_templates_depend_on_the_seed_alone():
    names, words = ["cat", "owl"], ["sun", "catamaran", "moon"]
    one = waffle.waffle_templates(names, words, seed=3)
    assert one == waffle.waffle_templates(names[::-1], words, seed=3)
    assert one[:8] == waffle.waffle_templates(names, words, count=4, seed=3)
    assert one != waffle.waffle_templates(names, words, seed=4)
    # A name that is part of a random word stays there when another class is filled in.
    cut = [template for template in one if "cat." in template]
    assert cut
    assert all(t.format("owl").endswith("which has cat.") for t in cut)


@pytest.mark.parametrize(
    ("names", "words", "count", "says"),
    [
        (["cat"], [], 15, "words"),
        (["cat"], ["", "sun"], 15, "words"),
        (["cat"], ["{}"], 15, "words"),
        ([], ["sun"], 15, "names"),
        (["cat", " "], ["sun"], 15, "names"),
        (["cat"], ["sun"], 0, "count"),
    ],
)
def test_waffle_refuses_what_it_cannot_draw_from(names, words, count, says):
    with pytest.raises(ValueError, match=says):
        waffle.waffle_templates(names, words, count)


def test_the_tokenizers_vocabulary_is_a_source_of_words():
    words = waffle.vocabulary(open_clip.SimpleTokenizer(bpe_path=str(embedded.MERGES)))
    assert words == sorted(set(words))
    assert {"lighthouse", "photo"} <= set(words)
    assert all(re.fullmatch("[a-z]{3,}", word) for word in words)
    with pytest.raises(ValueError, match="words of your own"):
        waffle.vocabulary(str.split)


# generation


@pytest.fixture(scope="module")
def writer(tmp_path_factory) -> str:
    """A folder with an untrained GPT-2; of its few words one is the full stop."""
    folder = tmp_path_factory.mktemp("writer")
    words = ["<unk>", "<end>", ".", "-", "red", "legs", "wings", "has"]
    words += [f"word{i}" for i in range(8)]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 320}
    ends = {"bos_token_id": 1, "eos_token_id": 1}
    config = GPT2Config(vocab_size=len(words), **size, **ends)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


def test_the_command_writes_a_file_that_loads(writer, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("owl\n\nbarn swallow\nowl\n")
    out = tmp_path / "new" / "texts.json"
    options = ["--classes", str(tmp_path / "classes.txt"), "--model", writer]
    options += ["--out", str(out), "--answers", "2", "--device", "cpu"]
    assert generate.main(options) == 0
    assert str(out) in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert list(content["sentences"]) == ["owl", "barn swallow"]
    provenance = content["provenance"]
    assert (provenance["seed"], provenance["temperature"]) == (0, 0.99)
    assert writer not in out.read_text()  # no path of this machine
    for texts in descriptions.load(out, ["Owl", "barn_swallow"]):
        assert 1 <= len(texts) <= len(generate.QUESTIONS) * 2
        assert all(text.endswith(".") and text.count(".") == 1 for text in texts)
        assert any(len(text.split()) < generate.SENTENCE_TOKENS for text in texts)


def test_a_stopped_run_goes_on_and_ends_the_same(writer, tmp_path, monkeypatch):
    names = ["owl", "hen", "cat"]
    whole = generate.generate(names, writer, tmp_path / "whole.json", 1, device="cpu")

    asked, write = [], generate._sentences

    def stopped(name, *arguments):
        asked.append(name)
        if asked == ["owl", "hen"]:
            raise KeyboardInterrupt
        return write(name, *arguments)

    monkeypatch.setattr(generate, "_sentences", stopped)
    out = tmp_path / "parts.json"
    with pytest.raises(KeyboardInterrupt):
        generate.generate(names, writer, out, 1, device="cpu")
    assert list(json.loads(out.read_text())["sentences"]) == ["owl"]
    with pytest.raises(ValueError, match="no sentences for 2 of 3 classes: 'hen'"):
        descriptions.load(out, names)
    assert generate.generate(names, writer, out, 1, device="cpu") == whole
    assert asked == ["owl", "hen", "hen", "cat"]
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    with pytest.raises(ValueError, match=r"begun with seed 0, not 1.*--out"):
        generate.generate(names, writer, out, 1, seed=1, device="cpu")
    # Nothing is left to write, so nothing is loaded.
    monkeypatch.setattr(generate, "_load", None)
    assert generate.generate(["hen"], writer, out, 1, device="cpu") == whole


def test_the_seed_and_the_class_decide_what_is_drawn(writer, tmp_path):
    def drawn(*names: str, seed: int = 0) -> dict:
        out = tmp_path / f"{'-'.join(names)}{seed}.json"
        return generate.generate(names, writer, out, 2, seed, "cpu")["sentences"]

    torch.manual_seed(5)
    both, after = drawn("hen", "owl"), torch.rand(1)
    assert drawn("owl")["owl"] == both["owl"] != both["hen"]
    assert drawn("owl", seed=1)["owl"] != both["owl"]
    assert after == torch.rand(1, generator=torch.Generator().manual_seed(5))


def test_sampling_stops_at_the_full_stop(writer, tmp_path, monkeypatch):
    load, new = generate._load, []

    def spied(model, device):
        loaded, tokenizer = load(model, device)
        plain = loaded.generate

        def run(ids, **options):
            output = plain(ids, **options)
            new.append(output[0, ids.shape[1] :].tolist())
            return output

        monkeypatch.setattr(loaded, "generate", run)
        return loaded, tokenizer

    monkeypatch.setattr(generate, "_load", spied)
    generate.generate(["owl", "hen"], writer, tmp_path / "o.json", 1, device="cpu")
    stop, end, limits = 2, 1, (generate.SENTENCE_TOKENS, generate.LIST_TOKENS)
    assert len(new) == 2 * (len(generate.QUESTIONS) + 1)
    for number, ids in enumerate(new):
        is_list = number % 6 == 5
        assert len(ids) <= limits[is_list]
        if not is_list and ids[0] != stop and len(ids) < limits[is_list]:
            assert ids[-1] in (stop, end)
            assert stop not in ids[:-1]
    assert any(ids[-1] == stop and len(ids) < limits[0] for ids in new)


def test_pickled_weights_are_not_read(writer, tmp_path):
    folder = tmp_path / "pickled"
    model = GPT2LMHeadModel.from_pretrained(writer)
    shutil.copytree(writer, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(RuntimeError, match=r"weights as \.safetensors"):
        generate.generate(["hen"], str(folder), tmp_path / "o.json", device="cpu")


def test_a_chat_model_is_asked_in_its_own_form(writer, tmp_path, monkeypatch):
    load, asked = generate._load, []

    def chat(model, device):
        loaded, tokenizer = load(model, device)
        tokenizer.chat_template = "{{ 'red ' + messages[0].content + ' legs' }}"
        monkeypatch.setattr(
            loaded, "generate", lambda ids, **_: asked.append(ids) or ids
        )
        return loaded, tokenizer

    monkeypatch.setattr(generate, "_load", chat)
    written = generate.generate(["owl"], writer, tmp_path / "o.json", 1, device="cpu")
    assert written["sentences"] == {"owl": []}
    assert len(asked) == len(generate.QUESTIONS) + 1
    assert all((ids[0, 0].item(), ids[0, -1].item()) == (4, 5) for ids in asked)


def test_other_files_and_models_are_refused(writer, tmp_path, capsys):
    out = tmp_path / "notes.json"
    out.write_text('{"hen": []}')
    with pytest.raises(ValueError, match="not of our making"):
        generate.generate(["hen"], writer, out)
    assert out.read_text() == '{"hen": []}'
    out = tmp_path / "new.json"
    with pytest.raises(ValueError, match="no class names"):
        generate.generate([" "], writer, out)
    with pytest.raises(ValueError, match="answers"):
        generate.generate(["hen"], writer, out, answers=0)
    with pytest.raises(RuntimeError, match="safetensors"):
        generate.generate(["hen"], str(tmp_path), out, device="cpu")
    with pytest.raises(ValueError, match="context of 320"):
        generate.generate(["hen " * 99], writer, out, device="cpu")
    assert not out.exists()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("A hen is\n a bird. It lays eggs.", "A hen is a bird."),
        ("  no stop before the limit", "no stop before the limit."),
        (". and nothing before it", ""),
        ("", ""),
    ],
)
def test_a_sentence_ends_at_the_first_full_stop(answer, text):
    assert generate.sentence(answer) == text


def test_a_list_ends_where_its_lines_do():
    answer = "- two legs\n- red comb\n-\n\nQ: What"
    assert generate.listed(answer, whole=True) == ["two legs", "red comb"]
    assert generate.listed("- two legs\n- red co", whole=False) == ["two legs"]
    assert generate.listed("- two legs\n- a beak", whole=True) == ["two legs", "a beak"]
    assert generate.listed("None.", whole=True) == []


def test_the_list_question_ends_where_the_model_goes_on():
    question = generate.list_question("an owl")
    assert question.endswith("tell there is an owl in a photo:\n-")
    assert question.count("\nA: ") == 3
    assert question.count("\n\nQ: ") == 2
