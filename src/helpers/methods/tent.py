"""TENT: minimise the entropy of predictions on the test stream.

Tent: Fully Test-Time Adaptation by Entropy Minimization, Wang et al. 2021, arXiv
2006.10726. For a batch of test images with logits z, by norm scales and biases alone:

    min  mean over the batch of H(softmax(z)),        z_c = s <x / |x|, t_c>

with CLIP's class features t frozen and its logit scale s. Without s the entropies are
all near ln C and teach nothing.

Two protocols with this name differ in four settings, which `PROTOCOLS` holds:

    online     the paper's, with the rates of a benchmark on CLIP (github.com/
               mariodoebler/test-time-adaptation): SGD, 1 step a batch of 64, never
               reset, predictions from before the last step. It depends on the order.
    per batch  that of CLIPArTT (Hakim et al. 2024, arXiv 2405.00754) and WATT
               (Osowiechi et al. 2024, arXiv 2406.13875): Adam, 10 steps on a batch of
               128, reset before each, predictions from after the last.

`marginal` is a third kind: episodic, one image with many views, and the entropy of the
mean probability over them. That is the objective of MEMO (Zhang et al. 2022, arXiv
2110.09506), here on TENT's parameters. Plain TENT on one image and one view would only
sharpen what it predicts already.

For ResNets the paper takes the statistics of the batch in BatchNorm (`batch_norm`);
CLIP's running ones are the default.

Memory: the graph of a large tower is 0.1 GB an image. Where a batch's is too much (see
`training.fitting`), images go through in parts whose gradients are added, which is the
same to rounding. Statistics of a batch need all of it, so that blocks are then computed
once more on the way back instead of kept.
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
    """The online benchmark's: 2.5e-4 with Nesterov's momentum of 0.9."""
    return torch.optim.SGD(parameters, lr=2.5e-4, momentum=0.9, nesterov=True)


def adam(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """CLIPArTT's: 1e-3."""
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
    chapter="05",
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
    """Logits float32 [N, C] of a stream of images, uint8 [N, 3, S, S], in this order.

    With `reset` every batch starts from the pretrained norms, and its logits are those
    after its steps; without, its logits are those before its last step.
    `make_tower`: as in `lafter.lafter`; `class_features` [C, D].
    """
    student = Student(make_tower(norms=True), class_features, logit_scale)
    first = images[:batch]
    at_once = images_at_once(student, first)
    if batch_norm:
        _use_batch_statistics(student, recompute=at_once < len(first))
        at_once = batch
    tuned = _Norms(student, optimizer)
    found = []
    for part in progress(images.split(batch)):
        if reset:
            tuned.reset()
        for _ in range(steps):
            before: list[Tensor] = []
            tuned.step(_entropies(student, part, at_once, before))
        found += [logits(student, part, at_once)] if reset else before
    return torch.cat(found)


@method("tent_marginal", needs="image")
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
    """Logits float32 [N, C] of each image, tuned on its own views and then forgotten.

    `views`: of each image its views uint8 [V, 3, S, S], view 0 the image as it is, of
    which the share `rho` of lowest entropy counts.
    """
    student = Student(make_tower(norms=True), class_features, logit_scale)
    tuned = _Norms(student, optimizer)
    found, at_once = [], 0
    for of_image in progress(views):
        tuned.reset()
        keep = selection.keep_count(len(of_image), rho)
        (chosen,) = selection.confident(logits(student, of_image)[None], keep)
        trusted = of_image[chosen.to(of_image.device)]
        at_once = at_once or images_at_once(student, trusted)
        for _ in range(steps):
            tuned.step(_marginal_entropies(student, trusted, at_once))
        found.append(logits(student, of_image[:1]))
    return torch.cat(found)


class _Norms:
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
                raise ValueError(f"the entropy became {loss.item()}: a rate too high?")
            loss.backward()
        self._optimizer.step()

    @torch.no_grad()
    def reset(self) -> None:
        for parameter, start in zip(self._parameters, self._start, strict=True):
            parameter.copy_(start)
        self._optimizer = self._make(self._parameters)


def _entropies(
    student: Student, images: Tensor, at_once: int, made: list[Tensor]
) -> Iterator[Tensor]:
    """Losses that add up to the mean entropy; logits go into `made` on the way."""
    for part in images.split(at_once):
        logits = student(part)
        made.append(logits.detach())
        yield len(part) / len(images) * selection.entropy(logits).mean()


def _marginal_entropies(
    student: Student, views: Tensor, at_once: int
) -> Iterator[Tensor]:
    """Losses whose gradients add up to that of the views' marginal entropy.

    This entropy is no mean over views. In parts, the views go through once without a
    graph, which gives the gradient with respect to each view's logits.
    """
    if len(views) <= at_once:
        yield selection.marginal_entropy(student(views)[None]).mean()
        return
    made = logits(student, views, at_once).requires_grad_()
    loss = selection.marginal_entropy(made[None]).mean()
    (weights,) = torch.autograd.grad(loss, made)
    for part, of_part in zip(views.split(at_once), weights.split(at_once), strict=True):
        yield (of_part * student(part)).sum()


def _use_batch_statistics(student: Student, recompute: bool) -> None:
    """Let BatchNorm normalise by the batch; `recompute` keeps no block's graph."""
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
