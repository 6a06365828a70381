"""How the work grows to ImageNet: 50,000 images, 64 views each, ten methods.

    python tests/benchmarks/growth.py

Of the ten methods, seven look at features alone and cost next to nothing, and three
(TPT, C-TPT, TPT from a learned context) send every image through the text tower. What
one unit costs is counted or measured here: floating-point operations by torch's
counter, one multiplication and addition being two, the drawing of views in seconds of
one CPU core. What cannot be measured without GPUs is assumed, and printed.

The closed form takes each stage as a pipeline as slow as its slowest part. Beside it a
simulation of the schedule: tasks of so many images go to whichever GPU is free, some
are stragglers, and one node of eight GPUs is lost half way.
"""

import heapq
import io
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from helpers import parallel, views
from helpers.chapters.adaptation import CHUNK
from helpers.models import clip
from helpers.models.prompts import PromptTower
from helpers.store.views import SPAN

IMAGES, VIEWS, CLASSES = 50_000, 64, 1000
BY_TUNING, METHODS = 3, 10
COUNTED_CLASSES = 50  # of the 1,000: the count is linear in them
BACKBONES = ("RN50-quickgelu", "ViT-B-16-quickgelu")
PHOTO = (500, 375)  # pixels, near the mean of ImageNet's

# Assumed. Sustained rates are shares of what NVIDIA's data sheet of the H100 SXM calls
# its peak: 67 TFLOP/s in float32 (of which 60 %), 989 in bfloat16 (of which 40 %).
RATES = {"float32": 0.6 * 67e12, "bfloat16": 0.4 * 989e12}
CORES = 8  # CPU cores beside each GPU
NODE = 8  # GPUs of a node
START = 15.0  # seconds until a task's process has torch, weights and its GPU
NETWORK = 10e9 / 8  # bytes per second into the driver: 10 Gbit/s
DISK = 500e6  # bytes per second that the driver writes
SPREAD = 0.1  # of the tasks' durations, sigma of their logarithm
SLOW, TIMES = 0.02, 3.0  # this share of tasks takes so many times as long
DRAWS = 50  # simulated schedules


@dataclass(frozen=True)
class Units:
    """What one image costs."""

    look: float  # operations of the image tower, all views
    tune: float  # operations of the text tower, one tuned context
    plain: float  # the same as published: three passes of all prompts at 77 tokens
    draw: float  # seconds of a core: decoding, and drawing all views
    width: int  # of the embedding
    weights: int  # bytes


@dataclass(frozen=True)
class Stage:
    """A part of the study: its seconds per image on a GPU, and what the driver gets."""

    name: str
    gpu: float
    cpu: float  # of all cores beside the GPU
    bytes: float
    task: int  # images

    @property
    def pace(self) -> float:
        """Seconds per image: drawing and encoding overlap."""
        return max(self.gpu, self.cpu)

    @property
    def tasks(self) -> int:
        return math.ceil(IMAGES / self.task)


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of a call, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def drawing() -> float:
    """CPU seconds to decode a photograph and draw its views: the least of five."""
    torch.set_num_threads(1)
    coarse = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(coarse).resize(PHOTO, Image.Resampling.BICUBIC)
    image.save(file, "JPEG", quality=95)
    crop = open_clip.transform.image_transform(224, is_train=False).transforms[:-2]

    def original(image: Image.Image) -> torch.Tensor:
        for step in crop:
            image = step(image)
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())

    spent = []
    for _ in range(5):
        began, generator = time.process_time(), np.random.default_rng(0)
        decoded = Image.open(io.BytesIO(file.getvalue())).convert("RGB")
        views.make("preaugment", decoded, VIEWS, 224, generator, original)
        spent.append(time.process_time() - began)
    return min(spent)


def units(name: str, draw: float) -> Units:
    """Count what an image costs with this backbone (random weights, the same work)."""
    backbone = clip.load(name, "random", device="cpu")
    image = torch.zeros(1, 3, 224, 224)
    look = operations(lambda: backbone.encode_images(image))
    text = operations(lambda: backbone.model.encode_text(backbone.tokenize(["a cat"])))
    names = open_clip.IMAGENET_CLASSNAMES[:COUNTED_CLASSES]
    tower = PromptTower(backbone, names)
    context = tower.context.requires_grad_()
    features = []
    forward = operations(lambda: features.append(tower.features(context)))
    backward = operations(lambda: features[0].sum().backward())
    whole = CLASSES / COUNTED_CLASSES
    size = sum(p.numel() * 4 for p in backbone.model.parameters())
    tuned, plain = whole * (forward + backward), 3 * CLASSES * text
    return Units(VIEWS * look, tuned, plain, draw, backbone.embed_dim, size)


def stages(of: Units, rate: float, gpus: int) -> list[Stage]:
    """The store of views, then the methods that tune, in the tasks of `parallel`."""

    def stage(name: str, gpu: float, cpu: float, size: float, span: int) -> Stage:
        room = parallel.Placement(CORES, 1, gpus)
        together = parallel.spans_per_task(math.ceil(IMAGES / span), room)
        return Stage(name, gpu, cpu, size, span * together)

    row = VIEWS * of.width * 2
    look = stage("views", of.look / rate, of.draw / CORES, row, SPAN)
    tune = stage("tuning", of.tune / rate, 0.0, 4 * CLASSES, CHUNK)
    return [look, *[tune] * BY_TUNING]


