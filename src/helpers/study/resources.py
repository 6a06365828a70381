"""What a study takes of memory and disk: told before it runs, watched while it does.

Before: `estimate` reckons a chapter's peak from its parameters, without loading weights
or opening pictures (but for the headers of a few). It errs, to either side; what
tests/benchmarks/memory.csv has, peaks of models of true size, is told within a quarter.
So a run is refused only where `SURE` of the estimate will not fit, and is watched in
any case.

During: `watched` looks every second at the kernel and at what the machine has left, and
interrupts the kernel before the machine starts to swap, or kills what is killing it.
"""

import math
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from helpers.paths import CACHE
from helpers.study.parameters import Job

if TYPE_CHECKING:
    from helpers.study.doctor import Report

SURE = 0.6  # of an estimate is needed in any case
FLOOR = 0.04, 10**9  # left free: this share of the memory, so many bytes at most
PATIENCE = 15  # seconds between the interrupt and the kill
CGROUPS = Path("/sys/fs/cgroup")

PLAIN, LIBRARIES = 150_000_000, 1_000_000_000  # a kernel; torch, transformers and ours
UNKNOWN = 2_000_000_000  # weights of a model whose plan is not here
ACTIVATIONS = 200_000_000  # of a batch on its way through an image tower
TEMPLATES = 80  # of the largest shared set
FLOATS = 10  # per token and unit of width that a ViT's block keeps for its gradient
STEM, BLOCK = 180, 20  # per pixel and 64 units of width, what a ResNet keeps
HEADROOM, GRAPHS = 1.3, 1e9  # as in `helpers.methods.training`
KEPT_BACK = 0.6  # of a training's memory that the allocator does not hand back
CONTEXTS = 8  # as in `helpers.chapters.adaptation`
BEFORE = 10  # tokens of a caption before the class
PROMPTS = 4096  # as in `helpers.models.template_prompts`
KEPT_PIXELS = 2**28  # as in `helpers.data.pool`
ROOM = 2**29  # as in `helpers.chapters.streams`
COPIES = 4  # of a memory while it is learnt from images
LARGE = 3  # parts that are told
# What chapters declare that do the like: a notebook of one's own may.
TUNING = {"augmentations", "focus", "view_count", "memory", "jacobian"}
TUNING |= {"dev_images", "view_counts", "few_shot", "few_shot_views"}
TRAINING = {"visual_prompts", "pool_images", "batch", "seeds"}
CURES = {
    "weights": "backbone ViT-B-32-quickgelu",
    "ledgers": "images 1000",
    "features": "images 1000",
    "templates": "prompt_sets [openai_7]",
    "views": "view_images 200",
    "prompts": "memory 1",
    "Jacobian": "jacobian false",
    "streams": "orders 1",
    "pictures": "pool_images 200",
    "training": "batch 16",
}
Sizes = dict[str, float]


@dataclass(frozen=True)
class Need:
    """What a chapter takes, in bytes, part by part."""

    chapter: str
    memory: Sizes  # at its peak
    cache: Sizes  # left in the cache
    ledgers: float  # left in the outputs

    @property
    def peak(self) -> float:
        return sum(self.memory.values())


@dataclass(frozen=True)
class _Images:
    """What is known of a data set without opening it: official counts at least."""

    count: int
    classes: tuple[str, ...]
    pixels: float  # of a picture


