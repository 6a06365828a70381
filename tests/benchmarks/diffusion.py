"""What a drawn view costs: `python tests/benchmarks/diffusion.py [--real]`.

The embedded model by steps and batch, beside a crop of the same picture; with --real
also the architecture of stabilityai/sd-turbo with random weights (3.7 GB of memory),
and what ImageNet-A would take at that pace.
"""

import argparse
import time

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    UNet2DConditionModel,
)

from helpers import data, views
from helpers.models import clip, diffusion

IMAGES = 64
IMAGENET_A, VIEWS = 7_500, 63  # DiffTPT's number of variations


def seconds(work, repeats: int = 3) -> float:
    """The quickest of some runs, the first of which warms up."""
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def embedded(device: str) -> None:
    dataset = data.load("picto", images=IMAGES)
    pictures = [dataset.image(i) for i in range(len(dataset))]
    backbone = clip.load("picto-rn", "picto", device)

    def crops() -> None:
        for i, picture in enumerate(pictures[:8]):
            generator = np.random.default_rng(i)
            views.make("preaugment", picture, 9, 64, generator, backbone.crop)

    crop = seconds(crops) / 64
    print(f"a crop: {1000 * crop:.2f} ms")
    for steps in (1, 2, 3, 6):
        for batch in (1, 8, 32):
            draw = diffusion.load(steps=steps, batch=batch, device=device)
            each = seconds(lambda d=draw: d(pictures, range(IMAGES))) / IMAGES
            told = f"{steps} steps, batch {batch:2}: {1000 * each:6.1f} ms a view"
            print(f"{told}, {each / crop:4.0f} crops")


def real(device: str) -> None:
    """One step at 512 x 512: encoding, the U-Net of Stable Diffusion 2.1, decoding."""
    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.float16
    unet = UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=512,
    )
    pipeline = StableDiffusionImg2ImgPipeline(
        unet=unet,
        vae=vae,
        scheduler=EulerDiscreteScheduler(),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(device, dtype)
    pipeline.set_progress_bar_config(disable=True)
    batch = 1 if device == "cpu" else 16
    image = torch.rand(batch, 3, 512, 512)
    prompt = torch.zeros(batch, 77, 1024, dtype=dtype, device=device)

    def draw() -> None:
        pipeline(
            image=image,
            prompt_embeds=prompt,
            strength=0.5,
            num_inference_steps=2,
            guidance_scale=0.0,
            output_type="pt",
        )
        if device != "cpu":
            torch.cuda.synchronize()

    each = seconds(draw, 1 if device == "cpu" else 3) / batch
    hours = IMAGENET_A * VIEWS * each / 3600
    print(f"sd-turbo's architecture, one step: {each:.3f} s a view")
    print(f"ImageNet-A, {IMAGENET_A:,} images x {VIEWS} views: {hours:,.0f} hours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", action="store_true")
    chosen = parser.parse_args()
    device = str(clip.resolve_device("auto"))
    print(f"{device}, {torch.get_num_threads()} threads")
    embedded(device)
    if chosen.real:
        real(device)


if __name__ == "__main__":
    main()
