"""One training loop for all that tunes without labels.

A method brings a model, an optimiser and a step; the loop brings what is the same for
all: order, log, memory estimate, checkpoint, and an eye on collapse.

- An epoch takes every image once, in an order that depends on (seed, epoch) alone, and
  leaves out what does not fill a batch.
- The log has a row per epoch. Training reads no label: what `evaluate` measures goes
  into the log and nowhere else.
- Self-training may talk itself into a few classes. With h the histogram of predicted
  classes over an epoch, exp(H(h)) is their effective number. Where it falls below half
  of an earlier epoch's, or is still below half of the first labels' in the fourth epoch
  and not growing, the loop warns once, and goes on.
- Where a loss is a mean over images, a batch whose graphs would take too much memory
  goes through in parts whose gradients are added: the same step, to rounding.
- A checkpoint after each epoch holds what trains, the optimiser and the log; the same
  call goes on where a killed one stood, and ends with the same numbers. Who calls says
  where states are kept, and how much memory is free.
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.keys import key

COLLAPSED = 0.5  # share of the effective classes that there were
PATIENCE = 3  # epochs that a network from scratch has to find the classes
GROWING = 1.05  # times the effective classes of the epoch before
HEADROOM = 1.3  # memory at the peak, over that of the saved graph
MEASURED = 2  # images in the batch that the memory estimate measures
GRAPHS = 1e9  # bytes that the graphs of images may take at once, where they can part
GPU_SHARE = 8  # a GPU gets so many times more
PIXELS = 100 * 64**2  # of images that go through a tower at once without a graph
GPU_PIXELS = 64 * PIXELS
NO_LABEL = -1


class Step(NamedTuple):
    """What a method makes of a batch of b images."""

    loss: Tensor
    logits: Tensor  # [b, C], the student's
    labels: Tensor  # int64 [b], what it was taught, -1 for nothing
    figures: Mapping[str, float] = {}  # their means over an epoch go into the log


@dataclass(frozen=True, eq=False)
class Trained:
    """What training leaves."""

    model: nn.Module  # of the last epoch
    log: pd.DataFrame  # a row per epoch
    labels: Tensor  # int64 [epochs, N], what each image was taught, -1 for nothing


class Checkpoint(Protocol):
    """Where a training keeps its state, such as `helpers.store.checkpoints.Checkpoint`.

    A state is a dictionary of tensors and plain values.
    """

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last, or None."""

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state in place of the one before."""


class Student(nn.Module):
    """An image tower and a linear classifier: uint8 [B, 3, S, S] -> logits [B, C].

    With a logit scale s the logits are CLIP's, s <x / |x|, w_c>; without, they are
    <x, w_c>, which is LaFTer's. `tune_weight` lets the classifier train.
    """

    def __init__(
        self,
        tower: nn.Module,
        weight: Tensor,
        logit_scale: float | None = None,
        tune_weight: bool = False,
    ) -> None:
        super().__init__()
        self.tower, self.logit_scale = tower, logit_scale
        self.weight = nn.Parameter(weight.detach().float().clone(), tune_weight)

    def classify(self, features: Tensor) -> Tensor:
        """Logits [B, C] of features [B, D] as the tower gives them."""
        if self.logit_scale is None:
            return features @ self.weight.T
        return self.logit_scale * F.normalize(features, dim=-1) @ self.weight.T

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.tower(images))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Callable[[Tensor, int], Step],
    images: int,
    epochs: int,
    batch: int,
    seed: int,
    settings: Mapping[str, object],
    rate: Callable[[int], float] | None = None,
    additive: bool = False,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    checkpoint: Checkpoint | None = None,
    free: Callable[[torch.device], float] | None = None,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Trained:
    """Train `model` in place on what `step(rows, epoch)` makes of images int64 [b].

    `settings`: what decides the result besides the other arguments, for the checkpoint
    to know its own run by; JSON can tell them.
    `rate`: epoch -> learning rate that holds for it, constant unless given.
    `additive`: the step's loss is a mean over images, each on its own.
    `evaluate`: model -> figures of an epoch, for the log alone.
    `checkpoint`: keeps a state after each epoch; training goes on from what it holds.
    `free`: device -> bytes of memory to be had there; without it none are counted.
    `progress` wraps the range of the epochs, say, to show a bar.

    ValueError for a loss that is not finite and for a checkpoint of another run,
    MemoryError before the start where the batch will not fit.
    """
    if epochs < 1 or batch < 1 or images < 1:
        raise ValueError(f"{epochs} epochs, batches of {batch}, {images} images: 1 up")
    batch = min(batch, images)
    at_once = fitting(
        model, lambda few: step(torch.arange(few), 0), batch, additive, free
    )
    settings = {**settings, "images": images, "batch": batch, "seed": seed}
    settings["start"] = key(*model.parameters())
    rows, taught = [], torch.full((epochs, images), NO_LABEL)
    if checkpoint is not None:
        rows = _resume(checkpoint, settings, model, optimizer, taught)
    before = rows[0]["effective_labels"] if rows else None
    warned = any(row["collapsed"] for row in rows)
    for epoch in progress(range(epochs)):
        if epoch < len(rows):
            continue
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate(epoch)
        began = time.perf_counter()
        rows_of = order(images, batch, seed, epoch)
        row = _epoch(step, optimizer, epoch, rows_of, at_once, taught[epoch])
        before = before or row["effective_labels"]
        row["collapsed"] = _collapsed(rows, row["effective_classes"], before)
        if row["collapsed"] and not warned:
            warned = True
            warnings.warn(
                f"epoch {epoch}: the predictions have collapsed to "
                f"{row['effective_classes']:.1f} effective classes, from labels with "
                f"{before:.1f}; a smaller learning rate or fewer epochs may help",
                RuntimeWarning,
                stacklevel=3,
            )
        row["seconds"] = time.perf_counter() - began
        if evaluate is not None:
            row |= {name: float(value) for name, value in evaluate(model).items()}
        rows.append(row)
        if checkpoint is not None:
            checkpoint.save(_state(settings, model, optimizer, rows, taught))
    return Trained(model, pd.DataFrame(rows), taught)


@torch.no_grad()
def logits(model: nn.Module, inputs: Tensor, batch: int = 0) -> Tensor:
    """Logits float32 [N, C] of a trained model, of images or features [N, ...].

    `batch`: how many at once, 0 for what serves images of their size.
    """
    if not batch:
        on_cpu = next(model.parameters()).device.type == "cpu"
        pixels = inputs[0, :1].numel() if inputs.ndim == 4 else 64**2
        batch = max(1, (PIXELS if on_cpu else GPU_PIXELS) // pixels)
    return torch.cat([model(part).float() for part in inputs.split(batch)])


class Reported(NamedTuple):
    """The number a run is given in a table, and how it was chosen."""

    value: float
    epoch: int
    chosen: str


def reported(log: pd.DataFrame, column: str, faithful: bool = False) -> Reported:
    """The last epoch's value of a column; `faithful` gives the greatest of all epochs.

    The latter is what LaFTer's code prints: early stopping on test labels.
    """
    values = log[column]
    at = int(values.argmax()) if faithful else len(values) - 1
    chosen = "greatest over epochs, by test labels" if faithful else "last epoch"
    return Reported(float(values.iloc[at]), at, chosen)


def effective_classes(predictions: Tensor) -> float:
    """exp(H) of the histogram of predicted classes int64 [N]: 1 if all are the same."""
    share = predictions.bincount().double() / len(predictions)
    return math.exp(torch.special.entr(share).sum())


def order(images: int, batch: int, seed: int, epoch: int) -> list[Tensor]:
    """An epoch's batches of positions int64 [batch]; an incomplete one is left out."""
    shuffled = np.random.default_rng([seed, epoch]).permutation(images)
    return list(torch.from_numpy(shuffled[: images - images % batch]).split(batch))


