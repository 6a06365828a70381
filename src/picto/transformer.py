"""What lets a small vision transformer learn shapes within an hour or two of one core.

Trained like the ResNet, it reads places and textures long before shapes. Three
published remedies help it to more:

- attention that starts out looking where it stands, as a convolution does: mimetic
  initialisation, Trockman & Kolter 2023, arXiv 2305.09828, with sines for positions;
- half of the patches, drawn anew for every picture, are left out in training: Li et al.
  2022, arXiv 2212.00794;
- it imitates the image features of a CLIP that is trained already: feature
  distillation, Yang et al. 2023, arXiv 2307.12732. Its text tower starts as that
  CLIP's and learns on, slowly.

In training a few random tokens stand among the patches, as registers do in larger
towers (Darcet et al. 2023, arXiv 2309.16588), so that tokens which the tower has never
met, say LaFTer's prompts before their training, do not blind it.
"""

import math

import open_clip
import torch
import torch.nn.functional as F
from open_clip.pos_embed import get_2d_sincos_pos_embed
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from helpers.models import embedded

LEFT_OUT = 0.5  # share of patches
STRANGERS = (0, 0, 2, 8, 20)  # how many random tokens, drawn anew for every batch
STRANGER_SIZE = (0.1, 2.0)  # their standard deviation over the patches', log-uniform
IMITATION = 6.0  # weight of 1 - cosine beside the contrastive loss
POSITION_SCALE = 0.5


def prepare(visual: VisionTransformer) -> None:
    """Mimetic initialisation, and disturbances that work in training mode only."""
    patches, width = visual.positional_embedding[1:].shape
    sines = get_2d_sincos_pos_embed(width, math.isqrt(patches))
    with torch.no_grad():
        visual.positional_embedding[1:] = POSITION_SCALE * torch.from_numpy(sines)
        for block in visual.transformer.resblocks:
            _start_mimetic(block.attn)
    visual.patch_dropout = Disturbance()


class Disturbance(nn.Module):
    """Leave out patches and add random tokens, in training; pass on in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, 1 + N, W], the class token first -> [B, 1 + N / 2 + K, W]."""
        if not self.training:
            return x
        images, patches = len(x), x.shape[1] - 1
        kept = torch.rand(images, patches, device=x.device).argsort(dim=1)
        kept = kept[:, : round(patches * (1 - LEFT_OUT)), None].expand(
            -1, -1, x.shape[2]
        )
        count = STRANGERS[int(torch.randint(len(STRANGERS), ()))]
        low, high = (math.log(size) for size in STRANGER_SIZE)
        size = math.exp(low + (high - low) * torch.rand(()).item()) * x[:, 1:].std()
        strangers = size.detach() * torch.randn(
            images, count, x.shape[2], device=x.device
        )
        seen = x[:, 1:].gather(1, kept)
        return torch.cat([x[:, :1], seen, strangers.to(x.dtype)], dim=1)


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


def teacher(name: str) -> nn.Module:
    """The embedded CLIP of that name, frozen."""
    weights = str(embedded.weights_file(name))
    model = open_clip.create_model(name, pretrained=weights).eval()
    return model.requires_grad_(False).to(memory_format=torch.channels_last)


def take_over_texts(model: nn.Module, teacher: nn.Module) -> list[Tensor]:
    """Give the model the teacher's text tower and logit scale.

    Returns the tower's parameters in the model.
    """
    theirs = {k: v for k, v in teacher.state_dict().items() if k[:7] != "visual."}
    model.load_state_dict(theirs, strict=False)
    return [p for k, p in model.named_parameters() if k in theirs and p.ndim]


def imitation(features: Tensor, goal: Tensor) -> Tensor:
    """The weighted loss between unit features [B, D] and the teacher's, any length."""
    cosine = (features * F.normalize(goal.float(), dim=-1)).sum(dim=-1)
    return IMITATION * (1 - cosine).mean()
