"""Prompts of many templates and class names, encoded with a prefix cache.

Caption prompts have a template per image, and so N x C prompts, while an ensemble has a
few times C. The prompts of one template differ in the class name alone:

- the tower is causal, so that the states of the tokens before the name are the same in
  all of them: they are computed once, and each name attends to their keys and values;
- for the same reason tokens after the end token do not matter;
- the feature is read at the end token, so that the last layer is needed there only.

Prompts of one length form a rectangular batch without padding. Features agree with
`Backbone.encode_texts` to rounding.

The placeholder of a template is `{}` for the class name, or `{a}` for the name with its
article, "an apple" and "a dog".
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from helpers.models.clip import Backbone, project_text, reads_end_token, text_tower
from helpers.models.prompts import (
    attend,
    finish_block,
    prefix_cache,
    project_keys_values,
    project_queries,
)
from helpers.words import with_article

BATCH = 4096  # prompts at once on a CPU
GPU_BATCH = 16 * BATCH
PLACEHOLDER = re.compile(r"\{a?\}")
LONGEST = 3  # names that are tried: within a text their numbers of tokens may change


def fill(template: str, class_name: str, characters: int | None = None) -> str:
    """Fill a template with a class name; `characters` cuts the prompt to a length."""
    words = {"{}": class_name, "{a}": with_article(class_name)}
    return PLACEHOLDER.sub(lambda match: words[match[0]], template)[:characters]


@dataclass(frozen=True)
class ContextWindow:
    """The number of tokens that a backbone reads, with any tokenizer."""

    backbone: Backbone

    def fits(self, text: str) -> bool:
        """Whether the backbone reads the whole text."""
        return self.tokens(text) <= self.backbone.context_length

    def tokens(self, text: str) -> int:
        """Count the tokens of a text, start and end included.

        With a tokenizer that truncates, a text that fills the context counts one more.
        """
        tokenizer, limit = self.backbone.tokenizer, self.backbone.context_length
        if isinstance(tokenizer, open_clip.SimpleTokenizer):
            return len(tokenizer.encode(text)) + 2
        row, padding = tokenizer([text])[0], tokenizer([""])[0][-1]
        if row[limit - 1] != padding:  # no padding: the text may have been truncated
            return limit + 1
        used = (row != padding).nonzero()
        return int(used.max()) + 1 if len(used) else 0

    def longest(self, class_names: Iterable[str]) -> list[str]:
        """Return the `LONGEST` names with the most tokens, in ascending order."""
        return sorted(set(class_names), key=lambda n: (self.tokens(n), n))[-LONGEST:]

    def cut(self, text: str) -> str:
        """Return as many characters of the text's beginning as fit."""
        bytes_that_fit = self.backbone.context_length - 2  # at most a token per byte
        while len(text.lower().encode()) > bytes_that_fit and not self.fits(text):
            text = text[:-1]
        return text


