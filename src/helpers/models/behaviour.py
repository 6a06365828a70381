"""How a CLIP behaves: measures on features and towers, without a method on top.

Tensors go in, numbers come out; `helpers.study.behaviour` gathers them into a card.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from helpers.models.clip import Backbone, text_tower
from helpers.models.prompts import (
    attend,
    check_tower,
    finish_block,
    project_keys_values,
    project_queries,
    prompt_tokens,
)

PARTS = ("start", "context", "name", "end")
PROMPTS = 256  # in the text tower at once


def modality_gap(image_features: Tensor, text_features: Tensor) -> tuple[float, float]:
    """Distance and cosine of the mean image and the mean text feature.

    Of unit features [N, D] and [C, D] (Liang et al. 2022, arXiv 2203.02053, section 4).
    """
    image, text = image_features.double().mean(0), text_features.double().mean(0)
    return (image - text).norm().item(), F.cosine_similarity(image, text, dim=0).item()


def pair_cosines(features: Tensor) -> Tensor:
    """Cosines [C (C - 1) / 2] of all pairs of unit features [C, D]."""
    rows, columns = torch.triu_indices(len(features), len(features), offset=1)
    return (features @ features.T)[rows, columns]


def common_share(moved: Tensor) -> Tensor:
    """Share in 0..1 of a squared movement that all classes have in common.

    Of movements d_c, [..., C, D]: C |mean_c d_c|^2 / sum_c |d_c|^2, NaN where nothing
    moved. The common part adds the same to all logits of an image, and cancels in its
    softmax.
    """
    common = moved.mean(dim=-2).square().sum(dim=-1) * moved.shape[-2]
    return common / moved.square().sum(dim=(-2, -1))


def end_attention(backbone: Backbone, class_names: Sequence[str]) -> Tensor:
    """Where the end token of "a photo of a <class name>." looks: float32 [layers, 4].

    Its attention to `PARTS` (start token; context; class name; full stop and end token)
    sums to 1 in each layer; the mean over heads and classes. ValueError where the text
    tower is not of CLIP's kind.
    """
    check_tower(backbone)
    tower = text_tower(backbone.model)
    prefix, suffixes = prompt_tokens(backbone, class_names, "a photo of a")
    of_length = defaultdict(list)
    for suffix in suffixes:
        of_length[len(suffix)].append([*prefix, *suffix])
    total = 0
    for length, prompts in of_length.items():
        part = torch.tensor([0] + [1] * (len(prefix) - 1) + [2] * (length - 2) + [3, 3])
        into = F.one_hot(part, len(PARTS)).to(backbone.device).float()  # [L, 4]
        for tokens in torch.tensor(prompts, device=backbone.device).split(PROMPTS):
            with torch.no_grad():
                x = tower.token_embedding(tokens)
                x = x + tower.positional_embedding[: tokens.shape[1]]
                total += _end_weights(tower.transformer.resblocks, x) @ into
    return total.cpu() / len(suffixes)


def _end_weights(blocks: Sequence[ResidualAttentionBlock], x: Tensor) -> Tensor:
    """Attention of the last of L tokens [B, L, W] to all: [layers, L].

    Its mean over heads, summed over B.
    """
    layers = []
    for block in blocks:
        y = block.ln_1(x)
        queries = project_queries(block.attn, y)
        keys_values = project_keys_values(block.attn, y)
        scores = torch.einsum("bhd,blhd->bhl", queries[:, -1], keys_values[0])
        weights = (scores / queries.shape[-1] ** 0.5).softmax(dim=-1)
        layers.append(weights.mean(dim=1).sum(dim=0))
        x = finish_block(block, x, attend(queries, keys_values))
    return torch.stack(layers)
