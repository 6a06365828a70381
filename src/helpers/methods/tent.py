"""TENT: minimise the entropy of predictions on the test stream.

Tent: Fully Test-Time Adaptation by Entropy Minimization, Wang et al. 2021, arXiv
2006.10726. For a batch of test images with logits z, by norm scales and biases alone:

    min  mean over the batch of H(softmax(z)),        z_c = s <x / |x|, t_c>

with CLIP's class features t and logit scale s frozen. Without s all entropies are near
ln C and their gradients vanish.

Two protocols are called TENT. They differ in four settings, see `PROTOCOLS`:

    online     the paper's, with the learning rate of a benchmark on CLIP (github.com/
               mariodoebler/test-time-adaptation): SGD, 1 step on each batch of 64, no
               reset; the logits before the step are the predictions. Results depend on
               the order of the images.
    per batch  that of CLIPArTT (Hakim et al. 2024, arXiv 2405.00754) and WATT
               (Osowiechi et al. 2024, arXiv 2406.13875): Adam, 10 steps on each batch
               of 128, reset before each batch; the logits after the last step are the
               predictions.

`marginal` is episodic: for one image it minimises the entropy of the mean probability
over many views. This is the objective of MEMO (Zhang et al. 2022, arXiv 2110.09506) on
TENT's parameters. TENT on one view of one image would only sharpen its prediction.

For ResNets the paper normalises by the statistics of the batch (`batch_norm`); the
default are CLIP's running statistics.

Memory: the graph of a large tower takes 0.1 GB per image. If the graph of a batch is
too large (see `training.fitting`), images go through the tower in parts whose gradients
are added, which gives the same step up to rounding. Batch statistics need the whole
batch; blocks are then computed again in the backward pass.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from open_clip.modified_resnet import Bottleneck
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from helpers.methods import selection
from helpers.methods.registry import method
from helpers.methods.training import Student, images_at_once, logits


def sgd(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """The online benchmark's optimiser: rate 2.5e-4, Nesterov momentum 0.9."""
    return torch.optim.SGD(parameters, lr=2.5e-4, momentum=0.9, nesterov=True)


