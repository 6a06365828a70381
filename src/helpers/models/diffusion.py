"""Variations of an image by a diffusion model of diffusers, or by the embedded one.

Three kinds of pipeline, recognised by the class in their config:

    image-to-image   noise the image part-way and denoise it (SDEdit, Meng et al. 2022,
                     arXiv 2108.01073): any pipeline that diffusers can use so, such as
                     stabilityai/sd-turbo, which needs few steps
    image variation  generate an image from CLIP's features of the given one:
                     lambdalabs/sd-image-variations-diffusers, as DiffTPT does (Feng et
                     al. 2023, arXiv 2308.06038)
    picto-diffusion  the embedded model of 64 x 64 images, image-to-image

A variation depends on its seed alone: noise is drawn on the CPU for every device.
"""

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from diffusers import (
    AutoPipelineForImage2Image,
    DiffusionPipeline,
    StableDiffusionImageVariationPipeline,
)
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL.Image import Image
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as T

from helpers.data.dataset import to_rgb
from helpers.models import clip, embedded, hub, sdedit
from helpers.models.optional import REVISIONS, MissingModel, command

EMBEDDED = "picto-diffusion"
VARIATION = "lambdalabs/sd-image-variations-diffusers"
SIZES = {VARIATION: "5 GB", "stabilityai/sd-turbo": "3 GB in fp16"}  # to download
TRIES = 4  # for a black or invalid image, before the original replaces it
RETRY_SEED = 2**40  # added to a seed for each retry


class Variations(NamedTuple):
    """Generated images, the number of retries, and how often all tries failed."""

    pictures: Tensor  # uint8 [B, 3, H, W]
    redrawn: int
    given_up: int  # the original replaces these


Draw = Callable[[Sequence[Image], Sequence[torch.Generator]], Tensor]
"""B images and a generator for each -> [B, 3, H, W] in [0, 1]."""


