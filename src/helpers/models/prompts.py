"""Prompts with a learned context: CLIP's text tower, each token computed once.

A prompt is `[start] [context 1..M] [class name] [.] [end]`, its context given as
embeddings rather than words (CoOp, Zhou et al. 2022, arXiv 2109.01134). Encoding it as
published takes C prompts of 77 tokens. Most of that work is repeated or thrown away:

- the tower is causal, so what follows the end token cannot matter;
- for the same reason start and context, which all classes share, come out the same in
  every prompt: they are encoded once, and each class attends to their keys and values;
- the feature is read at the end token, so the last layer is needed there only.

What is left are the classes' own tokens, about five each instead of 77, packed into one
matrix. Features and gradients agree with the full computation to rounding.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from helpers.models.clip import Backbone, _ends_at_argmax, _text_tower

PLACEHOLDER = "X"  # one token in every CLIP vocabulary; its embedding is never read
TANGENTS = 128  # columns of d prefix / d context computed together
ROWS = 4  # rows of d hidden / d prefix computed together


class PromptTower:
    """The frozen text tower of a backbone for one list of class names.

    `context` holds the words before the class name ("a photo of a"), or says how many
    tokens a learned context has. The attribute `context`, [M, W], has the embeddings of
    the words, or zeros: where methods that learn one start. A prompt is
    "<context> <class name>.". Class names that read the same share one feature, so that
    they tie exactly.
    """

    def __init__(
        self,
        backbone: Backbone,
        class_names: Sequence[str],
        context: str | int = "a photo of a",
    ) -> None:
        tower = _text_tower(backbone.model)
        _check_tower(backbone)
        prefix, suffixes = _tokens(backbone, class_names, context)
        distinct = sorted(set(suffixes), key=len)
        row = {suffix: i for i, suffix in enumerate(distinct)}
        lengths = [len(suffix) for suffix in distinct]

        # The weights stay the model's own, wherever it is moved.
        self._blocks = list(tower.transformer.resblocks)
        self._norm, self._projection = tower.ln_final, tower.text_projection
        self._autocast = backbone._autocast
        self._underflows = backbone.precision == "float16"

        table, positions = tower.token_embedding.weight, tower.positional_embedding
        tokens = [token for suffix in distinct for token in suffix]
        places = [len(prefix) + i for n in lengths for i in range(n)]
        self._start = (table[prefix[:1]] + positions[:1]).detach()
        self._positions = positions[1 : len(prefix)].detach()
        self._suffixes = (table[tokens] + positions[places]).detach()
        self._ends = torch.tensor(lengths, device=table.device).cumsum(0) - 1
        self._rows = torch.tensor([row[s] for s in suffixes], device=table.device)
        # Prompts of one length are one rectangular batch in the attention.
        self._buckets = [(len(list(same)), n) for n, same in groupby(lengths)]

        self.class_names = tuple(class_names)
        self.embed_dim = backbone.embed_dim
        self.context = table[prefix[1:]].detach().clone()
        if not isinstance(context, str):
            self.context.zero_()

    def features(self, context: Tensor) -> Tensor:
        """Unit features [..., C, D] of contexts [..., M, W], differentiable in them.

        Both are float32, whatever the backbone's precision inside the tower.
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
        """d features / d context at one context [M, W]: float32 [C, D, M, W].

        Costs about W backward passes, once for all images that start from this context;
        `jacobian_bytes` tells its size beforehand. By the chain rule

            d features     d features   d hidden   d prefix
            ---------- =   ---------- · -------- · ---------
            d context      d hidden     d prefix   d context

        where hidden, [W] per class, is the tower's state at the end token and prefix
        the keys and values of all layers, the only way from the context to a class.
        The middle factor takes W backward passes for all classes together, each class
        having a copy of the prefix as its own; the others are small. A lower precision
        holds inside the tower; the factors are multiplied in the context's.
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
        """Size of `jacobian`'s result; making it takes up to twice as much."""
        return 4 * len(self._rows) * self.embed_dim * self.context.numel()

    def peak_bytes(self, contexts: int = 1, gradient: bool = False) -> int:
        """Memory that `features` needs for so many contexts at once, weights aside.

        An estimate from above for float32. With `gradient` it includes the graph, which
        lives until the features are let go.
        """
        prefix, width = 1 + len(self.context), self.context.shape[1]
        tokens = prefix + len(self._suffixes)
        keys = prefix + sum(count * (prefix + n) for count, n in self._buckets)
        kept = len(self._blocks) * (12 * tokens + 2 * keys) if gradient else 0
        return 4 * contexts * width * (kept + 28 * tokens)

    def _prefix(self, contexts: Tensor) -> list[Tensor]:
        """Keys and values of start and context [B, M, W], for each layer.

        Each [2, B, 1 + M, heads, W / heads].
        """
        start = self._start.expand(len(contexts), 1, -1)
        x = torch.cat([start, contexts + self._positions], dim=1)
        layers = []
        for block in self._blocks:
            y = block.ln_1(x)
            layers.append(_keys_values(block.attn, y))
            x = _finish(block, x, _attend(_queries(block.attn, y), layers[-1]))
        return layers

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
            own = _keys_values(block.attn, y).split(sizes, dim=2)
            if block is self._blocks[-1]:  # the last layer is read at the ends only
                x, y, sizes = x[:, self._ends], y[:, self._ends], counts
            queries = _queries(block.attn, y).split(sizes, dim=1)
            attended = []
            for count, q, kv_before, kv in zip(
                counts, queries, before.split(counts, dim=2), own, strict=True
            ):
                kv = torch.cat([kv_before, kv.unflatten(2, (count, -1))], dim=3)
                attended.append(_attend(q.unflatten(1, (count, -1)), kv).flatten(1, 2))
            x = _finish(block, x, torch.cat(attended, dim=1))
        return x

    def _unit(self, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """Unit features [..., D] of hidden states [..., W]."""
        x = self._norm(hidden)
        if isinstance(self._projection, nn.Module):
            x = self._projection(x)
        elif self._projection is not None:
            x = x @ self._projection
        return F.normalize(x.to(dtype), dim=-1)

    def _hidden_jacobian(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [c, W] of the distinct prompts, and d hidden / d context.

        The latter is [c, W, M W].
        """

        def moving(context: Tensor) -> Tensor:  # the start token's part is constant
            layers = self._prefix(context[None])
            return torch.cat([kv[:, :, 1:].flatten() for kv in layers])

        def along(direction: Tensor) -> Tensor:
            return torch.func.jvp(moving, (context,), (direction,))[1]

        directions = torch.eye(context.numel()).to(context).unflatten(1, context.shape)
        with self._autocast():
            prefix = self._prefix(context[None])
            moved = torch.func.vmap(along, chunk_size=TANGENTS)(directions)
        moved = moved.to(context.dtype)  # [M W, K]
        with torch.enable_grad(), self._autocast():
            own = [
                kv.unsqueeze(2).expand(self._per_class(kv)).clone().requires_grad_()
                for kv in prefix
            ]
            hidden = self._classes(own)
        _, classes, width = hidden.shape
        jacobian = context.new_empty(classes, width, context.numel())
        for channels in torch.arange(width, device=hidden.device).split(ROWS):
            picked = F.one_hot(channels, width).to(hidden.dtype)[:, None, None]
            pulled = torch.autograd.grad(
                hidden,
                own,
                picked.expand(-1, 1, classes, -1),
                retain_graph=True,
                is_grads_batched=True,
            )  # each [rows, 2, 1, c, 1 + M, heads, W / heads]
            rows = [g[..., 1:, :, :].movedim(3, 0).flatten(2) for g in pulled]
            jacobian[:, channels] = torch.cat(rows, dim=-1).to(moved) @ moved.T
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


def _tokens(
    backbone: Backbone, class_names: Sequence[str], context: str | int
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Ids of the prefix [start, context] and, per class, of [name, full stop, end]."""
    if isinstance(class_names, str) or not len(class_names):
        raise ValueError(f"class_names {class_names!r}: give a list of at least one")
    words = context if isinstance(context, str) else " ".join([PLACEHOLDER] * context)
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


def _check_tower(backbone: Backbone) -> None:
    """Refuse text towers in which a prompt's tokens depend on what follows them."""
    if not _ends_at_argmax(backbone.model):
        raise ValueError(
            f"{backbone.name} has a text tower that is not causal, or is not read at "
            "the end token: take one of CLIP's own kind, such as RN50-quickgelu"
        )
    for block in _text_tower(backbone.model).transformer.resblocks:
        if not isinstance(block, ResidualAttentionBlock):
            raise ValueError(
                f"{backbone.name} has a text tower of {type(block).__name__}, not of "
                "ResidualAttentionBlock: take one of CLIP's own kind, such as "
                "RN50-quickgelu"
            )


def _queries(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """[..., tokens, W] -> [..., tokens, heads, W / heads]."""
    width = x.shape[-1]
    weight, bias = attention.in_proj_weight[:width], attention.in_proj_bias[:width]
    return F.linear(x, weight, bias).unflatten(-1, (attention.num_heads, -1))


def _keys_values(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """[..., tokens, W] -> [2, ..., tokens, heads, W / heads]."""
    width = x.shape[-1]
    weight, bias = attention.in_proj_weight[width:], attention.in_proj_bias[width:]
    both = F.linear(x, weight, bias).unflatten(-1, (2, attention.num_heads, -1))
    return both.movedim(-3, 0)


def _scale_gradient(features: Tensor, contexts: Tensor) -> None:
    """Bring gradients [B, ...] to a size that float16 holds, between these two.

    A sure image's are smaller than its least number. What the tower computes from
    `contexts` to `features` is linear on the way back, so that a factor for each
    context, taken off at the end, changes rounding alone.
    """
    sizes = []

    def lift(gradient: Tensor) -> Tensor:
        size = gradient.abs().amax(dim=(-2, -1), keepdim=True)
        sizes.append(size.where(size > 0, 1.0))
        return gradient / sizes[-1]

    features.register_hook(lift)
    contexts.register_hook(lambda gradient: gradient * sizes.pop())


def _attend(queries: Tensor, keys_values: Tensor) -> Tensor:
    """Causal attention of the last q of k tokens to all k: [..., q, W].

    Written out: with a dozen keys it is as fast as the fused kernels, which lack the
    forward-mode and the batched derivatives that the Jacobian takes.
    """
    q = queries.transpose(-3, -2)  # [..., heads, q, W / heads]
    k, v = keys_values.transpose(-3, -2)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
    future = future.triu(1 + k.shape[-2] - q.shape[-2])
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    return (weights @ v).transpose(-3, -2).flatten(-2)


def _finish(block: ResidualAttentionBlock, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a block, once its queries have attended."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x)))
