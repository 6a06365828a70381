"""Adaptation as the chapters run it: methods on views, timed, written as ledgers.

It connects the text side of a backbone, views from the store, the functions of
`helpers.methods` and the ledgers. The store keeps learned contexts, and the logits of
methods that tune prompts, in chunks of images.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from helpers import store
from helpers.chapters.notebook import Run
from helpers.data.dataset import Dataset
from helpers.files import digest
from helpers.keys import folder, key
from helpers.methods import cocoop, coop, cots, selection, tpt
from helpers.methods.zero_shot import zero_shot
from helpers.models.behaviour import common_share
from helpers.models.clip import Backbone
from helpers.models.prompts import PromptTower, contexts_at_once
from helpers.progress import track
from helpers.results import compare
from helpers.store import contexts
from helpers.store.chunks import in_chunks, timed
from helpers.store.timing import fastest
from helpers.store.views import draw

CHUNK = 128  # tuned images, or nearly so many, that a killed run loses
TIMED = 64  # images, at most, on which a method is timed
HERE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Text:
    """The text side of a backbone for one list of classes, ready to be tuned."""

    tower: PromptTower
    context: Tensor  # [M, W], where tuning starts, or one for each image, [N, M, W]
    class_features: Tensor  # [C, D] of the start [M, W]
    logit_scale: float
    batch: int  # contexts that go through the tower at once
    jacobian: Tensor | None  # [C, D, M, W] at the start, or none


Method = Callable[[Tensor, Text], Tensor]
"""(views [N, V, D], text) -> logits [N, C]."""


def prepare(
    backbone: Backbone,
    class_names: tuple[str, ...],
    context: str | Tensor = "a photo of a",
    memory: float = 2.0,
    jacobian: bool = False,
) -> Text:
    """The text side with prompts "<context> <class name>.".

    `context`: words, or a learned context [M, W]. `memory`: gigabytes (1e9 bytes) that
    prompts on their way through the tower may take; one context at a time goes through
    it in any case. Says how many do and what the Jacobian took, which the store keeps.
    """
    words = context if isinstance(context, str) else len(context)
    tower = PromptTower(backbone, class_names, words)
    start = tower.context if isinstance(context, str) else context
    batch = contexts_at_once(memory, tower.peak_bytes(1, gradient=True))
    peak = tower.peak_bytes(batch, gradient=True) / 1e9
    report = f"{backbone.name}: {batch} contexts at once, {peak:.2f} GB at most"
    found = None
    if jacobian:
        where = folder("jacobians", backbone.key, tower.class_names, start, _code())
        label = f"Jacobian of {backbone.name}"
        work = partial(_jacobian, tower, start)
        made, spent = timed(where, 1, work, label, 1)
        found = made[0].to(start)
        report += f"; Jacobian of {tower.jacobian_bytes / 1e6:,.0f} MB in {spent:.1f} s"
    print(report)
    with torch.no_grad():
        classes = tower.features(start)
    return Text(tower, start, classes, backbone.logit_scale, batch, found)


def _jacobian(
    tower: PromptTower, start: Tensor, one: range
) -> Iterator[tuple[range, Tensor]]:
    yield one, tower.jacobian(start)[None]


def first_view(views: Tensor, text: Text) -> Tensor:
    """Zero-shot: view 0 alone, nothing adapted."""
    return zero_shot(views[:, 0], text.class_features, text.logit_scale)


def in_feature_space(method: Callable[..., Tensor]) -> Method:
    """A method of (views, class features, logit scale): a vote, ZERO, MTA or TPS."""

    def run(views: Tensor, text: Text) -> Tensor:
        return method(views, text.class_features, text.logit_scale)

    return run


@dataclass(frozen=True)
class Tuning:
    """A method of (views, text features, logit scale, context): TPT and its kin.

    It takes seconds per image, so `evaluate` keeps its logits on disk.
    """

    method: Callable[..., Tensor]
    settings: Mapping[str, object]

    def __call__(self, views: Tensor, text: Text) -> Tensor:
        side = text.tower.features, text.logit_scale, text.context
        shared = {"batch": text.batch, "jacobian": text.jacobian}
        return self.method(views, *side, **shared, **self.settings)

    @property
    def key(self) -> str:
        """The key under which logits are kept; "" where they are not.

        Functions from outside `helpers.methods`, a notebook's say, have no key, since
        their names do not tell what they do, nor have settings that are functions.
        """
        name = f"{self.method.__module__}.{self.method.__qualname__}"
        if not name.startswith("helpers.methods.") or "<" in name:
            return ""
        try:
            return key(name, self.settings, _code(), torch.__version__)
        except TypeError:
            return ""


@cache
def _code() -> str:
    """Hash of the sources that decide what a `Tuning` computes."""
    files = [*HERE.glob("methods/*.py"), Path(__file__), HERE / "models/prompts.py"]
    return digest(files)


def by_tuning(method: Callable[..., Tensor], **settings) -> Tuning:
    """`Tuning` with these settings on top of the method's own."""
    return Tuning(method, settings)


