"""`study train WHAT`: train a model of the embedded world again, or its tokenizer."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import PIL
import torch
from torch import nn

from helpers.models import embedded
from helpers.paths import from_here
from picto import cards, pool, tokenizer, train
from picto import filter as hard_filter


def main(what: str, arguments: Sequence[str]) -> int:
    """Make `what` and write it to `--assets`, by default over the shipped file.

    Raises ValueError for an unknown name.
    """
    makers = {"picto-tokenizer": _tokenizer, "picto-filter": _filter}
    makers |= dict.fromkeys(train.RECIPES, _clip)
    makers |= {"picto-captioner": _captioner, "picto-diffusion": _diffusion}
    if what not in makers:
        raise ValueError(
            f"nothing called {what!r} to train: choose {', '.join(makers)}"
        )
    parser = argparse.ArgumentParser(prog=f"study train {what}")
    if what != "picto-tokenizer":
        parser.add_argument("--steps", type=int, help="optimizer steps")
        parser.add_argument("--images", type=int, help="distinct training pictures")
        parser.add_argument("--threads", type=int, help="CPU threads")
    if what in train.RECIPES:
        parser.add_argument(
            "--compiled",
            action="store_const",
            const=True,
            help="faster steps, where a C++ compiler is installed",
        )
    parser.add_argument(
        "--assets",
        type=from_here,
        default=embedded.ASSETS,
        help="folder that gets the result (default: the package's own)",
    )
    options = vars(parser.parse_args(arguments))
    if threads := options.pop("threads", None):
        torch.set_num_threads(threads)
    assets = options.pop("assets")
    assets.mkdir(parents=True, exist_ok=True)
    given = {k: v for k, v in options.items() if v is not None}
    command = [
        what,
        *(f"--{k}" if v is True else f"--{k} {v}" for k, v in given.items()),
    ]
    if threads:
        command.append(f"--threads {threads}")
    makers[what](" ".join(command), assets, given)
    return 0


def _tokenizer(command: str, assets: Path, options: dict) -> None:
    path = assets / embedded.MERGES.name
    size = tokenizer.write_merges(path, tokenizer.vocabulary())
    print(f"{path}: a vocabulary of {size}, the `vocab_size` of the model configs")


def _filter(command: str, assets: Path, options: dict) -> None:
    report = hard_filter.publish(hard_filter.train_filter(**options), assets)
    print({key: value for key, value in report.items() if key != "scenes"})


def _captioner(command: str, assets: Path, options: dict) -> None:
    from picto import captioner  # it imports transformers

    recipe = captioner.Recipe(**options)
    model, curve = captioner.train_captioner(recipe)
    found = captioner.publish(model, recipe, assets)
    _write_card(command, recipe, model, curve, found, assets)
    print(found["right"])


def _diffusion(command: str, assets: Path, options: dict) -> None:
    from picto import diffusion  # it imports diffusers

    recipe = diffusion.Recipe(**options)
    unet, curve = diffusion.train_diffusion(recipe)
    found = diffusion.publish(unet, recipe, assets)
    _write_card(command, recipe, unet, curve, found, assets)
    print(found["accuracy"])


def _clip(command: str, assets: Path, options: dict) -> None:
    name = command.split()[0]
    compiled = options.pop("compiled", False)
    recipe = replace(train.RECIPES[name], **options)
    model, curve = train.train_clip(name, recipe, compiled=compiled)
    found = cards.publish(name, model, assets)
    _write_card(command, recipe, model, curve, found, assets)
    print(found["zero_shot"])


def _write_card(
    command: str,
    recipe: Any,
    model: nn.Module,
    curve: list[dict],
    found: dict,
    assets: Path,
) -> None:
    """Write training curve and card of published weights, `found` at its end."""
    name = command.split()[0]
    path = assets / f"{name}.safetensors"
    card = {
        "name": name,
        "sha256": embedded.sha256(path),
        "megabytes": round(path.stat().st_size / 1e6, 2),
        "command": f"study train {command}",
        "minutes": curve[-1]["minutes"],
        "threads": torch.get_num_threads(),
        "device": str(next(model.parameters()).device),
        "pillow": PIL.__version__,  # it rasterised the training pictures
        "recipe": asdict(recipe),
        "world": pool.world_hash(),
        **found,
    }
    (assets / f"{name}.card.json").write_text(json.dumps(card, indent=2) + "\n")
    pd.DataFrame(curve).to_csv(assets / f"{name}.curve.csv", index=False)
