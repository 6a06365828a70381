"""Faster image towers for inference: open_clip's arithmetic without unused results.

A frozen tower computes much that does not affect its output. Leaving it out changes
features by rounding only (relative 1e-5 in float32):

- BatchNorm in evaluation mode is one affine map per channel and folds into the
  convolution before it: with r = gamma / sqrt(running_var + eps), the weights become
  r w and the bias beta - r running_mean
- the attention pool of CLIP's ResNet (Radford et al. 2021, arXiv 2103.00020, section
  2.4) is read at its mean token alone. One query needs no keys and values of all
  tokens, since q (W_k x_j) = (W_k^T q) x_j and
  sum_j a_j W_v x_j = W_v (sum_j a_j x_j); the bias of the keys adds the same to every
  score and cancels in the softmax
- the last block of CLIP's ViT is read at its class token alone
- QuickGELU, x sigmoid(s x) with s = 1.702, is silu(s x) / s, and both factors are free
  as factors of the matrix products before and after it

A batch is split into chunks whose activations fit the processor's cache.
"""

import copy
from collections.abc import Callable
from functools import partial

import open_clip
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CHUNK_PIXELS = 8 * 224**2  # 8 images of 224 px, 98 of 64 px: measured on CPUs
GPU_CHUNKS = 64  # factor on a GPU
QUICK_GELU = 1.702


def image_encoder(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Make a faster `model.encode_image`, for evaluation mode and without gradients.

    It maps preprocessed images [B, 3, H, W] on the model's device to features [B, D],
    not normalised, and respects autocast. The model is not changed.

    A ResNet's weights are copied with BatchNorm folded in: they take the memory of
    another image tower, and later changes of the model need another call. Towers other
    than CLIP's ResNet and ViT are left to open_clip.
    """
    if isinstance(model, open_clip.CLIP | open_clip.CustomTextCLIP):
        tower = model.visual
        if type(tower) is ModifiedResNet:
            return partial(_in_chunks, partial(_resnet, fold(tower)))
        if is_clip_vit(tower):
            return partial(_in_chunks, partial(_vit, tower))
    return torch.no_grad()(model.encode_image)


def fold(tower: ModifiedResNet) -> ModifiedResNet:
    """Copy a tower in evaluation mode with BatchNorms folded into its convolutions."""
    tower = copy.deepcopy(tower).eval()
    blocks = [*tower.layer1, *tower.layer2, *tower.layer3, *tower.layer4]
    for part in [tower, *blocks]:
        for i in (1, 2, 3):
            _fold_pair(part, f"conv{i}", f"bn{i}")
    for block in blocks:
        if block.downsample is not None:
            _fold_pair(block.downsample, "0", "1")
    return tower.to(memory_format=torch.channels_last)


def _fold_pair(part: nn.Module, conv: str, norm: str) -> None:
    folded = fuse_conv_bn_eval(getattr(part, conv), getattr(part, norm))
    setattr(part, conv, folded)
    setattr(part, norm, nn.Identity())


@torch.no_grad()
def _in_chunks(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Features [B, D] of images [B, 3, H, W], chunk by chunk."""
    pixels = images.shape[-2] * images.shape[-1]
    budget = CHUNK_PIXELS * (1 if images.device.type == "cpu" else GPU_CHUNKS)
    chunks = images.split(max(1, budget // pixels))
    return torch.cat([encode(chunk) for chunk in chunks])


def _resnet(tower: ModifiedResNet, images: Tensor) -> Tensor:
    x = tower.stem(images)
    x = tower.layer4(tower.layer3(tower.layer2(tower.layer1(x))))
    return attention_pool(tower.attnpool, x)


def attention_pool(pool: AttentionPool2d, x: Tensor) -> Tensor:
    """Pool a map [B, W, height, width]: the output of the mean token, [B, D]."""
    heads, size = pool.num_heads, x.shape[1] // pool.num_heads
    x = x.flatten(2).transpose(1, 2)  # [B, P, W]
    x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
    x = x + pool.positional_embedding.to(x.dtype)
    into_heads = pool.k_proj.weight.view(heads, size, -1)
    out_of_heads = pool.v_proj.weight.view(heads, size, -1).mT

    query = pool.q_proj(x[:, 0]) * size**-0.5
    query = query.unflatten(1, (heads, size)).transpose(0, 1)  # [heads, B, size]
    scores = (query @ into_heads).transpose(0, 1) @ x.mT  # [B, heads, 1 + P]
    pooled = scores.softmax(dim=-1).to(x.dtype) @ x  # [B, heads, W]
    values = (pooled.transpose(0, 1) @ out_of_heads).transpose(0, 1).flatten(1)
    return pool.c_proj(values + pool.v_proj.bias)


def is_clip_vit(tower: nn.Module) -> bool:
    """Whether the tower is CLIP's ViT: standard blocks, read at the class token."""
    return (
        type(tower) is VisionTransformer
        and tower.attn_pool is None
        and tower.pool_type == "tok"
        and not tower.output_tokens
        and all(type(b) is ResidualAttentionBlock for b in tower.transformer.resblocks)
    )


def _vit(tower: VisionTransformer, images: Tensor) -> Tensor:
    return read_class_token(tower, tower._embeds(images))


def read_class_token(tower: VisionTransformer, x: Tensor) -> Tensor:
    """Features [B, D], not normalised, of tokens [B, P, W] before the first block."""
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        x = run_block(block, x, x.shape[1])
    x = tower.ln_post(run_block(last, x, 1)[:, 0])
    return x if tower.proj is None else x @ tower.proj


def run_block(block: ResidualAttentionBlock, x: Tensor, rows: int) -> Tensor:
    """Compute the first `rows` output tokens [B, rows, W] of a block on [B, P, W]."""
    attention, y = block.attn, block.ln_1(x)
    width, heads = y.shape[-1], attention.num_heads
    query_weight, kv_weight = attention.in_proj_weight.split([width, 2 * width])
    query_bias, kv_bias = attention.in_proj_bias.split([width, 2 * width])
    query = F.linear(y[:, :rows], query_weight, query_bias).unflatten(2, (heads, -1))
    kv = F.linear(y, kv_weight, kv_bias).unflatten(2, (2, heads, -1))
    y = F.scaled_dot_product_attention(
        query.transpose(1, 2), *kv.permute(2, 0, 3, 1, 4)
    )
    y = attention.out_proj(y.transpose(1, 2).flatten(2))
    x = x[:, :rows] + block.ls_1(y)
    return x + block.ls_2(_mlp(block.mlp, block.ln_2(x)))


def _mlp(mlp: nn.Sequential, x: Tensor) -> Tensor:
    if not isinstance(mlp.gelu, QuickGELU):
        return mlp(x)
    up, down, s = mlp.c_fc, mlp.c_proj, QUICK_GELU
    y = torch.addmm(up.bias, x.flatten(0, 1), up.weight.t(), beta=s, alpha=s)
    y = torch.addmm(down.bias, F.silu(y, inplace=True), down.weight.t(), alpha=1 / s)
    return y.view_as(x)