def evaluate(
    run: Run,
    backbone: Backbone,
    dataset: Dataset,
    text: Text,
    methods: Mapping[str, Method],
    recipe: str = "",
    count: int = 1,
) -> list[pd.DataFrame]:
    """Run methods on the same views of a data set and write a ledger of each.

    Ledgers are named "METHOD-RECIPE", or "METHOD" without a recipe, where methods get
    the original image alone. Their seconds are those of the views (read, drawn and
    encoded) and of the method, both timed as in `helpers.store.timing`;
    `attrs["looking"]` has those of the views. Earlier results of a `Tuning` are read
    from disk, so that a killed run resumes and its ledgers are the same.
    """
    if recipe:
        made_by = backbone, dataset, recipe, count, run.seed
        views = store.view_features(*made_by)
        looking = store.view_seconds_per_image(*made_by)
    else:
        views = store.image_features(backbone, dataset)[:, None]
        looking = store.seconds_per_image(backbone, dataset)
    made = views, looking, recipe, {"views": recipe, "view_count": count}
    return evaluate_views(run, backbone, dataset, text, methods, *made)


def evaluate_views(
    run: Run,
    backbone: Backbone,
    dataset: Dataset,
    text: Text,
    methods: Mapping[str, Method],
    views: Tensor,
    looking: float,
    suffix: str,
    settings: Mapping[str, object],
) -> list[pd.DataFrame]:
    """`evaluate` on views [N, V, D] that the caller has made.

    `looking`: seconds per image of the views. Ledgers are named "METHOD-SUFFIX", or
    "METHOD" if the suffix is "", and contain `settings` and those of a `Tuning`.
    """
    named = {f"{name}-{suffix}" if suffix else name: m for name, m in methods.items()}
    ledgers = []
    for name, logits, own in answers(backbone, dataset, text, named, views):
        cost = looking + own
        method = named[name]
        told = {**settings, **(method.settings if isinstance(method, Tuning) else {})}
        ledger = run.predictions(name, dataset, backbone, logits, cost, told)
        ledger.attrs["looking"] = looking
        ledgers.append(ledger)
    return ledgers


def answers(
    backbone: Backbone,
    dataset: Dataset,
    text: Text,
    methods: Mapping[str, Method],
    views: Tensor,
) -> Iterator[tuple[str, Tensor, float]]:
    """Each method's name, logits [N, C] on the CPU, and seconds per image.

    `views`: [N, V, D], whose seconds are not counted. Earlier results of a `Tuning` are
    read from disk.
    """
    views = views.to(backbone.device)
    for name, method in methods.items():
        label = f"{name} on {dataset.name} with {backbone.name}"
        logits = _logits(method, views, text, backbone.key, label)
        yield name, logits, _seconds(method, views, text)


def _seconds(method: Method, views: Tensor, text: Text) -> float:
    """Seconds per image of a method, timed on the first images."""
    n = min(len(views), text.batch if isinstance(method, Tuning) else TIMED, TIMED)
    own = text.context[:n] if text.context.ndim == 3 else text.context

    def work() -> None:
        with torch.no_grad():
            method(views[:n], replace(text, context=own)).cpu()

    return fastest(work) / n