def adam(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """CLIPArTT's optimiser: rate 1e-3."""
    return torch.optim.Adam(parameters, lr=1e-3)


PROTOCOLS: dict[str, Mapping[str, object]] = {
    "online": {"batch": 64, "steps": 1, "optimizer": sgd, "reset": False},
    "per batch": {"batch": 128, "steps": 10, "optimizer": adam, "reset": True},
}


@method(
    "tent",
    "TENT",
    "entropy",
    paper="arXiv 2006.10726",
    chapter="05b",
    colour="#9bd08b",
    speaker="tent_online",
)
@method(
    "tent_per_batch",
    "TENT, per batch",
    speaker="",
    published=("TENT (episodic 10 steps)",),
)
def tent(
    make_tower: Callable[..., nn.Module],
    class_features: Tensor,
    logit_scale: float,
    images: Tensor,
    batch: int = 64,
    steps: int = 1,
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = sgd,
    reset: bool = False,
    batch_norm: bool = False,
    progress: Callable[[tuple], Iterable] = iter,
) -> Tensor:
    """Logits float32 [N, C] of a stream of images.

    Args:
        make_tower: as in `lafter.lafter`.
        class_features: unit [C, D], frozen.
        images: uint8 [N, 3, S, S], in the order of the stream.
        optimizer: makes the optimiser of the norms' scales and biases.
        reset: each batch starts from the pretrained norms, and its logits are those
            after its last step; otherwise those before its last step.
        batch_norm: BatchNorm takes the statistics of the batch.
        progress: wraps the batches, for example to show a bar.

    Raises:
        ValueError: the entropy is not finite.
    """
    student = Student(make_tower(norms=True), class_features, logit_scale)
    first = images[:batch]
    at_once = images_at_once(student, first)
    if batch_norm:
        _use_batch_statistics(student, recompute=at_once < len(first))
        at_once = batch
    tuned = Episode(student, optimizer)
    found = []
    for part in progress(images.split(batch)):
        if reset:
            tuned.reset()
        for _ in range(steps):
            before: list[Tensor] = []
            tuned.step(_entropies(student, part, at_once, before))
        found += [logits(student, part, at_once)] if reset else before
    return torch.cat(found)


@method("tent_marginal", title="TENT on one image's views", needs="image")
def marginal(
    make_tower: Callable[..., nn.Module],
    class_features: Tensor,
    logit_scale: float,
    views: Iterable[Tensor],
    rho: float = 1.0,
    steps: int = 1,
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = adam,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """Logits float32 [N, C] of view 0 of each image, with norms tuned on its views.

    Args:
        views: the views of each image, uint8 [V, 3, S, S], view 0 the original image.
        rho: share of the views, those of lowest entropy, that the loss takes.

        Others as in `tent`.

    Raises:
        ValueError: the entropy is not finite, or `rho` keeps no view.
    """
    student = Student(make_tower(norms=True), class_features, logit_scale)
    tuned = Episode(student, optimizer)
    found, at_once = [], 0
    for image in progress(views):
        tuned.reset()
        keep = selection.keep_count(len(image), rho)
        (chosen,) = selection.confident(logits(student, image)[None], keep)
        trusted = image[chosen.to(image.device)]
        at_once = at_once or images_at_once(student, trusted)
        for _ in range(steps):
            tuned.step(_marginal_entropies(student, trusted, at_once))
        found.append(logits(student, image[:1]))
    return torch.cat(found)


class Episode:
    """A student's trainable parameters, their optimiser and their initial values."""

    def __init__(
        self,
        student: nn.Module,
        optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer],
    ) -> None:
        self._parameters = [p for p in student.parameters() if p.requires_grad]
        self._start = [p.detach().clone() for p in self._parameters]
        self._make = optimizer
        self._optimizer = optimizer(self._parameters)

    def step(self, losses: Iterable[Tensor]) -> None:
        """One step on the sum of the losses, whose graphs exist one at a time."""
        self._optimizer.zero_grad()
        for loss in losses:
            if not loss.isfinite():
                raise ValueError(f"the loss became {loss.item()}: a rate too high?")
            loss.backward()
        self._optimizer.step()

    @torch.no_grad()
    def reset(self) -> None:
        """Return to the initial values, with an empty optimiser."""
        for parameter, start in zip(self._parameters, self._start, strict=True):
            parameter.copy_(start)
        self._optimizer = self._make(self._parameters)


def _entropies(
    student: Student, images: Tensor, at_once: int, found: list[Tensor]
) -> Iterator[Tensor]:
    """Losses that add up to the mean entropy; appends the logits to `found`."""
    for part in images.split(at_once):
        logits = student(part)
        found.append(logits.detach())
        yield len(part) / len(images) * selection.entropy(logits).mean()


def _marginal_entropies(
    student: Student, views: Tensor, at_once: int
) -> Iterator[Tensor]:
    """Losses whose gradients add up to that of the views' marginal entropy.

    The marginal entropy is not a mean over views. If the views need several parts, they
    first go through the tower without a graph, which gives the gradient of the entropy
    with respect to each view's logits.
    """
    if len(views) <= at_once:
        yield selection.marginal_entropy(student(views)[None]).mean()
        return
    detached = logits(student, views, at_once).requires_grad_()
    loss = selection.marginal_entropy(detached[None]).mean()
    (gradient,) = torch.autograd.grad(loss, detached)
    parts = zip(views.split(at_once), gradient.split(at_once), strict=True)
    for part, part_gradient in parts:
        yield (part_gradient * student(part)).sum()


def _use_batch_statistics(student: Student, recompute: bool) -> None:
    """Let BatchNorm normalise by the batch.

    `recompute`: blocks keep no graph and are computed again in the backward pass.
    """
    for part in student.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.train()
        if isinstance(part, nn.Sequential) and recompute:
            for name, block in part.named_children():
                if isinstance(block, Bottleneck):
                    setattr(part, name, _Recomputed(block))


class _Recomputed(nn.Module):
    """A block that is computed again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=False)