@dataclass(eq=False)
class Variator:
    """A loaded pipeline: `variator(images, seeds)` generates a variation of each image.

    `batch` images are generated at once; it is halved for good when memory runs out.
    `key` has all that decides a variation besides image and seed.
    """

    name: str
    draw: Draw
    size: int  # side of the generated images in pixels
    batch: int
    key: str

    def __call__(self, images: Sequence[Image], seeds: Sequence[int]) -> Variations:
        """Generate a variation of each image with its seed, an int of 63 bits."""
        if len(images) != len(seeds):
            raise ValueError(f"{len(images)} images for {len(seeds)} seeds")
        images = [to_rgb(image) for image in images]
        shape = (len(images), 3, self.size, self.size)
        pictures = torch.empty(shape, dtype=torch.uint8)
        wanted, redrawn = list(range(len(images))), 0
        for attempt in range(TRIES):
            shift = attempt * RETRY_SEED
            pairs = [(images[i], (seeds[i] + shift) % 2**63) for i in wanted]
            drawn = self._in_batches(pairs)
            flat = drawn.flatten(1)  # safety checkers return black images
            valid = flat.isfinite().all(dim=1) & (flat > 1 / 255).any(dim=1)
            done = torch.tensor(wanted)[valid]
            pictures[done] = (drawn[valid] * 255).round().clamp(0, 255).byte()
            wanted = torch.tensor(wanted)[~valid].tolist()
            if not wanted:
                return Variations(pictures, redrawn, 0)
            redrawn += len(wanted)
        for i in wanted:
            pictures[i] = _square(images[i], self.size)
        return Variations(pictures, redrawn, len(wanted))

    def _in_batches(self, wanted: list[tuple[Image, int]]) -> Tensor:
        parts, done = [], 0
        while done < len(wanted):
            images, seeds = zip(*wanted[done : done + self.batch], strict=True)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            try:
                parts.append(self.draw(images, generators).float().cpu())
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not _out_of_memory(error) or self.batch == 1:
                    raise
                self.batch = max(1, self.batch // 2)
                print(f"{self.name}: out of memory, now {self.batch} pictures at once")
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            done += len(images)
        return torch.cat(parts)


def load(
    name: str = EMBEDDED,
    strength: float = 0.35,
    steps: int = 2,
    guidance: float = 0.0,
    prompt: str = "",
    batch: int = 32,
    device: str = "auto",
    precision: str = "float32",
) -> Variator:
    """Load the embedded pipeline, one of the Hugging Face hub, or one in a folder.

    Args:
        name: of the pipeline, or the folder.
        strength: share of the noise schedule, in (0, 1]; an image-variation pipeline
            does not use it.
        steps: denoising steps that are taken, whatever the strength.
        guidance: classifier-free guidance; 0 for distilled models, DiffTPT has 3.
        prompt: for image-to-image pipelines of the hub.
        batch: images at once.
        device: "auto" or a torch device.
        precision: a key of `helpers.models.clip.DTYPES`.

    Raises:
        ValueError: settings out of range.
        MissingModel: not on this machine; the message has the command that fetches it.
    """
    if not 0 < strength <= 1 or steps < 1 or batch < 1 or guidance < 0:
        raise ValueError(
            f"strength {strength}, steps {steps}, batch {batch}, guidance {guidance}: "
            "need 0 < strength <= 1, steps and batch >= 1, guidance >= 0"
        )
    where = clip.resolve_device(device)
    clip.check_precision(precision, where)
    settings = {"strength": strength, "num_inference_steps": steps}
    if name == EMBEDDED:
        pipeline, made = embedded_pipeline(), embedded.card(EMBEDDED)["sha256"]
        pipeline.to(where)
        if precision != "float32":  # diffusers warns at any other change of type
            pipeline.unet.to(getattr(torch, precision))
        draw, size = partial(_draw_embedded, pipeline, settings), pipeline.side
    else:
        pipeline, made = _pretrained(name, getattr(torch, precision))
        pipeline.to(where)
        pipeline.set_progress_bar_config(disable=True)
        size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        if isinstance(pipeline, StableDiffusionImageVariationPipeline):
            settings = {"num_inference_steps": steps, "guidance_scale": guidance}
            square = {"height": size, "width": size}
            draw = partial(_draw, pipeline, _variation_input, settings | square)
        else:
            total = math.ceil(steps / strength)  # of which diffusers skips the first
            settings |= {"num_inference_steps": total, "guidance_scale": guidance}
            settings |= {"prompt": prompt}
            draw = partial(_draw, pipeline, lambda i: _square(i, size) / 255, settings)
    key = f"{name}|{made}|{sorted(settings.items())}|{size}|{precision}|{where.type}"
    return Variator(name, draw, size, batch, key)


def embedded_pipeline() -> sdedit.SDEditPipeline:
    """The diffusion model that ships with the package, for 64 x 64 pictures."""
    recipe = embedded.card(EMBEDDED)["recipe"]
    pipeline = sdedit.new_pipeline(recipe["widths"], recipe["block"])
    weights = load_file(embedded.asset(EMBEDDED))
    pipeline.unet.load_state_dict({k: v.float() for k, v in weights.items()})
    pipeline.unet.eval().requires_grad_(False)
    return pipeline


@lru_cache(1)  # gigabytes, and a chapter uses the same pipeline at several strengths
def _pretrained(name: str, dtype: torch.dtype) -> tuple[DiffusionPipeline, str]:
    """A pipeline of the hub or of a folder, and the fingerprint of its weights."""
    source = hub.source(name)
    options = {"torch_dtype": dtype, "revision": REVISIONS.get(name)}
    try:
        named = DiffusionPipeline.load_config(source, revision=options["revision"])
        if named["_class_name"] == StableDiffusionImageVariationPipeline.__name__:
            kind = StableDiffusionImageVariationPipeline
        else:
            kind = AutoPipelineForImage2Image
        pipeline = kind.from_pretrained(source, **options)
    except Exception as error:  # damaged or missing files, no network: many types
        size = f" ({SIZES[name]})" if name in SIZES else ""
        raise MissingModel(
            "diffusion",
            f"no diffusion pipeline {name!r} here that makes images of images: fetch "
            f"one with `{command('diffusion', name)}`{size} where there is a network, "
            f"or give the folder that holds it; {EMBEDDED!r} ships with the package, "
            "and knows the embedded pictures only",
            error,
        ) from error
    return pipeline, clip.fingerprint(pipeline.unet)


@torch.inference_mode()
def _draw_embedded(
    pipeline: sdedit.SDEditPipeline,
    settings: dict,
    images: Sequence[Image],
    generators: Sequence[torch.Generator],
) -> Tensor:
    pictures = torch.stack([_square(image, pipeline.side) for image in images])
    drawn = pipeline(pictures / 127.5 - 1, generator=generators, **settings)
    return (drawn + 1) / 2


def _draw(
    pipeline: DiffusionPipeline,
    preprocess: Callable[[Image], Tensor],
    settings: dict,
    images: Sequence[Image],
    generators: Sequence[torch.Generator],
) -> Tensor:
    if "prompt" in settings:
        settings = settings | {"prompt": [settings["prompt"]] * len(images)}
    drawn = pipeline(
        image=torch.stack([preprocess(image) for image in images]),
        generator=list(generators),
        output_type="pt",
        **settings,
    )
    return drawn.images


def _variation_input(image: Image) -> Tensor:
    """The input of the image-variation model's training: float32 [3, 224, 224].

    The whole image squeezed into a square, bicubic without antialiasing, with CLIP's
    normalisation.
    """
    pixels = T.to_dtype(T.pil_to_tensor(image), torch.float32, scale=True)
    bicubic = {"interpolation": InterpolationMode.BICUBIC, "antialias": False}
    squeezed = T.resize(pixels, [224, 224], **bicubic)
    return T.normalize(squeezed, list(OPENAI_DATASET_MEAN), list(OPENAI_DATASET_STD))


def _square(image: Image, size: int) -> Tensor:
    """The central square of an image, uint8 [3, size, size]."""
    pixels = T.pil_to_tensor(image)
    if pixels.shape[1:] == (size, size):
        return pixels
    resized = T.resize(pixels, size, InterpolationMode.BICUBIC, antialias=True)
    return T.center_crop(resized, [size, size])


def _out_of_memory(error: RuntimeError) -> bool:
    """CUDA has its own exception; the CPU's allocator and MPS only have a message."""
    message = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(
        text in message for text in ("out of memory", "can't allocate memory")
    )