def estimate(job: Job) -> Need:
    """The needs of a chapter, from its parameters."""
    p, name = job.parameters, job.notebook.stem
    if not p.get("backbone") or not p.get("dataset"):
        return Need(name, {"Python": PLAIN}, {}, 0)
    models = [_model(m) for m in (p["backbone"], p.get("second_backbone")) if m]
    sets = {
        s: _images(s, p.get("data_root", ""), p.get("images", 0))
        for s in (p["dataset"], *p.get("shifts", []))
    }
    first, names = models[0], next(iter(sets.values())).classes
    images, classes = sum(s.count for s in sets.values()), len(names)
    width = max(m.embed_dim for m in models)
    side = 3 * first.side**2  # bytes of a picture as a CLIP sees it

    weights = [m.bytes for m in models]
    memory: Sizes = {"libraries": LIBRARIES, "batches": ACTIVATIONS + 600 * side}
    beside = 0 if p["weights"] == "random" else max(weights)  # a file, while it is read
    memory["weights"] = sum(weights) + beside
    memory["features"] = 4 * images * sum(m.embed_dim for m in models)
    disk, ledgers = {"features": memory["features"]}, 0.0

    def sampled(key: str, which: Sequence[str] = tuple(sets)) -> int:
        """Images of these data sets if so many are taken of each."""
        few = p.get(key, 0) or math.inf
        return sum(min(sets[s].count, few) for s in which if s in sets)

    def of_logits(count: float) -> float:
        return 4 * count * classes

    if "wordings" in p:
        largest = max(s.count for s in sets.values())
        memory["ledgers"] = 4 * of_logits(images) + 6 * of_logits(largest)
        memory["templates"] = 8 * TEMPLATES * classes * width
        ledgers += 4 * of_logits(images)
    if "prompt_sets" in p:
        texts = TEMPLATES * len(p["prompt_sets"]) / 2
        memory["templates"] = 4 * texts * classes * sum(m.embed_dim for m in models)
        ledgers += 2 * len(p["prompt_sets"]) * of_logits(images) * len(models)
    if p.keys() >= TUNING:
        others = sampled("other_images") - sampled("other_images", [p["focus"]])
        taken = sampled("view_images", [p["focus"]]) + others
        count, recipes = p["view_count"], len(p["augmentations"])
        each = max(_prompt_bytes(m, names, gradient=True) for m in models)
        fitting = max(1, min(CONTEXTS, int(1e9 * p["memory"] / each)))
        memory["prompts"] = fitting * each
        if p["jacobian"]:
            made = [4 * classes * m.embed_dim * 4 * m.width for m in models]
            memory["Jacobian"] = sum(made) + max(made)
        swept = p["dev_images"] * max(p["view_counts"])
        shown = taken * count * recipes + swept
        shown += p["few_shot_views"] * 1000 if p["few_shot"] else 0
        disk["views"] = 2 * shown * sum(m.embed_dim for m in models)
        ledgers += 10 * recipes * of_logits(taken)
    elif "view_count" in p:
        key = "view_images" if "view_images" in p else "episodic_images"
        looked_at = p.get("view_sets") or [p.get("focus")]
        taken = sampled(key, looked_at)
        disk["views"] = 2 * taken * p["view_count"] * width * len(models)
        largest = taken / len(looked_at) * p["view_count"]
        memory["views"] = 4 * largest * width + 2 * of_logits(largest)
    if "alphas" in p:
        gaussians = 4 * classes * width**2  # of one stream, DOTA's
        together = max(gaussians, min(p["orders"] * gaussians, ROOM))
        memory["streams"] = COPIES * together
        # One prompt and 80, of about ten methods.
        ledgers += 20 * of_logits(images) * len(models)
    if "diffusion" in p:
        memory["diffusion"] = 3e8 if p["diffusion"].startswith("picto-") else 5e9
    if "captioner" in p:
        own = p["captioner"] == "picto-captioner"
        # Keys and values of the words before the class, of all layers, for each prompt.
        shared = 2 * BEFORE * max(m.layers * m.width for m in models)
        alone = 6 * 14 * max(m.width for m in models)
        memory["captions"] = 4 * PROMPTS * (shared + alone) + (2e8 if own else 3e9)
        ledgers += 10 * of_logits(sampled("caption_images")) * len(models)
    if p.keys() >= TRAINING:
        tuned = next((m for m in models if m.patches), first)
        few = p["pool_images"] or math.inf
        halves = {name: min(s.count / 2, few) for name, s in sets.items()}
        kept = {k: 4 * min(n * sets[k].pixels, KEPT_PIXELS) for k, n in halves.items()}
        seen = 3 * tuned.side**2 * sum(halves.values())
        # The halves that train and that test, of which the focus has its turn, too.
        memory["pictures"] = 2 * seen + sum(kept.values()) + kept.get(p["focus"], 0)
        memory["training"] = _training_bytes(tuned, p)
        memory["prompts"] = _prompt_bytes(tuned, names, gradient=True)
        # Reading a file beside its model is over long before the peak.
        memory["weights"] = sum(weights) + sum(m.folded for m in models)
        memory["kept"] = KEPT_BACK * memory["training"]
        ledgers += 25 * of_logits(2 * max(halves.values()))
    return Need(name, memory, disk, ledgers)


def check(jobs: Sequence[Job], outputs: Path) -> str:
    """What a study takes, in a line; ValueError where it surely will not fit.

    `outputs` is the folder that results will go to.
    """
    lines, problems = survey(jobs, outputs)
    if problems:
        raise ValueError("\n".join(problems))
    return lines[-1]


def check_room(report: "Report", jobs: Sequence[Job], outputs: Path) -> None:
    """Tell a doctor's report what each chapter takes, against what there is."""
    from helpers.study import doctor

    lines, problems = survey(jobs, outputs)
    report.add("room", doctor.GOOD, "\n".join(lines[::-1]))
    for problem in problems:
        report.add("room", doctor.BAD, problem)