def steps_and_rates(
    backbone: Backbone,
    text: Text,
    views: Tensor,
    labels: Tensor,
    steps: Sequence[int],
    rates: Sequence[float],
) -> pd.DataFrame:
    """How accurate TPT is with so many steps of such lengths, a row for each pair.

    On views [N, V, D] of images with labels int64 [N]. Columns: backbone, steps, rate,
    top1, moved (share of predictions that are not zero-shot's), and those of
    `compare.paired_difference` from zero-shot. The steps of a rate are one tuning,
    which is kept as `evaluate` keeps those of methods.
    """
    rows = []
    for rate in rates:
        tuning = by_tuning(tpt.path, steps=max(steps), learning_rate=rate)
        label = f"TPT at rate {rate:g} with {backbone.name}"
        logits = _logits(tuning, views, text, backbone.key, label)
        choices = logits.argmax(dim=-1)  # [N, 1 + steps]
        right = choices == labels[:, None]
        for n in steps:
            row = {"backbone": backbone.name, "steps": n, "rate": rate}
            row["top1"] = right[:, n].double().mean().item()
            row["moved"] = (choices[:, n] != choices[:, 0]).double().mean().item()
            rows.append(row | compare.paired_difference(right[:, n], right[:, 0]))
    return pd.DataFrame(rows)


def best_step(grid: pd.DataFrame) -> dict[str, float]:
    """Settings of `tpt.tune` with the greatest top1 in rows of `steps_and_rates`.

    Of equals, those that move a coordinate least, and then those of fewest steps.
    """
    ranked = grid.assign(way=grid["steps"] * grid["rate"])
    order = ["top1", "way", "steps"]
    best = ranked.sort_values(order, ascending=[False, True, True]).iloc[0]
    return {"steps": int(best["steps"]), "learning_rate": float(best["rate"])}


def movement_in_common(views: Tensor, text: Text, **tuning) -> float:
    """The share of the class features' movement that is common to all classes.

    Mean over images, given as views [N, V, D], of `behaviour.common_share` after a TPT
    with these keyword arguments of `tpt.tune`.
    """
    side = text.tower.features, text.logit_scale, text.context
    tuning |= {"batch": text.batch, "jacobian": text.jacobian}
    shares = []
    for at in tpt.tune(views, *side, **tuning).context.split(text.batch):
        with torch.no_grad():
            shares.append(common_share(text.tower.features(at) - text.class_features))
    return torch.cat(shares).mean().item()


