"""Diffusion: SDEdit, real pipelines with random weights, generated views, DiffTPT."""

import itertools
import json
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImageVariationPipeline,
    StableDiffusionImg2ImgPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from torchvision.transforms.functional import to_pil_image
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from helpers import data, store
from helpers.methods import difftpt, selection, tpt
from helpers.models import clip, diffusion, sdedit
from helpers.store.generated import generated_features
from picto import diffusion as training


@pytest.fixture(scope="module")
def little() -> sdedit.SDEditPipeline:
    """The embedded kind, untrained."""
    torch.manual_seed(0)
    pipeline = sdedit.new_pipeline((8, 16), 4)
    pipeline.unet.eval()
    return pipeline


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def pictures(count: int, size: int = 64) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(p).resize((size, size), Image.BICUBIC) for p in small]


# SDEdit


def test_sdedit_is_ddim_on_the_cosine_schedule(little):
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    found = little(x, 0.6, 3, seeds(5, 6))
    noise = torch.stack([torch.randn(3, 64, 64, generator=g) for g in seeds(5, 6)])
    beta = _cosine_betas()
    share = torch.cumprod(1 - beta, dim=0)
    times = [599, 399, 199]
    z = share[599].sqrt() * x.double() + (1 - share[599]).sqrt() * noise.double()
    for now, after in itertools.pairwise([*times, None]):
        a, s = share[now].sqrt(), (1 - share[now]).sqrt()
        blocks = F.pixel_unshuffle(z.float(), 4)
        with torch.inference_mode():
            clean = F.pixel_shuffle(little.unet(blocks, now).sample, 4).double()
        fresh = (z - a * clean) / s
        z = clean
        if after is not None:
            z = share[after].sqrt() * clean + (1 - share[after]).sqrt() * fresh
    assert torch.allclose(found.double(), z.clamp(-1, 1), atol=1e-4)


def _cosine_betas() -> torch.Tensor:
    def level(t: float) -> float:
        return float(np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2)

    pairs = itertools.pairwise(i / 1000 for i in range(1001))
    return torch.tensor(
        [min(1 - level(b) / level(a), 0.999) for a, b in pairs]
    ).double()


def test_a_variation_belongs_to_its_seed_not_to_its_batch(little):
    x = torch.rand(3, 3, 64, 64) * 2 - 1
    together = little(x, 0.4, 2, seeds(1, 2, 3))
    alone = little(x[2:], 0.4, 2, seeds(3))
    other = little(x[2:], 0.4, 2, seeds(4))
    assert torch.allclose(together[2:], alone, atol=1e-5)
    assert not torch.allclose(alone, other, atol=1e-2)


# A variator, whatever draws


def variator(draw, batch: int = 4) -> diffusion.Variator:
    return diffusion.Variator("made up", draw, 8, batch, "key")


def test_black_and_broken_pictures_are_drawn_again():
    calls = []

    def draw(images, generators):
        calls.append([g.initial_seed() for g in generators])
        drawn = torch.full((len(images), 3, 8, 8), 0.5)
        if len(calls) == 1:
            drawn[1] = 0  # what a safety checker leaves
            drawn[2, 0, 0, 0] = torch.nan
        return drawn

    found = variator(draw)(pictures(4), [10, 11, 12, 13])
    assert calls == [[10, 11, 12, 13], [11 + 2**40, 12 + 2**40]]
    assert (found.redrawn, found.given_up) == (2, 0)
    assert found.pictures.dtype == torch.uint8
    assert (found.pictures == 128).all()


def test_a_picture_that_stays_black_is_given_up_for_the_original():
    images = pictures(1, size=8)
    found = variator(lambda images, _: torch.zeros(len(images), 3, 8, 8))(images, [1])
    assert (found.redrawn, found.given_up) == (diffusion.TRIES, 1)
    assert torch.equal(found.pictures[0], diffusion._square(images[0], 8))


def test_out_of_memory_halves_the_batch_and_goes_on(capsys):
    sizes = []

    def draw(images, generators):
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.stack([torch.rand(3, 8, 8, generator=g) for g in generators])

    small = variator(draw, batch=8)
    found = small(pictures(5), [1, 2, 3, 4, 5])
    assert sizes == [5, 4, 2, 2, 1]
    assert small.batch == 2
    assert "out of memory, now 2 pictures at once" in capsys.readouterr().out
    direct = [torch.rand(3, 8, 8, generator=g) for g in seeds(1, 2, 3, 4, 5)]
    assert torch.equal(found.pictures, (torch.stack(direct) * 255).round().byte())


