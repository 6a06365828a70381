"""SDEdit as a diffusers pipeline: noise an image part-way, then denoise it.

SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations, Meng
et al. 2022, arXiv 2108.01073. With a schedule a(t)^2 + s(t)^2 = 1, T = 1,000 steps and
a strength r in (0, 1]:

    x(rT) = a(rT) x + s(rT) noise,    then K steps of DDIM down to x(0)

The embedded model works on blocks of pixels: blocks of 2 x 2 mean half the side, four
times the channels, a quarter of the work. It predicts the clean image: a narrow network
cannot transmit the noise in all channels of a block, but it can transmit images (Li and
He 2025, arXiv 2511.13720).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler, UNet2DModel
from torch import Tensor

STEPS = 1000  # of the noise schedule, T
SIDE = 64  # of an embedded image, pixels


def new_pipeline(widths: Sequence[int], block: int) -> "SDEditPipeline":
    """Make an untrained pipeline: a U-Net, the cosine schedule, DDIM.

    DDIM is DPM-Solver++ of order one (Lu et al. 2022, arXiv 2211.01095, section 4),
    whose scheduler in diffusers takes any list of times.
    """
    channels = 3 * block**2
    unet = UNet2DModel(
        sample_size=SIDE // block,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=tuple(widths),
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        attention_head_dim=min(32, widths[-1]),
    )
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=STEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        solver_order=1,
        final_sigmas_type="zero",
    )
    return SDEditPipeline(unet.to(memory_format=torch.channels_last), scheduler)


class SDEditPipeline(DiffusionPipeline):
    """Variations of images by a pixel-space diffusion model."""

    side = SIDE

    def __init__(
        self, unet: UNet2DModel, scheduler: DPMSolverMultistepScheduler
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @property
    def block(self) -> int:
        """Side of the blocks of pixels that the model works on."""
        return self.side // self.unet.config.sample_size

    @torch.inference_mode()
    def __call__(
        self,
        image: Tensor,
        strength: float,
        num_inference_steps: int,
        generator: Sequence[torch.Generator],
    ) -> Tensor:
        """Generate a variation of each image, float [B, 3, H, W] in [-1, 1].

        `num_inference_steps` are taken, whatever the strength; `generator` has one for
        each image.
        """
        pairs = zip(image, generator, strict=True)
        noise = torch.stack([torch.randn(x.shape, generator=g) for x, g in pairs])
        noise, image = (x.to(self.unet.device, self.unet.dtype) for x in (noise, image))
        even = torch.arange(num_inference_steps, 0, -1) / num_inference_steps
        times = (even * strength * STEPS).round().long() - 1
        self.scheduler.set_timesteps(timesteps=times.tolist())
        first = self.scheduler.timesteps[:1].expand(len(image))
        x = self.blocks(self.scheduler.add_noise(image, noise, first))
        for time in self.scheduler.timesteps:
            guess = self.unet(x, time).sample
            x = self.scheduler.step(guess, time, x).prev_sample
        return F.pixel_shuffle(x, self.block).clamp(-1, 1)

    def blocks(self, pictures: Tensor) -> Tensor:
        """Rearrange images [B, 3, H, W] into blocks: [B, 3 b^2, H / b, W / b]."""
        x = F.pixel_unshuffle(pictures, self.block)
        return x.contiguous(memory_format=torch.channels_last)
