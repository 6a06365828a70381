"""CLIP's text tower for prompts with a learned context, without repeated work.

A prompt is `[start] [context 1..M] [class name] [.] [end]`, with embeddings instead of
words as its context (CoOp, Zhou et al. 2022, arXiv 2109.01134). The published code
encodes C prompts of 77 tokens. Most of that work is repeated or unused:

- the tower is causal, so that tokens after the end token do not matter;
- for the same reason the states of start and context are the same for all classes: they
  are computed once, and each class attends to their keys and values (a prefix cache);
- the feature is read at the end token, so that the last layer is needed there only.

The classes' own tokens remain, about five each instead of 77, packed into one matrix.
Features and gradients agree with the full computation to rounding.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from helpers.models.clip import Backbone, project_text, reads_end_token, text_tower

DUMMY_WORD = "X"  # one token in every CLIP vocabulary; its embedding is never read
TANGENTS = 128  # columns of d prefix / d context computed together
AT_ONCE = 8  # contexts in the tower together, at most: more are no faster
ROWS = 4  # rows of d hidden / d prefix computed together


def contexts_at_once(memory: float, each: float) -> int:
    """How many contexts of `each` bytes go through a tower together in `memory` GB.

    One does in any case, and never more than `AT_ONCE`.
    """
    return max(1, min(AT_ONCE, int(1e9 * memory / each)))


class PromptTower:
    """The frozen text tower of a backbone for one list of class names.

    A prompt is "<context> <class name>.". Class names with the same tokens share one
    feature, so that they tie exactly.

    Args:
        backbone: its text tower must be causal and read at the end token.
        class_names: at least one.
        context: the words before the class name, or the number of tokens of a learned
            context.

    The attribute `context`, [M, W], has the embeddings of the words, or zeros: the
    start of methods that learn it. Raises ValueError for another kind of tower, and for
    a context whose tokens depend on the class name.
    """

    def __init__(
        self,
        backbone: Backbone,
        class_names: Sequence[str],
        context: str | int = "a photo of a",
    ) -> None:
        tower = text_tower(backbone.model)
        check_tower(backbone)
        prefix, suffixes = prompt_tokens(backbone, class_names, context)
        distinct = sorted(set(suffixes), key=len)
        row = {suffix: i for i, suffix in enumerate(distinct)}
        lengths = [len(suffix) for suffix in distinct]

        self._tower, self._blocks = tower, list(tower.transformer.resblocks)
        self._autocast = backbone.autocast
        self._underflows = backbone.precision == "float16"

        table, positions = tower.token_embedding.weight, tower.positional_embedding
        tokens = [token for suffix in distinct for token in suffix]
        indices = [len(prefix) + i for n in lengths for i in range(n)]
        self._start = (table[prefix[:1]] + positions[:1]).detach()
        self._positions = positions[1 : len(prefix)].detach()
        self._suffixes = (table[tokens] + positions[indices]).detach()
        self._ends = torch.tensor(lengths, device=table.device).cumsum(0) - 1
        self._rows = torch.tensor([row[s] for s in suffixes], device=table.device)
        # Prompts of the same length form one rectangular batch in the attention.
        self._buckets = [(len(list(same)), n) for n, same in groupby(lengths)]

        self.class_names = tuple(class_names)
        self.embed_dim = backbone.embed_dim
        self.context = table[prefix[1:]].detach().clone()
        if not isinstance(context, str):
            self.context.zero_()

    def features(self, context: Tensor) -> Tensor:
        """Encode contexts float32 [..., M, W]: unit features float32 [..., C, D].

        Differentiable; inside the tower the backbone's precision applies.
        """
        self._check_context(context)
        contexts = context.reshape(-1, *self.context.shape)
        with self._autocast():
            prefix = self._prefix(contexts)
            shared = [kv.unsqueeze(2).expand(self._per_class(kv)) for kv in prefix]
            features = self._unit(self._classes(shared), context.dtype)
        if self._underflows and features.requires_grad:
            _scale_gradient(features, contexts)
        features = features[:, self._rows]
        return features.view(*context.shape[:-2], *features.shape[1:])

    @torch.no_grad()
    def jacobian(self, context: Tensor) -> Tensor:
        """Compute d features / d context at one context [M, W]: float32 [C, D, M, W].

        It costs about W backward passes, once for all images that start from this
        context; `jacobian_bytes` is its size. By the chain rule

            d features     d features   d hidden   d prefix
            ---------- =   ---------- · -------- · ---------
            d context      d hidden     d prefix   d context

        where hidden, [W] per class, is the tower's state at the end token, and prefix
        the keys and values of all layers, through which alone the context affects a
        class. The middle factor takes W backward passes for all classes together, with
        a copy of the prefix for each; the others are small. The backbone's precision
        applies inside the tower, the context's to the products.
        """
        self._check_context(context, ndim=2)
        hidden, jacobian = self._hidden_jacobian(context)
        head = torch.func.jacfwd(lambda h: self._unit(h, context.dtype))
        out = context.new_empty(len(self._rows), self.embed_dim, context.numel())
        for i, row in enumerate(self._rows.tolist()):
            with self._autocast():
                of_hidden = head(hidden[row])
            out[i] = of_hidden @ jacobian[row]
        return out.unflatten(-1, tuple(context.shape))

    @property
    def jacobian_bytes(self) -> int:
        """Size of `jacobian`'s result; computing it takes up to twice as much."""
        return 4 * len(self._rows) * self.embed_dim * self.context.numel()

    def peak_bytes(self, contexts: int = 1, gradient: bool = False) -> int:
        """Bound the memory of `features` for so many contexts in float32, in bytes.

        Without the weights; with `gradient` including the graph.
        """
        prefix, width = 1 + len(self.context), self.context.shape[1]
        tokens = prefix + len(self._suffixes)
        keys = prefix + sum(count * (prefix + n) for count, n in self._buckets)
        kept = len(self._blocks) * (12 * tokens + 2 * keys) if gradient else 0
        return 4 * contexts * width * (kept + 28 * tokens)

    def _prefix(self, contexts: Tensor) -> list[Tensor]:
        """Each layer's keys and values of start and contexts [B, M, W].

        Each is [2, B, 1 + M, heads, W / heads].
        """
        start = self._start.expand(len(contexts), 1, -1)
        return prefix_cache(
            self._blocks, torch.cat([start, contexts + self._positions], dim=1)
        )

    def _classes(self, prefix: list[Tensor]) -> Tensor:
        """Hidden states [B, c, W] at the end tokens of the c distinct prompts.

        `prefix`: each layer's keys and values before every prompt's own tokens,
        [2, B, c, 1 + M, heads, W / heads].
        """
        counts = [count for count, _ in self._buckets]
        sizes = [count * n for count, n in self._buckets]
        x = self._suffixes.expand(prefix[0].shape[1], -1, -1)
        for block, before in zip(self._blocks, prefix, strict=True):
            y = block.ln_1(x)
            own = project_keys_values(block.attn, y).split(sizes, dim=2)
            if block is self._blocks[-1]:  # the last layer is read at end tokens only
                x, y, sizes = x[:, self._ends], y[:, self._ends], counts
            queries = project_queries(block.attn, y).split(sizes, dim=1)
            attended = []
            for count, q, kv_before, kv in zip(
                counts, queries, before.split(counts, dim=2), own, strict=True
            ):
                kv = torch.cat([kv_before, kv.unflatten(2, (count, -1))], dim=3)
                attended.append(attend(q.unflatten(1, (count, -1)), kv).flatten(1, 2))
            x = finish_block(block, x, torch.cat(attended, dim=1))
        return x

    def _unit(self, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """Unit features [..., D] of hidden states [..., W]."""
        x = project_text(self._tower, self._tower.ln_final(hidden))
        return F.normalize(x.to(dtype), dim=-1)

    def _hidden_jacobian(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [c, W] of the distinct prompts, and d hidden / d context.

        The latter is [c, W, M W].
        """

        def from_context(context: Tensor) -> Tensor:  # the start token is constant
            layers = self._prefix(context[None])
            return torch.cat([kv[:, :, 1:].flatten() for kv in layers])

        def along(direction: Tensor) -> Tensor:
            return torch.func.jvp(from_context, (context,), (direction,))[1]

        directions = torch.eye(context.numel()).to(context).unflatten(1, context.shape)
        with self._autocast():
            prefix = self._prefix(context[None])
            tangents = torch.func.vmap(along, chunk_size=TANGENTS)(directions)
        tangents = tangents.to(context.dtype)  # [M W, K]
        with torch.enable_grad(), self._autocast():
            own = [
                kv.unsqueeze(2).expand(self._per_class(kv)).clone().requires_grad_()
                for kv in prefix
            ]
            hidden = self._classes(own)
        _, classes, width = hidden.shape
        jacobian = context.new_empty(classes, width, context.numel())
        for channels in torch.arange(width, device=hidden.device).split(ROWS):
            one_hot = F.one_hot(channels, width).to(hidden.dtype)[:, None, None]
            gradients = torch.autograd.grad(
                hidden,
                own,
                one_hot.expand(-1, 1, classes, -1),
                retain_graph=True,
                is_grads_batched=True,
            )  # each [rows, 2, 1, c, 1 + M, heads, W / heads]
            rows = [g[..., 1:, :, :].movedim(3, 0).flatten(2) for g in gradients]
            jacobian[:, channels] = torch.cat(rows, dim=-1).to(tangents) @ tangents.T
        return hidden[0].detach(), jacobian

    def _per_class(self, kv: Tensor) -> list[int]:
        """Shape of keys and values [2, B, 1 + M, ...] repeated for each prompt."""
        return [*kv.shape[:2], len(self._ends), *kv.shape[2:]]

    def _check_context(self, context: Tensor, ndim: int | None = None) -> None:
        expected = tuple(self.context.shape)
        if context.shape[-2:] != expected or ndim not in (None, context.ndim):
            lead = "" if ndim else "..., "
            raise ValueError(
                f"context of shape {list(context.shape)}: this tower takes "
                f"[{lead}{expected[0]} tokens, width {expected[1]}]"
            )


def prefix_cache(blocks: Sequence[ResidualAttentionBlock], x: Tensor) -> list[Tensor]:
    """Compute each layer's keys and values of embedded prefixes [B, P, W].

    Each is [2, B, P, heads, W / heads].
    """
    layers = []
    for block in blocks:
        y = block.ln_1(x)
        layers.append(project_keys_values(block.attn, y))
        if block is not blocks[-1]:
            x = finish_block(
                block, x, attend(project_queries(block.attn, y), layers[-1])
            )
    return layers


def prompt_tokens(
    backbone: Backbone, class_names: Sequence[str], context: str | int
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Ids of the prefix [start, context] and, per class, of [name, full stop, end]."""
    if isinstance(class_names, str) or not len(class_names):
        raise ValueError(f"class_names {class_names!r}: give a list of at least one")
    words = context if isinstance(context, str) else " ".join([DUMMY_WORD] * context)
    if not words.strip():
        raise ValueError(
            f"context {context!r}: give words, or a number of tokens from 1 on"
        )
    prompts = backbone.tokenize([words, *(f"{words} {name}." for name in class_names)])
    # The end token has the highest id.
    prefix, *rows = (row[: row.argmax() + 1].tolist() for row in prompts)
    prefix.pop()
    for name, row in zip(class_names, rows, strict=True):
        if row[: len(prefix)] != prefix:
            raise ValueError(
                f"the tokens of context {words!r} change before class name {name!r}: "
                "end the context with a word of its own"
            )
    return prefix, [tuple(row[len(prefix) :]) for row in rows]


def check_tower(backbone: Backbone) -> None:
    """Raise ValueError for a text tower whose prompts cannot share a prefix cache."""
    if not reads_end_token(backbone.model):
        raise ValueError(
            f"{backbone.name} has a text tower that is not causal, or is not read at "
            "the end token: take one of CLIP's own kind, such as RN50-quickgelu"
        )
    for block in text_tower(backbone.model).transformer.resblocks:
        if not isinstance(block, ResidualAttentionBlock):
            raise ValueError(
                f"{backbone.name} has a text tower of {type(block).__name__}, not of "
                "ResidualAttentionBlock: take one of CLIP's own kind, such as "
                "RN50-quickgelu"
            )


def project_queries(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Queries [..., tokens, heads, W / heads] of normalised states [..., tokens, W]."""
    width = x.shape[-1]
    weight, bias = attention.in_proj_weight[:width], attention.in_proj_bias[:width]
    return F.linear(x, weight, bias).unflatten(-1, (attention.num_heads, -1))


def project_keys_values(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Keys and values [2, ..., tokens, heads, W / heads] of states [..., tokens, W]."""
    width = x.shape[-1]
    weight, bias = attention.in_proj_weight[width:], attention.in_proj_bias[width:]
    both = F.linear(x, weight, bias).unflatten(-1, (2, attention.num_heads, -1))
    return both.movedim(-3, 0)


def _scale_gradient(features: Tensor, contexts: Tensor) -> None:
    """Scale gradients between `features` and `contexts` so that float16 can hold them.

    The gradients [B, ...] of a confident image underflow. Backpropagation is linear, so
    that a factor per context, divided out at the end, changes rounding only.
    """
    factors = []

    def scale(gradient: Tensor) -> Tensor:
        largest = gradient.abs().amax(dim=(-2, -1), keepdim=True)
        factors.append(largest.where(largest > 0, 1.0))
        return gradient / factors[-1]

    features.register_hook(scale)
    contexts.register_hook(lambda gradient: gradient * factors.pop())


def attend(queries: Tensor, keys_values: Tensor) -> Tensor:
    """Causal attention of the last q of k tokens to all k: [..., q, W].

    Fused kernels lack the forward-mode and batched derivatives that the Jacobian needs,
    and are no faster with a dozen keys.
    """
    q = queries.transpose(-3, -2)  # [..., heads, q, W / heads]
    k, v = keys_values.transpose(-3, -2)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
    future = future.triu(1 + k.shape[-2] - q.shape[-2])
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    return (weights @ v).transpose(-3, -2).flatten(-2)


def finish_block(block: ResidualAttentionBlock, x: Tensor, attended: Tensor) -> Tensor:
    """States [..., W] after a block, from those before it and what it attended to."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x)))