def test_out_of_memory_with_one_picture_and_other_errors_are_raised():
    def full(images, generators):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(images, generators):
        raise RuntimeError("shapes differ")

    for draw, message in ((full, "out of memory"), (broken, "shapes differ")):
        with pytest.raises(RuntimeError, match=message):
            variator(draw)(pictures(3), [1, 2, 3])


@pytest.mark.parametrize(
    "wrong", [{"strength": 0}, {"strength": 1.5}, {"steps": 0}, {"guidance": -1}]
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        diffusion.load(**wrong)


def test_a_missing_pipeline_says_how_to_fetch_it(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="hf download nobody/nothing"):
        diffusion.load("nobody/nothing")


# Real classes, random weights


def _tiny_parts() -> dict:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    scheduler = DDIMScheduler()
    rest = {"safety_checker": None, "feature_extractor": None}
    return {"unet": unet, "vae": vae, "scheduler": scheduler, **rest}


@pytest.fixture(scope="module")
def image_to_image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image-to-image")
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.model_max_length = 8
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=3,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    pipeline = StableDiffusionImg2ImgPipeline(
        **_tiny_parts(),
        text_encoder=text,
        tokenizer=tokenizer,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture(scope="module")
def image_variation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image-variation")
    vision = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=224,
            patch_size=112,
        )
    )
    parts = _tiny_parts() | {"feature_extractor": CLIPImageProcessor()}
    pipeline = StableDiffusionImageVariationPipeline(
        image_encoder=vision, requires_safety_checker=False, **parts
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.mark.parametrize("kind", ["image_to_image", "image_variation"])
def test_real_pipelines_draw_batches_by_seed(kind, request):
    folder = str(request.getfixturevalue(kind))
    made = diffusion.load(folder, strength=0.5, steps=2, guidance=3.0, device="cpu")
    images = [*pictures(2, 50), pictures(1, 30)[0].resize((90, 40)).convert("L")]
    found = made(images, [1, 2, 3])
    again = made(images[1:], [2, 3])
    assert found.pictures.shape == (3, 3, 16, 16)
    differ = found.pictures[1:].int() - again.pictures.int()
    assert differ.abs().max() <= 1  # rounding, in another batch
    other = made(images[:1], [9])
    assert (other.pictures[0].int() - found.pictures[0].int()).abs().max() > 1
    assert made.key != diffusion.load(folder, strength=0.5, steps=3, device="cpu").key


@pytest.mark.parametrize(("strength", "steps"), [(0.5, 1), (0.35, 3), (0.2, 2), (1, 4)])
def test_image_to_image_takes_the_steps_it_is_told(image_to_image, strength, steps):
    made = diffusion.load(str(image_to_image), strength, steps, device="cpu")
    pipeline, taken = made.draw.args[0], []
    pipeline.unet.register_forward_hook(lambda *_: taken.append(1))
    made(pictures(2), [1, 2])
    assert len(taken) == steps


def test_the_variation_model_sees_the_whole_picture_squeezed_without_antialiasing():
    image = Image.new("RGB", (300, 100))
    image.paste((255, 255, 255), (0, 0, 150, 100))
    seen = diffusion._variation_input(image)
    assert seen.shape == (3, 224, 224)
    assert seen[0, :, :100].min() > 1  # all of the white half is there
    assert seen[0, :, 124:].max() < -1
    lines = np.zeros((672, 672), np.uint8)
    lines[:, 1::3] = 255  # where pixels are looked up; antialiasing would make it grey
    fine = diffusion._variation_input(Image.fromarray(lines).convert("RGB"))
    assert fine[0].median() > 1.5


# The embedded model


def test_the_embedded_model_keeps_the_class(little):
    card = diffusion.embedded.card(diffusion.EMBEDDED)
    accuracy = card["accuracy"]
    assert accuracy["n"] == 2000
    assert accuracy["strength 0.35"] >= 0.9 * accuracy["strength 0.0"]
    assert card["megabytes"] < 10
    made = diffusion.load(device="cpu")
    few = data.load("picto", images=128)
    backbone = clip.load("picto-rn", "picto", "cpu")
    drawn = made([few.image(i) for i in range(len(few))], range(len(few)))
    photo = ["a photo of a {}."]
    classes = store.template_features(backbone, few.class_names, photo)[0]
    crops = torch.stack([backbone.crop(to_pil_image(p)) for p in drawn.pictures])
    features = backbone.encode_images(backbone.normalise(crops))
    hits = (features @ classes.T).argmax(dim=-1) == torch.tensor(few.labels)
    expected = accuracy["strength 0.35"]
    error = (expected * (1 - expected) / len(few)) ** 0.5
    assert abs(hits.float().mean() - expected) < 4 * error
    untouched = torch.stack([diffusion._square(few.image(i), 64) for i in range(128)])
    assert (drawn.pictures.float() - untouched.float()).abs().mean() > 3


TOY = training.Recipe(steps=6, images=64, batch=8, widths=(8, 16), warmup=1)


def test_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "dev_accuracy", lambda unet, recipe: {})

    def stop_at_four(text: str) -> None:
        if text.startswith("step 4"):
            raise KeyboardInterrupt

    train = partial(training.train_diffusion, TOY, checkpoint_every=2)
    whole, curve = train(tmp_path / "whole", log=len)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", log=stop_at_four)
    resumed, again = train(tmp_path / "killed", log=len)
    assert [row["step"] for row in again] == [2, 4, 6]
    assert [row["loss"] for row in again] == [row["loss"] for row in curve]
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_knows_its_noise_and_ends_at_rest():
    x, noise = torch.rand(2, 3, 64, 64), torch.randn(2, 3, 64, 64)
    shares = torch.tensor([1.0, 0.0])
    noisy = training.noised(x, noise, shares)
    assert torch.equal(noisy[0], x[0])
    assert torch.equal(noisy[1], noise[1])
    rates = [training.learning_rate(step, training.Recipe()) for step in range(10_000)]
    assert rates[0] < rates[199] == rates[7_500] == 1e-3
    assert 0 < rates[-1] < 1e-6


