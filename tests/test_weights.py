"""Weights that people have on disk: each kind loads, or is refused in one line."""

import copy
import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory, pretrained
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
)

from helpers.models import clip, embedded, weights
from helpers.study import checks, doctor

TINY = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 64,
        "patch_size": 8,
        "head_width": 32,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}
PROMPTS = ["a kite.", "a photo of a small red apple in a green field.", "moon"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Small architectures that open_clip knows while a test runs."""
    embedded.register()
    other = copy.deepcopy(TINY)
    other["vision_cfg"]["patch_size"] = 16
    known = {
        "tiny": TINY,
        "tiny-quickgelu": TINY | {"quick_gelu": True},
        "other": other,
    }
    for name, config in known.items():
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, config)


@torch.no_grad()
def stirred(model: nn.Module) -> nn.Module:
    """The model with weights so large that every one of them shows in its features."""
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        fan = value[0].numel() if value.ndim > 1 else 4
        scale = 1.0 if "embedding" in name else 2 / fan**0.5
        value.copy_(torch.randn(value.shape) * scale)
    model.logit_scale.fill_(4.0)
    return model.eval()


def hugging_face(act: str = "quick_gelu", **sizes: int) -> CLIPModel:
    """A CLIPModel of the tiny architecture."""
    towers = {"hidden_act": act, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = towers | {"hidden_size": 32, "intermediate_size": 128}
    image = towers | {"hidden_size": 64, "intermediate_size": 256}
    image |= {"image_size": 32, "patch_size": 8} | sizes
    return stirred(
        CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=16))
    )


def ours(act: str = "quick_gelu") -> nn.Module:
    name = "tiny-quickgelu" if act == "quick_gelu" else "tiny"
    return stirred(open_clip.create_model(name))


def pixels(side: int = 32, count: int = 3) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same(loaded: clip.Backbone, model: nn.Module) -> None:
    """Image and text features are those of the open_clip or transformers model."""
    images = pixels(loaded.image_size)
    tokens = loaded.tokenizer(PROMPTS)
    if isinstance(model, CLIPModel):
        told = model(input_ids=tokens, pixel_values=images)
        seen, read = told.image_embeds, told.text_embeds
    else:
        seen = model.encode_image(images, normalize=True)
        read = model.encode_text(tokens, normalize=True)
    assert (seen[0] - seen[1]).abs().max() > 0.01  # the test sees the weights
    torch.testing.assert_close(loaded.encode_images(images), seen, atol=1e-4, rtol=0)
    torch.testing.assert_close(loaded.encode_texts(PROMPTS), read, atol=1e-4, rtol=0)
    expected = float(model.logit_scale.exp())
    assert loaded.logit_scale == pytest.approx(expected, rel=1e-3)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.contiguous() for k, v in model.state_dict().items()}


# Hugging Face


def test_a_hugging_face_clip_of_true_size_gives_its_features(tmp_path):
    """ViT-B/32, which is transformers' own CLIPConfig; in half precision."""
    with torch.device("meta"):  # what transformers draws takes longer than all else
        model = CLIPModel(CLIPConfig())
    model = model.to_empty(device="cpu")
    for tower in (model.text_model, model.vision_model):
        positions = tower.embeddings.position_ids
        positions.copy_(torch.arange(positions.shape[1]))
    stirred(model).half().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="using ViT-B-32-quickgelu"):
        loaded = clip.load("ViT-B-32", str(tmp_path), "cpu")
    assert_same(loaded, model.float())


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("form", ["folder", "file", "bin", "old names"])
def test_hugging_face_clips_give_their_features(tmp_path, act, form):
    model = hugging_face(act)
    model.save_pretrained(tmp_path)
    given = tmp_path / "model.safetensors" if form == "file" else tmp_path
    if form == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    if form == "old names":
        (tmp_path / "model.safetensors").unlink()
        position = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
        torch.save(model.state_dict() | position, tmp_path / "pytorch_model.bin")
    name = "tiny-quickgelu" if act == "quick_gelu" else "tiny"
    assert not checks._weights(str(given), {"backbone": "tiny"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = clip.load(name, str(given), "cpu")
    assert_same(loaded, model)
    other = {"tiny", "tiny-quickgelu"} - {name}
    with pytest.warns(UserWarning, match=f"using {name} instead"):
        assert clip.load(other.pop(), str(given), "cpu").name == name


def test_a_file_without_its_config_is_asked_about_quick_gelu(tmp_path):
    save_file(state_of(hugging_face("gelu")), tmp_path / "mine.safetensors")
    with pytest.warns(UserWarning, match="name the backbone tiny-quickgelu"):
        loaded = clip.load("tiny", str(tmp_path / "mine.safetensors"), "cpu")
    assert_same(loaded, hugging_face("gelu"))


def test_pictures_go_in_as_the_processor_says(tmp_path):
    hugging_face().save_pretrained(tmp_path)
    noise = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    side = {"height": 32, "width": 32}
    processor = CLIPImageProcessor(
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.2, 0.3, 0.4],
        size={"shortest_edge": 32},
        crop_size=side,
        resample=2,
    )
    processor.save_pretrained(tmp_path)
    loaded = clip.load("tiny-quickgelu", str(tmp_path), "cpu")
    seen = processor(picture, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(loaded.preprocess(picture), seen, atol=1e-5, rtol=0)
    assert loaded.model.visual.preprocess_cfg["interpolation"] == "bilinear"


# OpenAI


class Archive(nn.Module):
    """Tensors of any names in a module, as TorchScript wants them."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        for key, value in state.items():
            *path, last = key.split(".")
            place = self
            for name in path:
                if not hasattr(place, name):
                    place.add_module(name, Archive({}))
                place = getattr(place, name)
            place.register_buffer(last, value)


def archive(path: Path, model: nn.Module) -> str:
    """A TorchScript archive as OpenAI's: half precision, and three numbers besides."""
    numbers = {name: torch.tensor(7) for name in weights.NUMBERS}
    halves = {k: v.half() for k, v in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Archive(halves | numbers)), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_openai_archives_of_published_digest_are_read(tmp_path, monkeypatch):
    model = ours().half().float()
    path = tmp_path / "TINY.pt"
    digest = archive(path, model)
    monkeypatch.setattr(weights, "published", lambda: {digest: "tiny"})
    assert not checks._weights(str(path), {"backbone": "tiny"})
    with pytest.warns(UserWarning, match="using tiny-quickgelu"):
        loaded = clip.load("tiny", str(path), "cpu")
    assert_same(loaded, model)


def test_other_archives_are_never_opened(tmp_path, monkeypatch):
    path = tmp_path / "TINY.pt"
    archive(path, ours("gelu").half().float())
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("opened"))
    with pytest.raises(ValueError, match="none that OpenAI published"):
        clip.load("tiny", str(path), "cpu")


def test_published_digests_are_those_of_openai():
    digests = weights.published()
    assert set(digests.values()) == {
        *("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"),
        *("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"),
    }
    assert all(len(digest) == 64 and int(digest, 16) for digest in digests)
    assert digests[
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
    ] == ("RN50")


# open_clip


def open_clip_folder(folder: Path, model: nn.Module, **changes) -> Path:
    folder.mkdir(parents=True)
    config = copy.deepcopy(TINY) | {"quick_gelu": True} | changes
    ways = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bilinear",
    }
    content = {"model_cfg": config, "preprocess_cfg": ways}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_file(state_of(model), folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize("prefix", ["local-dir:", ""])
def test_folders_of_open_clip_are_its_own(tmp_path, prefix):
    folder = open_clip_folder(tmp_path / "mine", ours())
    save_file({"x": torch.zeros(1)}, folder / "another.safetensors")
    with pytest.warns(UserWarning, match="using tiny-quickgelu instead"):
        loaded = clip.load("tiny", f"{prefix}{folder}", "cpu")
    expected = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    assert_same(loaded, expected[0].eval())
    picture = Image.effect_noise((50, 40), 90).convert("RGB")
    assert torch.equal(loaded.preprocess(picture), expected[1](picture))


def snapshot(cache: Path, page: str, fill) -> None:
    """A page of the hub as its library keeps it."""
    place = cache / f"models--{page.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    fill(place / "snapshots" / ("0" * 40))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_pages_in_the_cache_are_read_offline(cache):
    snapshot(cache, "me/mine", lambda folder: open_clip_folder(folder, ours()))
    snapshot(cache, "me/theirs", hugging_face("gelu").save_pretrained)
    assert not checks._weights("hf-hub:me/mine", {"backbone": "tiny-quickgelu"})
    loaded = clip.load("tiny-quickgelu", "hf-hub:me/mine", "cpu")
    assert_same(loaded, ours())
    assert loaded.model.visual.preprocess_cfg["mean"] == (0.5, 0.4, 0.3)
    loaded = clip.load("tiny", "hf-hub:me/theirs", "cpu")
    assert_same(loaded, hugging_face("gelu"))


def test_tags_in_the_cache_are_read_offline(cache, monkeypatch):
    tag = {"mine": pretrained._pcfg(hf_hub="me/mine/", quick_gelu=True)}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-quickgelu", tag)
    with pytest.raises(RuntimeError, match="cannot get the weights 'mine'") as caught:
        clip.load("tiny-quickgelu", "mine", "cpu")
    assert "\n" not in str(caught.value)
    snapshot(cache, "me/mine", lambda folder: open_clip_folder(folder, ours()))
    assert_same(clip.load("tiny-quickgelu", "mine", "cpu"), ours())


def test_pages_to_be_downloaded_are_told(cache, monkeypatch):
    fault = checks._weights("hf-hub:me/mine", {"backbone": "tiny"})
    assert "`hf download me/mine`" in fault
    assert "HF_HUB_OFFLINE is set" in fault
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert not checks._weights("hf-hub:me/mine", {"backbone": "tiny"})
    report = doctor.Report()
    assert not doctor.check_weights(report, "tiny", "hf-hub:me/mine")
    assert "the run downloads about" in report.text()
    assert report.ok


def test_a_page_without_its_mark_is_understood():
    fault = checks._weights("openai/clip-vit-base-patch32", {"backbone": "ViT-B-32"})
    assert "did you mean hf-hub:openai/clip-vit-base-patch32?" in fault


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"model": {f"_orig_mod.{k}": v for k, v in s.items()}},
        lambda s: {f"net.clip.{k}": v for k, v in s.items()} | {"loss": torch.ones(2)},
    ],
)
def test_checkpoints_of_trainings_are_unwrapped(tmp_path, wrap):
    path = tmp_path / "epoch_3.ckpt"
    torch.save(wrap(ours().state_dict()), path)
    assert_same(clip.load("tiny-quickgelu", str(path), "cpu"), ours())


