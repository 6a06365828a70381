"""Many templates, many class names: each token of their prompts computed once.

Caption prompts have a template per image, and so N x C prompts where an ensemble has a
few times C. The prompts of one template differ in the class name alone:

- what stands before the name is the same in all of them and, the tower being causal,
  comes out the same: it is encoded once, and each name attends to its keys and values;
- what follows the end token cannot matter, for the same reason;
- the feature is read at the end token, so the last layer is needed there only.

Prompts of one length are one rectangular batch, without padding. Features agree with
`Backbone.encode_texts` to rounding.

A template holds the class name's place: `{}` the name as it is, `{a}` the name with
its article, "an apple" and "a dog".
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from helpers.models.clip import Backbone, _ends_at_argmax, _text_tower
from helpers.models.prompts import _attend, _finish, _keys_values, _queries
from helpers.models.sizes import Size
from helpers.words import with_article

ROWS = 4096  # prompts at once on a CPU; a GPU gets more
BEFORE = 10  # tokens of a caption before the class
GPU_ROWS = 16 * ROWS
SLOT = re.compile(r"\{a?\}")
LONGEST = 3  # names that are tried: joined to a text, a name's tokens may differ by one


def memory_needed(sizes: Iterable[Size]) -> float:
    """Bytes that prompts of captions take at the peak, of the largest of these CLIPs:
    a caption's keys and values before the class, of all layers, and each prompt's own.
    """
    sizes = list(sizes)
    shared = 2 * BEFORE * max(size.layers * size.width for size in sizes)
    alone = 6 * 14 * max(size.width for size in sizes)
    return 4 * ROWS * (shared + alone)


def fill(template: str, class_name: str, characters: int | None = None) -> str:
    """The prompt of a class; `characters` cuts it there, whatever stands there."""
    words = {"{}": class_name, "{a}": with_article(class_name)}
    return SLOT.sub(lambda slot: words[slot[0]], template)[:characters]


@dataclass(frozen=True)
class Context:
    """What a backbone reads, whatever its tokenizer: `context(text)`, does it fit?"""

    backbone: Backbone

    def __call__(self, text: str) -> bool:
        return self.tokens(text) <= self.backbone.context_length

    def tokens(self, text: str) -> int:
        """Tokens of a text, start and end included.

        Tokenizers that cut tell no more than one above what is read.
        """
        tokenizer, limit = self.backbone.tokenizer, self.backbone.context_length
        if isinstance(tokenizer, open_clip.SimpleTokenizer):
            return len(tokenizer.encode(text)) + 2
        row, padding = tokenizer([text])[0], tokenizer([""])[0][-1]
        if row[limit - 1] != padding:  # full to the last place: it may have been cut
            return limit + 1
        return (
            int((row != padding).nonzero().max()) + 1 if (row != padding).any() else 0
        )

    def longest(self, class_names: Iterable[str]) -> list[str]:
        """The few names of most tokens, of which the last has the most."""
        return sorted(set(class_names), key=lambda n: (self.tokens(n), n))[-LONGEST:]

    def cut(self, text: str) -> str:
        """The beginning of the text, as many letters as fit."""
        sure = self.backbone.context_length - 2  # a byte takes one token at most
        while len(text.lower().encode()) > sure and not self(text):
            text = text[:-1]
        return text


def features(
    backbone: Backbone,
    templates: Sequence[str],
    class_names: Sequence[str],
    characters: int | None = None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Unit features of all classes in all templates, a part at a time.

    Yields positions among the templates and their features float32 [G, C, D] on the
    backbone's device; every position comes once, in an order that saves work. Raises
    ValueError for prompts that do not fit the context; where `characters` cuts them,
    they are cut to fit as well.
    """
    size = ROWS if backbone.device.type == "cpu" else GPU_ROWS
    group = max(1, size // len(class_names))
    if not _shares_prefixes(backbone):
        for start in range(0, len(templates), group):
            chosen = list(range(start, min(start + group, len(templates))))
            prompts = [
                fill(templates[i], c, characters) for i in chosen for c in class_names
            ]
            if characters:
                prompts = list(map(Context(backbone).cut, prompts))
            encoded = backbone.encode_texts(prompts)
            yield chosen, encoded.view(len(chosen), len(class_names), -1)
        return
    rows = _TokenRows(backbone, class_names, characters)
    tokens = [rows(template) for template in templates]
    # Neighbours have prefixes of one length, and prompts of few lengths.
    order = sorted(
        range(len(templates)), key=lambda i: (tokens[i][0], len(tokens[i][1][0]))
    )
    while order:
        prefix = tokens[order[0]][0]
        chosen = [i for i in order[:group] if tokens[i][0] == prefix]
        order = order[len(chosen) :]
        yield chosen, _encode(backbone, prefix, [tokens[i][1] for i in chosen])


def _shares_prefixes(backbone: Backbone) -> bool:
    """Whether a token depends on those before it only, and blocks are CLIP's own."""
    if not _ends_at_argmax(backbone.model):
        return False
    blocks = _text_tower(backbone.model).transformer.resblocks
    return all(isinstance(block, ResidualAttentionBlock) for block in blocks)


class _TokenRows:
    """template -> (length of the shared prefix, token ids of each class's prompt).

    Pieces between slots and class names are tokenised once and put together, where
    that gives what tokenising the whole prompt does: where the slot stands between
    blanks, or before a full stop or comma and behind a letter.
    """

    def __init__(
        self, backbone: Backbone, class_names: Sequence[str], characters: int | None
    ) -> None:
        self.backbone, self.names, self.characters = backbone, class_names, characters
        self.simple = isinstance(backbone.tokenizer, open_clip.SimpleTokenizer)
        if self.simple:
            encode = backbone.tokenizer.encode
            self.bare = [encode(name) for name in class_names]
            self.articled = [encode(with_article(name)) for name in class_names]
            stops = "" if any(not n[-1:].isalpha() for n in class_names) else ".,"
            self.joins = re.compile(rf"(?:^|.*\s)\{{a?\}}(?:$|[\s{stops}].*)", re.S)

    def __call__(self, template: str) -> tuple[int, list[list[int]]]:
        slots = SLOT.findall(template)
        prompts = whole = [fill(template, name) for name in self.names]
        if self.characters:
            reads = Context(self.backbone)
            prompts = [reads.cut(prompt[: self.characters]) for prompt in whole]
        joined = self.simple and prompts == whole and len(slots) == 1
        if not joined or not self.joins.fullmatch(template):
            rows = self.backbone.tokenize(prompts)
            ends = rows.argmax(dim=-1).tolist()
            cut = [row[: end + 1] for row, end in zip(rows.tolist(), ends, strict=True)]
            same = (rows == rows[0]).all(dim=0).int().cumprod(dim=0).sum()
            return min(int(same), *ends), cut
        before, after = SLOT.split(template)
        tokenizer, limit = self.backbone.tokenizer, self.backbone.context_length
        start = [tokenizer.sot_token_id, *tokenizer.encode(before)]
        end = [*tokenizer.encode(after), tokenizer.eot_token_id]
        names = self.articled if slots == ["{a}"] else self.bare
        rows = [[*start, *name, *end] for name in names]
        for name, row in zip(self.names, rows, strict=True):
            if len(row) > limit:
                raise ValueError(
                    f"prompt of {len(row)} tokens, but {self.backbone.name} reads at "
                    f"most {limit}: shorten {fill(template, name)!r}"
                )
        return len(start), rows


@torch.no_grad()
def _encode(
    backbone: Backbone, prefix: int, prompts: Sequence[Sequence[list[int]]]
) -> Tensor:
    """Unit features [G, C, D] of prompts that share their first tokens within G.

    Prompts that read the same share one feature, so that they tie exactly.
    """
    tower, device = _text_tower(backbone.model), backbone.device
    row: dict[tuple, int] = {}
    every = [
        row.setdefault((g, *tokens[prefix:]), len(row))
        for g, rows in enumerate(prompts)
        for tokens in rows
    ]
    owner = torch.tensor([g for g, *_ in row])
    suffixes = [suffix for _, *suffix in row]
    lengths = torch.tensor([len(suffix) for suffix in suffixes])
    found = torch.empty(len(suffixes), backbone.embed_dim, device=device)
    with backbone._autocast():
        shared = [rows[0][:prefix] for rows in prompts]
        layers = _prefix(tower, torch.tensor(shared, device=device))
        for length in lengths.unique().tolist():
            same = (lengths == length).nonzero()[:, 0]
            tokens = torch.tensor([suffixes[i] for i in same.tolist()], device=device)
            before = [kv[:, owner[same].to(device)] for kv in layers]
            encoded = _suffix(tower, before, tokens, prefix)
            found[same.to(device)] = F.normalize(encoded.float(), dim=-1)
    return found[every].view(len(prompts), -1, backbone.embed_dim)


def _prefix(tower: nn.Module, tokens: Tensor) -> list[Tensor]:
    """Keys and values of tokens [G, P], each layer [2, G, P, heads, W / heads]."""
    x = tower.token_embedding(tokens) + tower.positional_embedding[: tokens.shape[1]]
    layers = []
    for block in tower.transformer.resblocks:
        y = block.ln_1(x)
        layers.append(_keys_values(block.attn, y))
        if block is not tower.transformer.resblocks[-1]:
            x = _finish(block, x, _attend(_queries(block.attn, y), layers[-1]))
    return layers


def _suffix(
    tower: nn.Module, before: Sequence[Tensor], tokens: Tensor, prefix: int
) -> Tensor:
    """Features [R, D], not normalised, of prompts that go on with tokens [R, n]."""
    positions = tower.positional_embedding[prefix : prefix + tokens.shape[1]]
    x = tower.token_embedding(tokens) + positions
    blocks = tower.transformer.resblocks
    for block, kv in zip(blocks, before, strict=True):
        y = block.ln_1(x)
        own = _keys_values(block.attn, y)
        if block is blocks[-1]:
            x, y = x[:, -1:], y[:, -1:]
        attended = _attend(_queries(block.attn, y), torch.cat([kv, own], dim=2))
        x = _finish(block, x, attended)
    x = tower.ln_final(x[:, 0])
    projection = tower.text_projection
    if isinstance(projection, nn.Module):
        return projection(x)
    return x if projection is None else x @ projection
