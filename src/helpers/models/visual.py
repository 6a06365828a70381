"""Image towers for parameter-efficient tuning.

A backbone stays frozen. Methods that tune an image encoder use an `ImageTower`, which
copies the parameters that it trains and shares the others with the backbone:

- prompts: P tokens between the class token and the patches, at the input of the first
  block only (Visual Prompt Tuning, Jia et al. 2022, arXiv 2203.12119, "shallow"). As in
  LaFTer (Mirza et al. 2023, arXiv 2305.18287) they are inserted after the positional
  embeddings and the first norm: they have no position and are not normalised. They
  start uniform in (-v, v) with v = sqrt(6 / (3 16^2 + W)) at width W; 16 is LaFTer's
  patch size, whatever the tower's.
- norms: scale and bias of every LayerNorm, or BatchNorm of a ResNet, with fixed running
  statistics.
- low rank: W + B A / sqrt(r) instead of the projections W to queries, keys and values
  (LoRA, Hu et al. 2021, arXiv 2106.09685, with the scaling of CLIP-LoRA, Zanella and
  Ben Ayed 2024, arXiv 2405.18541, alpha = 1). A is initialised like a linear layer, B
  with zeros. The sum is computed at each use and never merged into W.
- whole: all parameters.

The last block is computed at the class token alone. That is exact, gradients included,
and takes about two thirds of the time of open_clip's modules (`picto-vit` on one
thread, forward and backward).
"""

import copy
import math
from dataclasses import replace

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from helpers.models.clip import Backbone
from helpers.models.fast import is_clip_vit, read_class_token

NORMS = (nn.LayerNorm, nn.BatchNorm2d)
PROMPT_PATCH = 16


class ImageTower(nn.Module):
    """uint8 images -> features, differentiable in the trained parameters.

    In evaluation mode and in the backbone's precision; float32 instead of float16, in
    which gradients underflow.

    Args:
        backbone: stays as it is.
        prompts: number of visual prompt tokens, 0 for none.
        norms: train the norms' scales and biases.
        lora_rank: r of the low-rank parts, 0 for none.
        whole: train all parameters.
        seed: of the initial prompts and A.

    Raises:
        ValueError: prompts or LoRA for a tower other than CLIP's ViT.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: int = 0,
        norms: bool = False,
        lora_rank: int = 0,
        whole: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if prompts < 0 or lora_rank < 0:
            raise ValueError(f"prompts {prompts}, lora_rank {lora_rank}: 0 or more")
        if backbone.precision == "float16":
            backbone = replace(backbone, precision="float32")
        self.visual = _copy(backbone.model.visual, norms, whole).requires_grad_(whole)
        self._plain = is_clip_vit(self.visual)
        self._normalise, self._autocast = backbone.normalise, backbone.autocast
        if (prompts or lora_rank) and not self._plain:
            raise ValueError(
                f"{backbone.name} has an image tower of {type(self.visual).__name__}, "
                "but visual prompts and LoRA need the tokens of CLIP's ViT: take one "
                "such as ViT-B-32-quickgelu, or prompts=0, lora_rank=0 and norms=True"
            )
        generator = torch.Generator().manual_seed(seed)
        self.prompts = None
        if prompts:
            width = self.visual.ln_post.normalized_shape[0]
            v = math.sqrt(6 / (3 * PROMPT_PATCH**2 + width))
            start = (2 * torch.rand(prompts, width, generator=generator) - 1) * v
            self.prompts = nn.Parameter(start.to(backbone.device))
        if norms:
            for parameter in norm_affines(self.visual).values():
                parameter.requires_grad_(True)
        if lora_rank:
            for block in self.visual.transformer.resblocks:
                part = LowRank(block.attn.in_proj_weight, lora_rank, generator)
                parametrize.register_parametrization(block.attn, "in_proj_weight", part)
        self.eval()

    def forward(self, images: Tensor, prompted: bool = True) -> Tensor:
        """Encode uint8 images [B, 3, S, S]: features float32 [B, D], not normalised.

        `prompted=False` leaves out the prompts, as LaFTer's teacher does.
        """
        device = next(self.parameters()).device
        pixels = self._normalise(images.to(device))
        with self._autocast():
            if not self._plain:
                return self.visual(pixels).float()
            return self._vit(pixels, prompted).float()

    def _vit(self, pixels: Tensor, prompted: bool) -> Tensor:
        tower: VisionTransformer = self.visual
        x = tower._embeds(pixels)
        if prompted and self.prompts is not None:
            prompts = self.prompts.to(x.dtype).expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], prompts, x[:, 1:]], dim=1)
        return read_class_token(tower, x)


def _copy(tower: nn.Module, norms: bool, whole: bool) -> nn.Module:
    """A copy that shares the tower's weights, except buffers and trained parameters."""
    if whole:
        return copy.deepcopy(tower)
    trained = {id(p) for p in norm_affines(tower).values()} if norms else {}
    shared = {id(p): p for p in tower.parameters() if id(p) not in trained}
    return copy.deepcopy(tower, shared)  # the memo: objects that are not copied


class LowRank(nn.Module):
    """W -> W + B A / sqrt(r), with a pair B, A for each of queries, keys and values."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        height, width = weight.shape
        bound = 1 / math.sqrt(width)  # Kaiming's, with a = sqrt(5)
        down = (2 * torch.rand(3, rank, width, generator=generator) - 1) * bound
        self.down = nn.Parameter(down.to(weight.device))  # A
        self.up = nn.Parameter(weight.new_zeros(3, height // 3, rank))  # B

    def forward(self, weight: Tensor) -> Tensor:
        """Add the low-rank update to the frozen weight [3 W, W]."""
        rank = self.down.shape[1]
        return weight + (self.up @ self.down).flatten(0, 1) / math.sqrt(rank)


def norm_affines(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return scale and bias of every LayerNorm and BatchNorm by name."""
    return {
        f"{name}.{kind}": parameter
        for name, part in module.named_modules()
        if isinstance(part, NORMS)
        for kind, parameter in part.named_parameters(recurse=False)
    }


def tuned_share(module: nn.Module, backbone: Backbone) -> tuple[int, float]:
    """Count a module's trained parameters; also as a share of the whole CLIP's."""
    tuned = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return tuned, tuned / sum(p.numel() for p in backbone.model.parameters())
