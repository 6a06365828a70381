"""The embedded tokenizer: OpenAI's byte-pair merges, pruned to the words of the world.

CLIP's vocabulary has 49,408 entries, 12.6 MB of embeddings at width 128 in fp16. The
world's captions and the usual templates need some hundred words. We keep the merges of
those words, in OpenAI's order, so that they are tokenised as by CLIP; any other word
becomes smaller tokens.
"""

import gzip
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import open_clip
from open_clip.tokenizer import SimpleTokenizer

from helpers.prompts.templates import TEMPLATES
from picto import captions, numerals


def vocabulary() -> set[str]:
    """Return every word of captions, descriptions, numerals and template sets."""
    prompts = " ".join(text for texts in TEMPLATES.values() for text in texts)
    return (
        captions.words()
        | set(re.findall(r"[a-z]+", prompts))
        | set(re.findall(r"[a-z]+", " ".join((*numerals.FRAMES, *numerals.NAMES))))
    )


def used_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return the merges of CLIP's tokenizer that these words use, in rank order."""
    full = SimpleTokenizer()
    used = set()
    for word in words:
        for piece in full.pat.findall(word.lower()):
            symbols = [full.byte_encoder[byte] for byte in piece.encode()]
            symbols[-1] += "</w>"
            while pair := _best_pair(symbols, full.bpe_ranks):
                used.add(pair)
                symbols = _merge(symbols, pair)
    return sorted(used, key=full.bpe_ranks.__getitem__)


def write_merges(path: Path, words: Iterable[str]) -> int:
    """Write the merges of words for `SimpleTokenizer(bpe_path=...)`.

    Returns the vocabulary's size. A newline at the file's end would be an empty merge.
    """
    lines = ["#version: 0.2", *(" ".join(merge) for merge in used_merges(words))]
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    return open_clip.SimpleTokenizer(bpe_path=str(path)).vocab_size


def _best_pair(symbols: list[str], ranks: dict) -> tuple[str, str] | None:
    pairs = [pair for pair in pairwise(symbols) if pair in ranks]
    return min(pairs, key=ranks.__getitem__, default=None)


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