def test_counters_of_old_batch_norms_may_be_missing(tmp_path):
    model = clip.load("picto-rn", "picto", "cpu")
    state = model.model.state_dict()
    kept = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert len(kept) < len(state)
    torch.save(kept, tmp_path / "old.pt")
    again = clip.load("picto-rn", str(tmp_path / "old.pt"), "cpu")
    images = pixels(model.image_size)
    assert torch.equal(again.encode_images(images), model.encode_images(images))


# Refusals: a line each, the same from the checks, the doctor and the loader


class Settings:
    """An object of somebody's own, as trainers pickle them with their weights."""


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _written(content: bytes):
    def make(folder: Path) -> Path:
        (folder / "w.pt").write_bytes(content)
        return folder / "w.pt"

    return make


def _saved(content, name: str = "w.pt", cut: bool = False):
    def make(folder: Path) -> Path:
        made = content()
        if name.endswith(".safetensors"):
            save_file(made, folder / name)
        else:
            torch.save(made, folder / name)
        if cut:
            _cut(folder / name)
        return folder / name

    return make


def _folder(*files: str, model=None):
    def make(folder: Path) -> Path:
        if model:
            model().save_pretrained(folder)
        for name in files:
            (folder / name).write_text("{}")
        return folder

    return make


def _shard(folder: Path) -> Path:
    hugging_face().save_pretrained(folder, max_shard_size="1MB")
    return sorted(folder.glob("model-00001-of-*.safetensors"))[0]


