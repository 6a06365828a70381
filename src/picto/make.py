"""`study train WHAT`: train a model of the embedded world again, or its tokenizer."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import PIL
import torch

from helpers.models import embedded
from helpers.paths import from_here
from picto import cards, tokenizer, train
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
    made = _made(command, curve, model.device)
    card = captioner.publish(model, recipe, made, assets)
    pd.DataFrame(curve).to_csv(assets / f"{captioner.NAME}.curve.csv", index=False)
    print(card["right"])


def _diffusion(command: str, assets: Path, options: dict) -> None:
    from picto import diffusion  # it imports diffusers

    recipe = diffusion.Recipe(**options)
    unet, curve = diffusion.train_diffusion(recipe)
    card = diffusion.publish(unet, recipe, _made(command, curve, unet.device), assets)
    pd.DataFrame(curve).to_csv(assets / f"{diffusion.NAME}.curve.csv", index=False)
    print(card["accuracy"])


def _clip(command: str, assets: Path, options: dict) -> None:
    name = command.split()[0]
    compiled = options.pop("compiled", False)
    recipe = replace(train.RECIPES[name], **options)
    model, curve = train.train_clip(name, recipe, compiled=compiled)
    made = _made(command, curve, model.logit_scale.device)
    made["recipe"] = asdict(recipe)
    card = cards.publish(name, model, made, assets)
    pd.DataFrame(curve).to_csv(assets / f"{name}.curve.csv", index=False)
    print(card["zero_shot"])


def _made(command: str, curve: list[dict], device: torch.device) -> dict:
    """How a model was trained, for its card."""
    return {
        "command": f"study train {command}",
        "minutes": curve[-1]["minutes"],
        "threads": torch.get_num_threads(),
        "device": str(device),
        "pillow": PIL.__version__,  # it rasterised the training pictures
    }
