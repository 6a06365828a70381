"""The training loop of all methods that train without labels.

A method brings a model, an optimiser and a step. The loop does the rest: order, log,
memory estimate, checkpoints, and the detection of collapse.

- An epoch takes every image once, in an order that depends only on seed and epoch, and
  drops the last, incomplete batch.
- The log has a row per epoch. Training reads no true label: results of `evaluate` go
  into the log only.
- Self-training may collapse to a few classes. With h the histogram of predicted classes
  over an epoch, exp(H(h)) is their effective number. The loop warns once if it falls
  below half of an earlier epoch's, or if in the fourth epoch it is still below half of
  the first labels' and does not grow.
- If a loss is a mean over images, a batch whose graphs need too much memory is split,
  and the gradients of its parts are added: the same step up to rounding.
- A checkpoint after each epoch holds the trained parameters, the optimiser and the log.
  The same call resumes a killed run and ends with the same numbers. The caller says
  where states are stored and how much memory is free.
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
GROWING = 1.05  # times the effective classes of the last epoch
HEADROOM = 1.3  # memory at the peak, over that of the saved graph
MEASURED = 2  # images in the batch that the memory estimate measures
GRAPHS = 1e9  # bytes of the graphs of one part of a batch that can be split
GPU_SHARE = 8  # times as many on a GPU
PIXELS = 100 * 64**2  # of images encoded at once without a graph
GPU_PIXELS = 64 * PIXELS
NO_LABEL = -1


class Step(NamedTuple):
    """The loss and labels of a batch of b images."""

    loss: Tensor
    logits: Tensor  # [b, C], the student's
    labels: Tensor  # int64 [b], the student's targets, -1 for none
    figures: Mapping[str, float] = {}  # logged as means over an epoch


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training."""

    model: nn.Module  # of the last epoch
    log: pd.DataFrame  # a row per epoch
    labels: Tensor  # int64 [epochs, N], each image's target, -1 for none


class Checkpoint(Protocol):
    """Stores a training's state, such as `helpers.store.checkpoints.Checkpoint`.

    A state is a dictionary of tensors and plain values.
    """

    def load(self) -> dict[str, Any] | None:
        """The last state, or None."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace the last state."""


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

    Args:
        settings: all else that decides the result, as JSON values; a checkpoint with
            other settings is refused.
        rate: epoch -> its learning rate; the optimiser's, unless given.
        additive: the step's loss is a mean of the images' own losses.
        evaluate: model -> figures of an epoch, for the log only.
        checkpoint: stores a state after each epoch; training resumes from its state.
        free: device -> bytes of free memory; memory is not checked without it.
        progress: wraps the range of epochs, for example to show a bar.

    Raises:
        ValueError: a loss that is not finite, or a checkpoint of another run.
        MemoryError: the batch will not fit; raised before training.
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
            state = {
                "settings": json.dumps(settings, sort_keys=True),
                "parameters": {n: p.detach() for n, p in _trainable(model).items()},
                "optimizer": optimizer.state_dict(),
                "rows": rows,
                "labels": taught[: len(rows)].int(),
            }
            checkpoint.save(state)
    return Trained(model, pd.DataFrame(rows), taught)


@torch.no_grad()
def logits(model: nn.Module, inputs: Tensor, batch: int = 0) -> Tensor:
    """Logits float32 [N, C] of a trained model, of images or features [N, ...].

    `batch`: how many at once; 0 chooses by the size of the images.
    """
    if not batch:
        on_cpu = next(model.parameters()).device.type == "cpu"
        pixels = inputs[0, :1].numel() if inputs.ndim == 4 else 64**2
        batch = max(1, (PIXELS if on_cpu else GPU_PIXELS) // pixels)
    return torch.cat([model(part).float() for part in inputs.split(batch)])


class Reported(NamedTuple):
    """The number that a table reports for a run, and how it was chosen."""

    value: float
    epoch: int
    chosen: str


def reported(log: pd.DataFrame, column: str, faithful: bool = False) -> Reported:
    """The last epoch's value of a column, or the greatest of all epochs if `faithful`.

    LaFTer's code prints the greatest: early stopping on test labels.
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
    """An epoch's batches of positions int64 [batch], without an incomplete one."""
    shuffled = np.random.default_rng([seed, epoch]).permutation(images)
    return list(torch.from_numpy(shuffled[: images - images % batch]).split(batch))


def chances(images: int, seed: int, epoch: int) -> Tensor:
    """A number in [0, 1) for each image, float64 [N], for this epoch."""
    return torch.from_numpy(np.random.default_rng([seed, epoch, 1]).random(images))


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Trainable parameters in two groups: biases without weight decay, others with it.

    LaFTer's and other codes do the same; the scales of norms decay.
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
    """How many of a batch's images may have a graph at once; all unless `additive`.

    `forward` makes the graph of a number of images. The result is estimated from a few
    images and does not depend on the machine's load, so that results do not either.
    Raises MemoryError if more than `free` bytes are needed, as in `train`.
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
    """Bytes that a forward pass keeps for its backward pass, without the weights."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    # Graph nodes that hold the tensors themselves would never be freed. Storages are
    # kept until all are counted, so that no address is used twice.
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
    """Train one epoch, write targets into `taught`, return the log's row."""
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
    """Whether the number of effective classes has collapsed since earlier `rows`."""
    earlier = [row["effective_classes"] for row in rows]
    fallen = bool(rows) and classes < COLLAPSED * max(earlier)
    late = len(rows) >= PATIENCE
    stuck = late and classes < min(COLLAPSED * labels, GROWING * earlier[-1])
    return fallen or stuck


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def _resume(
    checkpoint: Checkpoint,
    settings: Mapping[str, object],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    taught: Tensor,
) -> list[dict]:
    """Restore model, optimiser and labels from the checkpoint; return its log."""
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