def test_more_strength_goes_farther_from_the_picture():
    few = [data.load("picto", images=64).image(i) for i in range(8)]
    pixels = torch.stack([diffusion._square(image, 64) for image in few]).float()
    made = [diffusion.load(strength=s, steps=2, device="cpu") for s in (0.05, 0.3, 0.8)]
    near, middle, far = (
        (draw(few, range(8)).pictures.float() - pixels).abs().mean() for draw in made
    )
    assert near < middle < far


# Generated views in the store


class Counting:
    """A variator that mirrors and tints, counts, and stops when it is told to."""

    name, batch, key, size = "counting", 6, "counting 1", 64

    def __init__(self, stop_after: int = 10**9):
        self.drawn, self.stop_after = 0, stop_after

    def __call__(self, images, seeds):
        self.drawn += len(images)
        if self.drawn > self.stop_after:
            raise KeyboardInterrupt
        tints = torch.tensor([seed % 64 for seed in seeds])
        flipped = torch.stack([diffusion._square(i, 64).flip(-1) for i in images])
        tinted = (flipped // 2) + tints[:, None, None, None].byte()
        return diffusion.Variations(tinted, 0, 0)


@pytest.fixture
def few(monkeypatch, tmp_path):
    monkeypatch.setattr("helpers.keys.CACHE", tmp_path)
    return clip.load("picto-rn", "picto", "cpu"), data.load("picto", images=12)


def test_generated_views_are_made_once_and_told_before(few, capsys):
    first, second = Counting(), Counting()
    made = generated_features(*few, first, 3)
    assert made.features.shape == (12, 3, 128)
    assert made.positions == list(range(12))
    assert first.drawn == 36
    assert made.seconds_per_view > 0
    assert "12 images x 3 views x" in capsys.readouterr().out
    again = generated_features(*few, second, 3)
    assert second.drawn == 0
    assert torch.equal(made.features, again.features)
    assert made.seconds_per_view == again.seconds_per_view
    assert not torch.equal(
        generated_features(*few, second, 3, 1).features, made.features
    )
    norms = made.features.float().norm(dim=-1)
    assert torch.allclose(norms, torch.ones_like(norms), atol=2e-3)


def test_an_interrupted_generation_goes_on(few):
    with pytest.raises(KeyboardInterrupt):
        generated_features(*few, Counting(stop_after=20), 3)
    rest = Counting()
    resumed = generated_features(*few, rest, 3)
    assert rest.drawn == 36 - 18
    fresh = Counting()
    fresh.key = "counting 2"  # the same pictures, elsewhere on disk
    assert torch.equal(resumed.features, generated_features(*few, fresh, 3).features)


def test_the_cap_takes_a_fixed_part(few, monkeypatch, capsys):
    ticks = itertools.count(step=30.0)  # every look at the clock is half a minute on
    monkeypatch.setattr(
        "helpers.store.generated.time.perf_counter", lambda: float(next(ticks))
    )
    capped = generated_features(*few, Counting(), 6, max_minutes=2.1)
    assert len(capped.positions) == 4
    told = capsys.readouterr().out
    assert "the cap is 2.1 minutes" in told
    assert "4 of 12 images fit into 2.1 minutes" in told
    more = generated_features(*few, Counting(), 6, max_minutes=3.1)
    assert {*capped.positions} < {*more.positions}
    whole = generated_features(*few, Counting(), 6)
    assert torch.equal(whole.features[more.positions], more.features)
    again = generated_features(*few, Counting(), 6, max_minutes=2.1)
    assert again.positions == capped.positions


# DiffTPT


def linear(context: torch.Tensor) -> torch.Tensor:
    """Class features [..., 5, 6] of contexts [..., 2, 3], differentiable."""
    torch.manual_seed(1)
    weights = torch.randn(30, 6)
    return F.normalize((context.flatten(-2) @ weights.T).unflatten(-1, (5, 6)), dim=-1)


@pytest.mark.parametrize(
    ("views", "similar", "kept"), [(128, 102, 30), (16, 13, 3), (17, 13, 3)]
)
def test_difftpt_keeps_what_its_code_keeps(views, similar, kept):
    logits = torch.randn(2, views, 7)
    found = difftpt.similar(logits)
    assert found.shape == (2, similar)
    assert selection.keep_count(similar, difftpt.RHO) == kept


def test_similar_views_by_the_cosine_of_logits():
    logits = torch.randn(4, 9, 5, dtype=torch.float64) + 20
    for row, found in zip(logits, difftpt.similar(logits, 0.5), strict=True):
        cosines = [float(z @ row[0] / z.norm() / row[0].norm()) for z in row[1:]]
        best = sorted(range(8), key=lambda i: -cosines[i])[:4]
        assert found.tolist() == [0, *sorted(i + 1 for i in best)]


def test_ties_keep_their_order_and_one_view_is_too_few():
    logits = torch.ones(1, 6, 3)
    assert difftpt.similar(logits, 0.4).tolist() == [[0, 1, 2]]
    with pytest.raises(ValueError, match="keeps none of 0 views"):
        difftpt.similar(logits[:, :1])


def test_difftpt_is_tpt_on_the_similar_views():
    torch.manual_seed(0)
    views = F.normalize(torch.randn(3, 20, 6), dim=-1)
    context = torch.randn(2, 3)
    found = difftpt.difftpt(views, linear, 10.0, context)
    for image, row in zip(views, found, strict=True):
        logits = 10.0 * image @ linear(context).T
        rows = difftpt.similar(logits[None])[0]
        direct = tpt.tpt(image[rows][None], linear, 10.0, context, rho=0.3, steps=4)
        assert torch.allclose(direct[0], row, atol=1e-5)


def test_difftpt_does_not_depend_on_the_order_of_views_or_images():
    torch.manual_seed(0)
    views = F.normalize(torch.randn(4, 20, 6), dim=-1)
    found = difftpt.difftpt(views, linear, 10.0, torch.ones(2, 3))
    order = torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(19) + 1])
    images = torch.tensor([2, 0, 3, 1])
    shuffled = difftpt.difftpt(views[images][:, order], linear, 10.0, torch.ones(2, 3))
    assert torch.allclose(shuffled, found[images], atol=1e-4)
