"""Backbones: exact text cropping, weights, and clear refusals."""

import copy
import dataclasses

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from helpers.models import clip, embedded

PROMPTS = ["a kite.", "a photo of a small red apple in a green field.", "moon", "a"]


@pytest.fixture(scope="module")
def picto() -> clip.Backbone:
    return clip.load("picto-rn", "picto", device="cpu")


@pytest.mark.parametrize("name", ["picto-rn", "RN50-quickgelu"])
def test_cropped_text_is_exact(name):
    model = clip.load(name, "random", device="cpu")
    with torch.inference_mode():
        tokens = model.tokenizer(PROMPTS)
        full = model.model.encode_text(tokens, normalize=True)
    assert tokens.shape[1] == model.context_length
    assert torch.allclose(model.encode_texts(PROMPTS), full, atol=1e-5)


def test_custom_text_tower_is_cropped_exactly():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-S-32", force_custom_text=True).eval()
    tokens = open_clip.get_tokenizer("ViT-S-32")(PROMPTS)
    with torch.inference_mode():
        full = model.encode_text(tokens)
        cropped = clip.encode_tokens(model, tokens[:, :14])
    assert torch.allclose(cropped, full, atol=1e-5)


@pytest.mark.parametrize(
    "reading", [{"pool_type": "last"}, {"no_causal_mask": True}, {"embed_cls": True}]
)
def test_other_text_towers_get_their_full_context(picto, reading):
    """SigLIP reads the last position, CoCa an extra one: cropping would be wrong."""
    config = open_clip.get_model_config("picto-rn")
    config["text_cfg"] |= reading
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.model.CustomTextCLIP(**config).eval()
    with torch.inference_mode():
        full = model.encode_text(picto.tokenizer(PROMPTS), normalize=True)
    other = dataclasses.replace(picto, model=model)
    assert torch.allclose(other.encode_texts(PROMPTS), full, atol=1e-5)


def test_every_pair_that_open_clip_ships_is_a_choice():
    for name, tag in open_clip.list_pretrained():
        assert tag in clip.weight_choices(name), (name, tag)


def test_towers_of_timm_encode_images_and_texts():
    model = clip.load("MobileCLIP-S1", "random", device="cpu")
    assert model.encode_texts(["a kite."]).shape == (1, model.embed_dim)
    images = torch.zeros(1, 3, model.image_size, model.image_size)
    assert model.encode_images(images).shape == (1, model.embed_dim)


def test_features_may_take_part_in_a_gradient(picto):
    scale = torch.ones(1, requires_grad=True)
    (picto.encode_texts(["a kite."]) * scale).sum().backward()
    assert scale.grad is not None


def test_the_key_tells_apart_what_the_weights_do_not(picto):
    gelu = dataclasses.replace(picto, name="picto-rn-gelu")
    half = dataclasses.replace(picto, precision="bfloat16")
    resized = copy.deepcopy(picto.model)
    resized.visual.preprocess_cfg["interpolation"] = "bilinear"
    resized = dataclasses.replace(picto, model=resized)
    assert len({backbone.key for backbone in (picto, gelu, half, resized)}) == 4


def test_features_are_unit_and_do_not_depend_on_company(picto):
    together = picto.encode_texts(PROMPTS)
    alone = torch.cat([picto.encode_texts([prompt]) for prompt in PROMPTS])
    assert torch.allclose(together.norm(dim=-1), torch.ones(len(PROMPTS)), atol=1e-6)
    assert torch.allclose(together, alone, atol=1e-5)
    images = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = picto.encode_images(images)
    shuffled = picto.encode_images(images[[3, 1, 4, 0, 2]])
    assert torch.allclose(features[[3, 1, 4, 0, 2]], shuffled, atol=1e-5)
    assert features.dtype == torch.float32


def test_template_features_are_template_by_class(picto):
    features = picto.template_features(["apple", "kite"], ["a {}.", "{}", "the {}"])
    assert features.shape == (3, 2, picto.embed_dim)
    expected = picto.encode_texts(["the kite"])[0]
    assert torch.allclose(features[2, 1], expected, atol=1e-5)