def closed(stage: Stage, gpus: int) -> tuple[float, str]:
    """Seconds of a stage, and what bounds it."""
    rounds = math.ceil(stage.tasks / gpus)
    work = {
        "GPUs": rounds * stage.task * stage.gpu,
        "CPU cores": rounds * stage.task * stage.cpu,
        "starting": rounds * START,
    }
    merge = IMAGES * stage.bytes / min(NETWORK, DISK)
    seconds = max(work["GPUs"], work["CPU cores"]) + work["starting"]
    if merge > seconds:
        return merge, "driver"
    return seconds, max(work, key=work.__getitem__)


def simulated(stage: Stage, gpus: int, lost: bool = False, seed: int = 0) -> float:
    """Seconds of a stage when tasks go to whichever GPU is free.

    With `lost`, the GPUs of one node are gone half way through the time that the stage
    would have taken, and what ran there starts again, last in the queue.
    """
    rng = np.random.default_rng(seed)
    seconds = START + stage.task * stage.pace * rng.lognormal(0, SPREAD, stage.tasks)
    seconds[rng.random(stage.tasks) < SLOW] *= TIMES
    end = simulated(stage, gpus, seed=seed) / 2 if lost else math.inf
    queue = deque((0.0, spent) for spent in seconds)  # (not before, how long)
    free = [(0.0, gpu) for gpu in range(gpus)]
    finished = 0.0
    while queue:
        ready, spent = queue.popleft()
        now, gpu = heapq.heappop(free)
        begun = max(now, ready)
        if gpu < NODE and begun + spent > end:  # this GPU does no more
            queue.append((end, spent)) if begun < end else queue.appendleft(
                (ready, spent)
            )
            continue
        finished = max(finished, begun + spent)
        heapq.heappush(free, (begun + spent, gpu))
    return max(finished, IMAGES * stage.bytes / min(NETWORK, DISK))


def expected(stage: Stage, gpus: int, lost: bool = False) -> float:
    """The mean of many simulated schedules."""
    return sum(simulated(stage, gpus, lost, seed) for seed in range(DRAWS)) / DRAWS


def clock(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    if seconds < 3600:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
    return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02d} h"


def table(of: Units, name: str) -> None:
    """Print a line for each precision and number of GPUs."""
    for precision, rate in RATES.items():
        for gpus in (1, 8, 64):
            parts = stages(of, rate, gpus)
            sums = [closed(stage, gpus) for stage in parts]
            bounds = {s.name: bound for s, (_, bound) in zip(parts, sums, strict=True)}
            drawn = [expected(stage, gpus) for stage in parts]
            after = ""
            if gpus > NODE:
                worse = expected(parts[0], gpus, lost=True) - drawn[0]
                after = f"+{clock(worse)}"
            print(
                f"{name:20}{precision:9}{gpus:4}{clock(sum(s for s, _ in sums)):>12}"
                f"{clock(sum(drawn)):>12}{after:>11}   "
                + ", ".join(f"{stage}: {bound}" for stage, bound in bounds.items())
            )


def sizes(of: Units, gpus: int) -> None:
    """Print what the size of a task does."""
    stage = stages(of, RATES["float32"], gpus)[0]
    ideal = IMAGES * stage.pace / gpus
    print(f"{'images of a task':>20}{'tasks':>8}{'time':>12}{'work':>8}")
    for task in (32, 128, stage.task, 800, 2048):
        other = replace(stage, task=task)
        spent = expected(other, gpus)
        line = f"{task:20}{other.tasks:8}{clock(spent):>12}{ideal / spent:8.0%}"
        print(line + ("   as helpers.parallel does" if task == stage.task else ""))


def main() -> None:
    """Print the units, the table and the sizes of tasks."""
    draw = drawing()
    logging.disable(logging.WARNING)  # open_clip's, that weights are random
    found = {name: units(name, draw) for name in BACKBONES}
    print(
        f"{IMAGES:,} images, {VIEWS} views, {METHODS} methods, {BY_TUNING} of them tune"
    )
    print(f"\nPer image, counted and measured (torch {torch.__version__}):")
    print(f"  decoding and drawing the views: {1e3 * draw:.0f} ms of one core")
    for name, of in found.items():
        views = IMAGES * VIEWS * of.width * 2 / 1e9
        print(
            f"  {name}: views {of.look / 1e9:,.0f} GFLOP, tuning {of.tune / 1e9:,.0f}"
        )
        print(f"    (as published {of.plain / 1e9:,.0f}); views have {views:.1f} GB,")
        print(f"    the weights that go to each worker {of.weights / 1e9:.1f} GB")
    logits = METHODS * IMAGES * CLASSES * 4 / 1e9
    print(f"  logits of all methods: {logits:.1f} GB")
    rates = " and ".join(f"{v / 1e12:.0f} TFLOP/s in {k}" for k, v in RATES.items())
    print(f"\nAssumed: {rates}")
    print(f"  (H100: 67 and 989 at peak), {CORES} cores a GPU, {NODE} GPUs a node,")
    print(f"  {START:.0f} s to start a task, {NETWORK / 1e9:.2f} GB/s to the driver,")
    slow = f"{SLOW:.0%} of tasks take {TIMES:.0f} times as long"
    print(f"  {DISK / 1e9:.1f} GB/s to its disk; {slow}")
    print(f"\n{'':29}GPUs closed form   simulated  node lost   bound by")
    for name, of in found.items():
        table(of, name)
    print(f"\nViews with {BACKBONES[0]} in float32 on 64 GPUs, by the size of tasks:")
    sizes(found[BACKBONES[0]], 64)


if __name__ == "__main__":
    main()
