"""TENT: lower the entropy of predictions on the test stream itself.

Tent: Fully Test-Time Adaptation by Entropy Minimization, Wang et al. 2021, arXiv
2006.10726. For a batch of test images with logits z, by norm scales and biases alone:

    min  mean over the batch of H(softmax(z)),        z_c = s <x / |x|, t_c>

with CLIP's class features t frozen and its logit scale s. Without s the entropies are
all near ln C and teach nothing.

What goes by this name differs in four things, which `PROTOCOLS` sets together:

    online     the paper's, with the rates of a benchmark on CLIP (github.com/
               mariodoebler/test-time-adaptation): SGD, 1 step a batch of 64, never
               reset, predictions from before the step. It depends on the order.
    per batch  that of CLIPArTT (Hakim et al. 2024, arXiv 2405.00754) and WATT
               (Osowiechi et al. 2024, arXiv 2406.13875): Adam, 10 steps on a batch of
               128, reset before each, predictions from after the last.

`marginal` is a third kind: episodic, one image with many views, and the entropy of the
mean probability over them. That is the objective of MEMO (Zhang et al. 2022, arXiv
2110.09506), here on TENT's parameters. Plain TENT on one image and one view would only
sharpen what it predicts already.

For ResNets the paper takes the statistics of the batch in BatchNorm (`batch_norm`);
CLIP's running ones are the default.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from helpers.methods import selection
from helpers.methods.training import Student, logits


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
    after its steps; without, its logits are those before its first step.
    `make_tower`: as in `lafter.lafter`; `class_features` [C, D].
    """
    student = _student(make_tower, class_features, logit_scale)
    if batch_norm:
        for part in student.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.train()
    tuned = _Norms(student, optimizer)
    found = []
    for part in progress(images.split(batch)):
        if reset:
            tuned.reset()
        for _ in range(steps):
            before = student(part)
            tuned.step(selection.entropy(before).mean())
        found.append(logits(student, part, len(part)) if reset else before.detach())
    return torch.cat(found)


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
    student = _student(make_tower, class_features, logit_scale)
    tuned = _Norms(student, optimizer)
    found = []
    for of_image in progress(views):
        tuned.reset()
        keep = selection.keep_count(len(of_image), rho)
        for step in range(steps):
            made = student(of_image)[None]
            if step == 0:
                chosen = selection.confident(made.detach(), keep)
            trusted = selection.take(made, chosen)
            tuned.step(selection.marginal_entropy(trusted).mean())
        found.append(logits(student, of_image[:1]))
    return torch.cat(found)


class _Norms:
    """What of a student trains, its optimiser, and the way back to the start."""

    def __init__(
        self,
        student: nn.Module,
        optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer],
    ) -> None:
        self._parameters = [p for p in student.parameters() if p.requires_grad]
        self._start = [p.detach().clone() for p in self._parameters]
        self._make = optimizer
        self._optimizer = optimizer(self._parameters)

    def step(self, loss: Tensor) -> None:
        if not loss.isfinite():
            raise ValueError(f"the entropy became {loss.item()}: a rate too high?")
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    @torch.no_grad()
    def reset(self) -> None:
        for parameter, start in zip(self._parameters, self._start, strict=True):
            parameter.copy_(start)
        self._optimizer = self._make(self._parameters)


def _student(
    make_tower: Callable[..., nn.Module], class_features: Tensor, logit_scale: float
) -> Student:
    return Student(make_tower(norms=True), class_features, logit_scale)