def test_more_prompts_than_a_batch_keep_their_order(picto):
    texts = [f"{'small ' * (i % 7)}thing {i}" for i in range(clip.TEXT_BATCH + 30)]
    features = picto.encode_texts(texts)
    for i in (0, 5, 257, 285):
        assert torch.allclose(features[i], picto.encode_texts([texts[i]])[0], atol=1e-5)


def test_openai_token_ids():
    tokens = open_clip.get_tokenizer("RN50-quickgelu")("a photo of a dog.")[0].tolist()
    assert tokens[:8] == [49406, 320, 1125, 539, 320, 1929, 269, 49407]


def test_openai_weights_get_quick_gelu():
    assert clip.with_quick_gelu("RN50", "openai") == "RN50-quickgelu"
    assert clip.with_quick_gelu("ViT-B-16", "openai") == "ViT-B-16-quickgelu"
    assert clip.with_quick_gelu("ViT-B-16-quickgelu", "openai") == "ViT-B-16-quickgelu"
    assert clip.with_quick_gelu("ViT-B-16", "laion2b_s34b_b88k") == "ViT-B-16"
    block = clip.load("ViT-B-32-quickgelu", "random", device="cpu").model.transformer
    assert type(block.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def test_quick_gelu_is_used_with_a_warning(monkeypatch):
    asked = []

    def offline(name, **options):
        asked.append(name)
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", offline)
    monkeypatch.setattr("helpers.models.hub.out_of_reach", lambda: "")
    with (
        pytest.warns(UserWarning, match="using RN50-quickgelu"),
        pytest.raises(RuntimeError, match="give the file's path as `weights`"),
    ):
        clip.load("RN50", "openai", device="cpu")
    assert asked == ["RN50-quickgelu"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_local_weights_are_the_weights(tmp_path, picto, suffix):
    path = tmp_path / f"mine{suffix}"
    state = {k: v.contiguous() for k, v in picto.model.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    again = clip.load("picto-rn", str(path), device="cpu")
    assert again.fingerprint == picto.fingerprint
    assert torch.equal(again.encode_texts(PROMPTS), picto.encode_texts(PROMPTS))


def test_code_in_a_weights_file_is_not_run(tmp_path):
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (ran.touch, ())

    torch.save({"weights": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match=r"trap\.pt"):
        clip.load("picto-rn", str(tmp_path / "trap.pt"), device="cpu")
    assert not ran.exists()


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = clip.load("picto-rn", "random", device="cpu", seed=3)
    torch.manual_seed(2)
    assert clip.load("picto-rn", "random", device="cpu", seed=3).fingerprint == (
        first.fingerprint
    )
    other = clip.load("picto-rn", "random", device="cpu", seed=4)
    assert other.fingerprint != first.fingerprint


def test_backbone_is_frozen(picto):
    assert not picto.model.training
    assert not any(p.requires_grad for p in picto.model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("RN5O", "openai"), "did you mean 'RN50"),
        (("RN50-quickgelu", "opnai"), "choose one of .*openai"),
        (("RN50-quickgelu", "picto"), "not for RN50-quickgelu"),
        (("picto-rn", "/nowhere/w.safetensors"), "no weights file at /nowhere"),
        (("picto-rn", "picto", "tpu"), "device 'tpu' is not available"),
        (("picto-rn", "picto", "cpu", "float16"), "float16 is for GPUs"),
        (("picto-rn", "picto", "cpu", "half"), "choose one of"),
    ],
)
def test_bad_arguments_are_told(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        clip.load(*arguments)


def test_prompts_that_do_not_fit_are_refused(picto):
    with pytest.raises(ValueError, match="shorten 'very very"):
        picto.encode_texts(["fine", "very " * 60])
    with pytest.raises(ValueError, match="no texts"):
        picto.encode_texts([])


def test_damaged_embedded_weights_are_refused(tmp_path, monkeypatch):
    for file in embedded.ASSETS.glob("picto-rn*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "picto-rn.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    monkeypatch.setattr(embedded, "ASSETS", tmp_path)
    with pytest.raises(ValueError, match="study train picto-rn"):
        clip.load("picto-rn", "picto", device="cpu")


def test_bfloat16_keeps_float32_features(picto):
    half = clip.load("picto-rn", "picto", device="cpu", precision="bfloat16")
    close = half.encode_texts(PROMPTS)
    assert close.dtype == torch.float32
    assert torch.allclose(close, picto.encode_texts(PROMPTS), atol=0.05)