def survey(jobs: Sequence[Job], outputs: Path) -> tuple[list[str], list[str]]:
    """What each chapter takes, then the study, a line each; and what will not fit."""
    needs = [estimate(job) for job in jobs]
    free = available_memory()
    problems = [
        _too_much(need, job, free)
        for need, job in zip(needs, jobs, strict=True)
        if SURE * need.peak > free
    ]
    kept = sum(sum(need.cache.values()) for need in needs)
    ledgers = sum(need.ledgers for need in needs)
    room, held = _free_disk(CACHE), _size(CACHE / "store")
    left = max(0.0, SURE * kept - held)
    if left > room:
        problems.append(
            f"{CACHE} needs about {_told(kept)} and has {_told(room)} free: make room, "
            "name another folder in STUDY_CACHE, or take fewer images or views "
            "(-p images 500, -p view_count 16)"
        )
    there = _free_disk(outputs)
    if SURE * ledgers > there:
        problems.append(
            f"{outputs} needs about {_told(ledgers)} and has {_told(there)} free: make "
            "room, write elsewhere (--outputs), or take fewer images (-p images 500)"
        )
    most = max(needs, key=lambda need: need.peak)
    total = (
        f"memory: at most about {_told(most.peak)} ({most.chapter}), "
        f"{_told(free)} free; "
        f"disk: about {_told(kept + ledgers)}, {_told(min(room, there))} free"
    )
    lines = [f"{n.chapter}: about {_told(n.peak)} ({_largest(n)})" for n in needs]
    return [*lines, total], problems


def _too_much(need: Need, job: Job, free: float) -> str:
    parts = sorted(need.memory, key=need.memory.__getitem__, reverse=True)[:LARGE]
    cures = [CURES[part] for part in parts if part in CURES]
    cures = [f"-p {cure}" for cure in cures if cure.split()[0] in job.parameters]
    ways = [*cures, "other chapters alone (--only)", "a machine with more memory"]
    return (
        f"{need.chapter} needs about {_told(need.peak)} of memory and {_told(free)} "
        f"are free ({_largest(need)}): try {', or '.join(ways)}"
    )


def _largest(need: Need) -> str:
    parts = sorted(need.memory.items(), key=lambda part: -part[1])[:LARGE]
    return ", ".join(f"{part} {_told(size)}" for part, size in parts)


# What is there


def available_memory() -> float:
    """Bytes that can be had before anything swaps or is killed."""
    return min(psutil.virtual_memory().available, _cgroup()[0])


def _floor() -> float:
    """Bytes that are to stay free."""
    share, most = FLOOR
    return min(share * min(psutil.virtual_memory().total, _cgroup()[1]), most)


def _cgroup(root: Path = CGROUPS) -> tuple[float, float]:
    """(bytes free, bytes allowed) under the tightest limit of the process's groups."""
    free, allowed = math.inf, math.inf
    for folder in _groups(root):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            try:
                most = float((folder / limit).read_text().replace("max", "inf"))
                now = int((folder / used).read_text())
                facts = dict(map(str.split, (folder / "memory.stat").open()))
            except (OSError, ValueError):
                continue
            if most < 2**60:  # version 1 writes a huge number for no limit
                now -= int(facts.get("total_inactive_file", facts["inactive_file"]))
                free, allowed = min(free, most - now), min(allowed, most)
    return free, allowed


def _groups(root: Path) -> list[Path]:
    """Folders that may limit this process: its groups and all above them."""
    found = [root, root / "memory"]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return found
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds in ("", "memory"):
            group = root / kinds / path.lstrip("/")
            while group != root and group not in found:
                found.append(group)
                group = group.parent
    return found


def _free_disk(place: Path) -> int:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _size(folder: Path) -> int:
    files = (Path(place, f) for place, _, fs in os.walk(folder) for f in fs)
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