def _changed(key: str, value):
    def make(folder: Path) -> Path:
        hugging_face().save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        config["vision_config"][key] = value
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def _other_resampling(folder: Path) -> Path:
    hugging_face().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"resample": 1}')
    return folder


def _other_heads(folder: Path) -> Path:
    vision = TINY["vision_cfg"] | {"head_width": 16}
    return open_clip_folder(folder / "mine", ours(), vision_cfg=vision)


def _siglip() -> SiglipModel:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2}
    image = sizes | {"image_size": 32, "patch_size": 8}
    text = sizes | {"vocab_size": 100}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=image))


def _siglip_file(folder: Path) -> Path:
    save_file(state_of(_siglip()), folder / "siglip.safetensors")
    return folder / "siglip.safetensors"


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 350000000\n"
REFUSED = {
    "LFS pointer": (_written(LFS), "Git LFS pointer.*git lfs pull"),
    "web page": (_written(b"\n<!DOCTYPE html><html>"), "is a web page"),
    "empty": (_written(b""), "is empty: download it again"),
    "text": (_written(b"not found"), "is no weights file"),
    "cut safetensors": (
        _saved(lambda: state_of(ours()), "w.safetensors", cut=True),
        "damaged or cut short.*download it again",
    ),
    "cut zip": (
        _saved(lambda: ours().state_dict(), cut=True),
        "damaged or cut short.*download it again",
    ),
    "objects": (
        _saved(lambda: {"state_dict": ours().state_dict(), "s": Settings()}, "w.ckpt"),
        "Python objects besides tensors.*save its state dict alone",
    ),
    "a list": (_saved(lambda: [1, 2]), "holds a list, no state dict"),
    "no CLIP": (
        _saved(lambda: {"layer1.0.conv1.weight": torch.ones(2)}),
        r"no whole CLIP: 1 other tensors \(layer1.0.conv1.weight\)",
    ),
    "other architecture": (
        _saved(lambda: state_of(stirred(open_clip.create_model("other")))),
        r"no tiny: visual.positional_embedding is \[5, 64\] instead of \[17, 64\], "
        r"visual.conv1.weight is ",
    ),
    "missing": (
        _saved(lambda: {k: v for k, v in state_of(ours()).items() if "ln" not in k}),
        r"22 tensors are missing \(visual.ln_pre.weight\)$",
    ),
    "too many": (
        _saved(lambda: state_of(ours()) | {"adapter.weight": torch.ones(2)}),
        r"1 are of no use here \(adapter.weight\)",
    ),
    "SigLIP": (_folder(model=_siglip), "model of type siglip.*hf-hub:timm/"),
    "SigLIP's file": (_siglip_file, "model of type siglip"),
    "several": (
        _folder("a.pt", "b.ckpt"),
        "several files of weights: name one of a.pt, b.ckpt",
    ),
    "nothing": (_folder("readme.txt"), "holds no weights"),
    "a shard": (_shard, "one of several shards: save the model in one file"),
    "other heads": (_changed("num_attention_heads", 4), r"\(4, 2\) attention heads"),
    "other heads of open_clip": (_other_heads, "vision_cfg has head_width 16"),
    "other resampling": (_other_resampling, "resample 1: open_clip resizes"),
    "other activation": (_changed("hidden_act", "gelu"), "hidden_act is gelu and"),
    "no page": (lambda folder: "hf-hub:me", "no page of the hub"),
    "no file": (lambda folder: f"local-dir:{folder / 'x'}", "no weights file at"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:.*QuickGELU")
def test_what_is_no_weights_is_told_in_a_line(tmp_path, kind):
    make, pattern = REFUSED[kind]
    given = str(make(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError), match=pattern) as caught:
        clip.load("tiny", given, "cpu")
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 700
    assert checks._weights(given, {"backbone": "tiny"}) == line
    report = doctor.Report()
    assert not doctor.check_weights(report, "tiny", given)
    assert line in report.text()


@pytest.mark.parametrize("kind", ["web page", "no file", "a shard"])
def test_the_run_refuses_them_before_it_starts(tmp_path, kind):
    given = str(REFUSED[kind][0](tmp_path))
    with pytest.raises(ValueError, match=REFUSED[kind][1]):
        checks.check({"backbone": "tiny", "weights": given}, "mine.yaml")