def features(
    backbone: Backbone,
    templates: Sequence[str],
    class_names: Sequence[str],
    characters: int | None = None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Encode all classes in all templates, group by group.

    Args:
        backbone: any; those without a causal tower encode whole prompts.
        templates: with placeholders, see `fill`.
        class_names: C of them.
        characters: cut prompts to this length and to the context; None does not cut.

    Yields:
        positions of G templates, and their unit features float32 [G, C, D] on the
        backbone's device. Each position comes once, in an order that saves work.

    Raises:
        ValueError: a prompt does not fit the context and `characters` is None.
    """
    size = BATCH if backbone.device.type == "cpu" else GPU_BATCH
    group = max(1, size // len(class_names))
    if not _shares_prefixes(backbone):
        for start in range(0, len(templates), group):
            chosen = list(range(start, min(start + group, len(templates))))
            prompts = [
                fill(templates[i], c, characters) for i in chosen for c in class_names
            ]
            if characters:
                prompts = list(map(ContextWindow(backbone).cut, prompts))
            encoded = backbone.encode_texts(prompts)
            yield chosen, encoded.view(len(chosen), len(class_names), -1)
        return
    tokenise = _Tokenise(backbone, class_names, characters)
    tokens = [tokenise(template) for template in templates]
    # Groups have prefixes of the same length, and prompts of few lengths.
    order = sorted(
        range(len(templates)), key=lambda i: (tokens[i][0], len(tokens[i][1][0]))
    )
    while order:
        prefix = tokens[order[0]][0]
        chosen = [i for i in order[:group] if tokens[i][0] == prefix]
        order = order[len(chosen) :]
        yield chosen, _encode(backbone, prefix, [tokens[i][1] for i in chosen])


def _shares_prefixes(backbone: Backbone) -> bool:
    """Whether the text tower has CLIP's blocks, causal and read at the end token."""
    if not reads_end_token(backbone.model):
        return False
    blocks = text_tower(backbone.model).transformer.resblocks
    return all(isinstance(block, ResidualAttentionBlock) for block in blocks)


class _Tokenise:
    """template -> (length of the shared prefix, token ids of each class's prompt).

    The pieces of a template and the class names are tokenised once and joined if that
    equals tokenising the whole prompt: for a single placeholder between blanks, or
    before a full stop or comma if all class names end with a letter.
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
        placeholders = PLACEHOLDER.findall(template)
        prompts = whole = [fill(template, name) for name in self.names]
        if self.characters:
            window = ContextWindow(self.backbone)
            prompts = [window.cut(prompt[: self.characters]) for prompt in whole]
        joined = self.simple and prompts == whole and len(placeholders) == 1
        if not joined or not self.joins.fullmatch(template):
            rows = self.backbone.tokenize(prompts)
            ends = rows.argmax(dim=-1).tolist()
            cut = [row[: end + 1] for row, end in zip(rows.tolist(), ends, strict=True)]
            same = (rows == rows[0]).all(dim=0).int().cumprod(dim=0).sum()
            return min(int(same), *ends), cut
        before, after = PLACEHOLDER.split(template)
        tokenizer, limit = self.backbone.tokenizer, self.backbone.context_length
        start = [tokenizer.sot_token_id, *tokenizer.encode(before)]
        end = [*tokenizer.encode(after), tokenizer.eot_token_id]
        names = self.articled if placeholders == ["{a}"] else self.bare
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
    """Unit features [G, C, D] of G groups of prompts that share their first tokens.

    Prompts with the same tokens share one feature, so that they tie exactly.
    """
    tower, device = text_tower(backbone.model), backbone.device
    row: dict[tuple, int] = {}
    rows_of_prompts = [
        row.setdefault((g, *tokens[prefix:]), len(row))
        for g, rows in enumerate(prompts)
        for tokens in rows
    ]
    owner = torch.tensor([g for g, *_ in row])
    suffixes = [suffix for _, *suffix in row]
    lengths = torch.tensor([len(suffix) for suffix in suffixes])
    found = torch.empty(len(suffixes), backbone.embed_dim, device=device)
    with backbone.autocast():
        shared = torch.tensor([rows[0][:prefix] for rows in prompts], device=device)
        x = tower.token_embedding(shared) + tower.positional_embedding[:prefix]
        layers = prefix_cache(tower.transformer.resblocks, x)
        for length in lengths.unique().tolist():
            same = (lengths == length).nonzero()[:, 0]
            tokens = torch.tensor([suffixes[i] for i in same.tolist()], device=device)
            before = [kv[:, owner[same].to(device)] for kv in layers]
            encoded = _suffix(tower, before, tokens, prefix)
            found[same.to(device)] = F.normalize(encoded.float(), dim=-1)
    return found[rows_of_prompts].view(len(prompts), -1, backbone.embed_dim)


def _suffix(
    tower: nn.Module, before: Sequence[Tensor], tokens: Tensor, prefix: int
) -> Tensor:
    """Features [R, D], not normalised, of prompts that go on with tokens [R, n]."""
    positions = tower.positional_embedding[prefix : prefix + tokens.shape[1]]
    x = tower.token_embedding(tokens) + positions
    blocks = tower.transformer.resblocks
    for block, kv in zip(blocks, before, strict=True):
        y = block.ln_1(x)
        own = project_keys_values(block.attn, y)
        if block is blocks[-1]:
            x, y = x[:, -1:], y[:, -1:]
        attended = attend(project_queries(block.attn, y), torch.cat([kv, own], dim=2))
        x = finish_block(block, x, attended)
    return project_text(tower, tower.ln_final(x[:, 0]))