def _told(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


# What models and data sets are like


@dataclass(frozen=True)
class _Model:
    bytes: int
    embed_dim: int
    width: int  # of the text tower
    layers: int
    side: int  # pixels
    patches: int  # of a ViT, 0 for a ResNet
    image_width: int
    image_layers: int  # of a ResNet all its blocks

    @property
    def image_bytes(self) -> float:
        """The image tower: what is not the text tower's blocks, within a tenth."""
        return max(0.2 * self.bytes, self.bytes - 48 * self.layers * self.width**2)

    @property
    def folded(self) -> float:
        """What `fast.image_encoder` copies: a ResNet's image tower."""
        return 0.0 if self.patches else self.image_bytes

    def graph(self, prompts: int) -> float:
        """Bytes that one picture keeps on its way for the gradient of its norms."""
        if self.patches:
            tokens = self.patches + 1 + prompts
            return 4 * FLOATS * self.image_layers * tokens * self.image_width
        floats = STEM + BLOCK * self.image_layers
        return 4 * floats * self.side**2 * self.image_width / 64


@cache
def _model(name: str) -> _Model:
    import open_clip

    from helpers.models import embedded
    from helpers.models.weights import weight_bytes

    embedded.register()
    config = open_clip.get_model_config(name)
    sees, reads = config["vision_cfg"], config["text_cfg"]
    side = sees.get("image_size", 224)
    side = max(side) if isinstance(side, list | tuple) else side
    try:
        size = weight_bytes(name)
    except Exception:  # a text tower of another library, whose plan is on the hub
        size = UNKNOWN
    layers = sees.get("layers", 12)
    is_resnet = isinstance(layers, list | tuple)
    patch = 0 if is_resnet else sees.get("patch_size") or 16
    return _Model(
        bytes=size,
        embed_dim=config["embed_dim"],
        width=reads.get("width", 512),
        layers=reads.get("layers", 12),
        side=side,
        patches=(side // patch) ** 2 if patch else 0,
        image_width=sees.get("width", 768),
        image_layers=sum(layers) if is_resnet else layers,
    )


def _training_bytes(model: _Model, p: Mapping[str, Any]) -> float:
    """What graphs of images take at once, and RLCF's copy of the whole image tower."""
    each = HEADROOM * model.graph(p["visual_prompts"] if model.patches else 0)
    graphs = min(p["batch"] * each, max(GRAPHS, each))
    # Weights, where they start, their gradients and two moments of AdamW.
    whole = 5 * model.image_bytes if p.get("second_backbone") else 0
    return max(graphs, whole + each)


def _prompt_bytes(model: _Model, names: Sequence[str], gradient: bool) -> float:
    """`PromptTower.peak_bytes` of "a photo of a" and these names, without a tower."""
    prefix, own = 5, [1.5 * len(name.split()) + 2 for name in names]
    tokens = prefix + sum(own)
    keys = prefix + sum(prefix + n for n in own)
    kept = model.layers * (12 * tokens + 2 * keys) if gradient else 0
    return 4 * model.width * (kept + 28 * tokens)


@cache
def _images(name: str, data_root: str, most: int) -> _Images:
    from PIL import Image

    from helpers import data

    try:
        found = data.read(name, data_root)
    except (ValueError, OSError):  # the run says so, and what to do
        info = data.describe(name)
        return _Images(most or info.images, ("a class",) * (info.classes or 2), 2e5)
    count, pixels = min(most or len(found), len(found)), [64.0**2]
    for file in found.files[:: max(1, len(found.files) // 16)]:
        try:
            with Image.open(file) as image:
                pixels.append(image.width * image.height)
        except Exception:  # damaged files are left out, as the run will say
            continue
    return _Images(count, found.class_names, sum(pixels) / len(pixels))


# While it runs


@dataclass
class Watch:
    """What was seen of a kernel: the most memory it held, and why it was stopped."""

    peak: int = 0  # bytes
    cause: str = ""  # empty where nothing was stopped
    _done: threading.Event = field(default_factory=threading.Event, repr=False)

    def look(self, ours: Mapping[int, psutil.Process]) -> None:
        """Look once: note what the kernels hold, stop them where nothing is left."""
        held = {p: _held(p) for p in ours.values()}
        self.peak = max(self.peak, sum(held.values()))
        free, floor = available_memory(), _floor()
        # Whoever holds little is not to blame, and stopping it would free nothing.
        if free >= floor or sum(held.values()) < floor or self.cause:
            return
        self.cause = (
            f"would have used up the memory: it held {_told(sum(held.values()))} and "
            f"{_told(free)} were left, of which {_told(floor)} stay free. Take fewer "
            "images or views, smaller batches, or close other programs; "
            "`study doctor NAME` tells what each chapter needs"
        )
        for process in held:
            _tell(process, signal.SIGINT)


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch the processes that the block starts, and their own, every second."""
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    watch, seconds = Watch(), 0

    def look() -> None:
        nonlocal seconds
        while True:
            ours = psutil.Process().children(recursive=True)
            watch.look({p.pid: p for p in ours if p.pid not in before})
            seconds += bool(watch.cause)
            if seconds == PATIENCE:  # deep in a library, where nothing interrupts it
                for process in ours:
                    if process.pid not in before:
                        _tell(process, signal.SIGKILL)
            if watch._done.wait(1):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch._done.set()
        thread.join()


def _held(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _tell(process: psutil.Process, what: signal.Signals) -> None:
    try:
        process.send_signal(what)
    except psutil.Error:  # it is gone
        return