def chunk_size(batch: int) -> int:
    """About `CHUNK` images, and a whole number of a method's own batches.

    Rounding depends on what goes through the tower together; cut there, it is the same
    in chunks as in one piece.
    """
    whole = math.lcm(tpt.FIRST_STEPS, batch)
    return whole * max(1, CHUNK // whole)


def _logits(
    method: Method, views: Tensor, text: Text, backbone: str, label: str
) -> Tensor:
    """Logits [N, C] on the CPU.

    `backbone` is the key of the one that views and text come from. Methods that read
    one tuning (`cots.READINGS`) are computed and kept together: the first one makes all
    of them.
    """
    tuning = method.key if isinstance(method, Tuning) else ""
    place, alike = None, text.context.ndim == 2 and views.shape[1] > 1
    if tuning and alike and method.method in cots.READINGS:
        place = cots.READINGS.index(method.method)
        method = replace(method, method=cots.readings)
        tuning = method.key

    def some(span: range) -> Iterator[tuple[range, Tensor]]:
        rows = slice(span.start, span.stop)
        own = text.context[rows] if text.context.ndim == 3 else text.context
        with torch.no_grad():
            logits = method(views[rows], replace(text, context=own))
        yield span, logits

    if not tuning:
        ((_, logits),) = some(range(len(views)))
        return logits.cpu()
    side = text.context, text.class_features, text.logit_scale, text.tower.class_names
    how = text.batch, text.jacobian is not None
    where = folder("adapted", tuning, backbone, views, side, how)
    size = chunk_size(text.batch)
    logits = in_chunks(where, len(views), some, label, size)
    return logits if place is None else logits[:, place].clone()


def look(
    backbone: Backbone,
    dataset: Dataset,
    text: Text,
    position: int,
    recipe: str,
    count: int,
    seed: int = 0,
    surest: int = 5,
    least: int = 2,
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Some views of one image, pictures and a table, for `chapter_02.view_rows`.

    View 0, then the `surest` of the others, then the `least` sure. The table marks as
    kept those that TPT keeps, a tenth of all `count`.
    """
    image, image_id = dataset.image(position), dataset.ids[position]
    drawn = draw(backbone, image, image_id, recipe, count, seed)
    views = store.view_features(backbone, dataset, recipe, count, seed)[position]
    views = views.to(text.class_features)
    logits = text.logit_scale * views @ text.class_features.T  # [V, C]
    entropies, best = selection.entropy(logits), logits.argmax(dim=-1)
    order = entropies.argsort(stable=True).tolist()
    kept = order[: selection.keep_count(count, 0.1)]
    others = [n for n in order if n]
    shown = [0, *others[:surest], *others[max(surest, len(others) - least) :]]
    frame = pd.DataFrame(
        {
            "recipe": recipe,
            "view": shown,
            "prediction": [dataset.class_names[c] for c in best[shown].tolist()],
            "entropy": entropies[shown].tolist(),
            "kept": [n in kept for n in shown],
        }
    )
    return [drawn[n].permute(1, 2, 0).numpy() for n in shown], frame


def learn_coop(
    backbone: Backbone,
    dataset: Dataset,
    tokens: int,
    recipe: str,
    count: int,
    epochs: int,
    seed: int = 0,
) -> Path:
    """The file of a CoOp context of so many tokens, learned now or before.

    Trained as `coop.train` says on the views of labelled images, but for the plain
    image among `count`.
    """
    made = {"method": "coop", "tokens": tokens, "views": [recipe, count]}
    made |= {"epochs": epochs, "seed": seed}

    def train(views: Tensor, labels: Tensor) -> dict[str, Tensor]:
        tower = PromptTower(backbone, dataset.class_names, tokens)
        start = coop.random_start(*tower.context.shape, seed).to(backbone.device)
        side = tower.features, backbone.logit_scale, start
        bar = partial(track, label="epochs of CoOp")
        trained = coop.train(views, labels, *side, epochs, seed=seed, progress=bar)
        return {"context": trained.context}

    return _learned(backbone, dataset, made, train)


def learn_cocoop(
    backbone: Backbone,
    dataset: Dataset,
    recipe: str,
    count: int,
    epochs: int,
    seed: int = 0,
) -> Path:
    """The file of a CoCoOp that starts from "a photo of a", learned now or before."""
    made = {"method": "cocoop", "views": [recipe, count], "epochs": epochs}
    made |= {"seed": seed}

    def train(views: Tensor, labels: Tensor) -> dict[str, Tensor]:
        tower = PromptTower(backbone, dataset.class_names)
        side = tower.features, backbone.logit_scale, tower.context
        bar = partial(track, label="epochs of CoCoOp")
        trained = cocoop.train(views, labels, *side, epochs, seed=seed, progress=bar)
        return trained.model._asdict()

    return _learned(backbone, dataset, made, train)


def _learned(
    backbone: Backbone,
    dataset: Dataset,
    made: dict[str, Any],
    train: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
) -> Path:
    """The file of what `train` learns from views and labels, made unless it is there.

    The views [N, count - 1, D] are those of `made`, without the plain image.
    """
    path = _context_file(backbone, dataset, made)
    if not contexts.sound(path):
        views = store.view_features(backbone, dataset, *made["views"], made["seed"])
        labels = torch.tensor(dataset.labels).to(backbone.device)
        learned = train(views[:, 1:].to(backbone.device), labels)
        contexts.save(path, learned, backbone, dataset.name, made)
    return path


def _context_file(
    backbone: Backbone, dataset: Dataset, recipe: Mapping[str, object]
) -> Path:
    """The store's file of the context that this recipe learns; it may not exist."""
    of = dataset.key, dataset.fingerprint  # the labels count, too
    where = folder("contexts", backbone.key, *of, recipe)
    return where / "context.safetensors"
