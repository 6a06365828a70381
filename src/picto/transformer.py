"""What lets a small vision transformer learn shapes within an hour or two of one core.

Trained like the ResNet, it reads places and textures long before shapes. Three
published remedies help it to more:

- attention that starts out looking where it stands, as a convolution does: mimetic
  initialisation, Trockman & Kolter 2023, arXiv 2305.09828, with sines for positions;
- half of the patches, drawn anew for every picture, are left out in training: Li et al.
  2022, arXiv 2212.00794;
- it imitates the image features of a CLIP that is trained already, and takes over that
  CLIP's text tower, locked: feature distillation, Yang et al. 2023, arXiv 2307.12732.

So the two embedded CLIPs read prompts alike, and differ in how they see.
"""

import math

import open_clip
import torch
import torch.nn.functional as F
from open_clip.pos_embed import get_2d_sincos_pos_embed
from open_clip.transformer import PatchDropout, VisionTransformer
from torch import Tensor, nn

from helpers.models import embedded

LEFT_OUT = 0.5  # share of patches
IMITATION = 6.0  # weight of 1 - cosine beside the contrastive loss
POSITION_SCALE = 0.5


def prepare(visual: VisionTransformer) -> None:
    """Mimetic initialisation, and patch dropout that works in training mode only."""
    patches, width = visual.positional_embedding[1:].shape
    sines = get_2d_sincos_pos_embed(width, math.isqrt(patches))
    with torch.no_grad():
        visual.positional_embedding[1:] = POSITION_SCALE * torch.from_numpy(sines)
        for block in visual.transformer.resblocks:
            _start_mimetic(block.attn)
    visual.patch_dropout = PatchDropout(LEFT_OUT)


def _start_mimetic(attention: nn.MultiheadAttention) -> None:
    """Queries that match their own keys, and values that the output takes back.

    The products W_q W_k^T per head and W_v W_o are set to a random matrix plus or minus
    a multiple of the identity, and factored by their singular values.
    """
    width, heads = attention.embed_dim, attention.num_heads
    queries, keys, values = attention.in_proj_weight.view(3, width, width)
    output, value = _factors(0.4 * _noise(width) - 0.4 * torch.eye(width), width)
    attention.out_proj.weight.copy_(output)
    values.copy_(value)
    for rows in torch.arange(width).chunk(heads):
        product = 0.7 * _noise(width) + 0.7 * torch.eye(width)
        query, key = _factors(product, len(rows))
        queries[rows], keys[rows] = query.T, key


def _noise(width: int) -> Tensor:
    return torch.randn(width, width) / math.sqrt(width)


def _factors(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [n, rank] and B [rank, n] with A B the best approximation of the product."""
    left, values, right = torch.linalg.svd(product)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def teacher(name: str, pupil: nn.Module) -> nn.Module:
    """The embedded CLIP of that name, frozen; the pupil gets its text tower, locked."""
    weights = str(embedded.weights_file(name))
    model = open_clip.create_model(name, pretrained=weights).eval()
    model.requires_grad_(False).to(memory_format=torch.channels_last)
    own = dict(pupil.named_parameters())
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if not key.startswith("visual.") and key != "logit_scale":
                own[key].copy_(weight)
                own[key].requires_grad_(False)
    return model


def imitation(features: Tensor, goal: Tensor) -> Tensor:
    """The weighted loss between unit features [B, D] and the teacher's, any length."""
    cosine = (features * F.normalize(goal.float(), dim=-1)).sum(dim=-1)
    return IMITATION * (1 - cosine).mean()