def chances(images: int, seed: int, epoch: int) -> Tensor:
    """A number in [0, 1) for each image, float64 [N], for this epoch."""
    return torch.from_numpy(np.random.default_rng([seed, epoch, 1]).random(images))


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """What trains, in two groups: biases without weight decay, all else with it.

    So do LaFTer's and other codes; the scales of norms decay.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    biases = [p for n, p in named if n.endswith("bias")]
    others = [p for n, p in named if not n.endswith("bias")]
    groups = (others, weight_decay), (biases, 0.0)
    return [{"params": p, "weight_decay": decay} for p, decay in groups if p]


def fitting(
    model: nn.Module,
    forward: Callable[[int], object],
    batch: int,
    additive: bool = True,
    free: Callable[[torch.device], float] | None = None,
) -> int:
    """How many of a batch's images may have a graph at once: all but for `additive`.

    `forward` makes the graph of so many images. What fits is told from a few, and does
    not depend on what else the machine does, lest results do. MemoryError where it is
    more than is `free`, as in `train`.
    """
    few = min(MEASURED, batch)
    each = HEADROOM / few * graph_bytes(model, lambda: forward(few))
    device = next(model.parameters()).device
    most = GRAPHS * (1 if device.type == "cpu" else GPU_SHARE)
    parts = min(batch, math.ceil(batch * each / most)) if additive else 1
    at_once = math.ceil(batch / max(1, parts))
    need, room = each * at_once, math.inf if free is None else free(device)
    if need > room:
        raise MemoryError(
            f"batches of {batch} need about {need / 1e9:,.1f} GB, {room / 1e9:,.1f} GB "
            f"are free: at most {int(room / need * at_once)} fit"
        )
    return at_once


def images_at_once(model: nn.Module, images: Tensor) -> int:
    """How many of these images may have a graph at once."""
    return fitting(model, lambda few: model(images[:few]), len(images))


def graph_bytes(model: nn.Module, forward: Callable[[], object]) -> int:
    """Memory that a forward pass keeps for its backward pass, weights aside."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    # Nodes that held on to the tensors themselves would never be freed. The storages
    # stay until all are counted, so that no address comes twice.
    def keep(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def _epoch(
    step: Callable[[Tensor, int], Step],
    optimizer: torch.optim.Optimizer,
    epoch: int,
    batches: Sequence[Tensor],
    at_once: int,
    taught: Tensor,
) -> dict[str, float]:
    """One epoch; writes what the images were taught, gives its row of the log."""
    losses, predictions, figures = [], [], []
    for batch in batches:
        optimizer.zero_grad()
        for rows in batch.split(at_once):
            made, share = step(rows, epoch), len(rows) / len(batch)
            if not made.loss.isfinite():
                raise ValueError(
                    f"epoch {epoch}: the loss became {made.loss.item()}; the images or "
                    "class weights hold values that are not finite, or the learning "
                    "rate is too high"
                )
            (share * made.loss).backward()
            taught[rows] = made.labels.cpu()
            losses.append(share * made.loss.item())
            predictions.append((rows, made.logits.detach().argmax(dim=-1).cpu()))
            figures.append({k: share * v for k, v in made.figures.items()})
        optimizer.step()
    at, predicted = map(torch.cat, zip(*predictions, strict=True))
    labelled = taught[at] != NO_LABEL
    agreement = (taught[at] == predicted)[labelled].double().mean().item()
    return {
        "epoch": epoch,
        "steps": len(batches),
        "learning_rate": optimizer.param_groups[0]["lr"],
        "loss": sum(losses) / len(batches),
        "agreement": agreement,
        "labelled": labelled.double().mean().item(),
        "effective_labels": effective_classes(taught[at][labelled]),
        "effective_classes": effective_classes(predicted),
        "largest_class": (predicted.bincount().max() / len(predicted)).item(),
        **(pd.DataFrame(figures).sum() / len(batches)).to_dict(),
    }


def _collapsed(rows: list[dict], classes: float, labels: float) -> bool:
    """Whether these effective classes are few, after earlier epochs' `rows`."""
    earlier = [row["effective_classes"] for row in rows]
    fallen = bool(rows) and classes < COLLAPSED * max(earlier)
    late = len(rows) >= PATIENCE
    stuck = late and classes < min(COLLAPSED * labels, GROWING * earlier[-1])
    return fallen or stuck


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def _state(
    settings: Mapping[str, object],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: list[dict],
    taught: Tensor,
) -> dict[str, Any]:
    return {
        "settings": json.dumps(settings, sort_keys=True),
        "parameters": {n: p.detach() for n, p in _trainable(model).items()},
        "optimizer": optimizer.state_dict(),
        "rows": rows,
        "labels": taught[: len(rows)].int(),
    }


def _resume(
    checkpoint: Checkpoint,
    settings: Mapping[str, object],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    taught: Tensor,
) -> list[dict]:
    """The log so far, after putting model, optimiser and labels where it ends."""
    content = checkpoint.load()
    if content is None:
        return []
    theirs, ours = json.loads(content["settings"]), json.loads(json.dumps(settings))
    if theirs != ours:
        other = [
            f"{name} {theirs.get(name)!r}, not {ours.get(name)!r}"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        ]
        raise ValueError(
            f"{checkpoint} is of another run ({'; '.join(other)}): give another one, "
            "or remove what it holds"
        )
    if len(content["rows"]) > len(taught):
        raise ValueError(
            f"{checkpoint} is {len(content['rows'])} epochs on, past the {len(taught)} "
            "asked for: give another one, or remove what it holds"
        )
    with torch.no_grad():
        for name, parameter in _trainable(model).items():
            parameter.copy_(content["parameters"][name])
    optimizer.load_state_dict(content["optimizer"])
    taught[: len(content["rows"])] = content["labels"].long()
    return content["rows"]
