"""The memory and disk that a study takes, estimated before it runs.

`estimate` adds up what models and tunings say of themselves, see `models.sizes`, for
the work that a chapter's parameters ask for; no weights are loaded. It errs, to either
side: it meets the peaks in tests/benchmarks/memory.csv, of models of true size, within
a quarter. So a run is refused only where `SURE` of the estimate will not fit, and
`study.watch` watches it in any case.
"""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from helpers.data.naming import Classes, parse
from helpers.models import optional
from helpers.models.sizes import Size, size_of
from helpers.paths import CACHE
from helpers.study.parameters import Job
from helpers.study.report import BAD, GOOD, Report
from helpers.study.watch import available_memory, gigabytes

SURE = 0.6  # of an estimate is needed in any case
PLAIN, LIBRARIES = 150_000_000, 1_000_000_000  # a kernel; torch, transformers and ours
ACTIVATIONS = 200_000_000  # of a batch on its way through an image tower
TEMPLATES = 80  # of the largest shared set
KEPT_BACK = 0.6  # of a training's memory that the allocator does not hand back
LARGE = 3  # parts that are named
HELD = ("images", "views")  # kinds of the store that may be there already
# Parameters by which a chapter, or a user's own notebook, declares such work.
TUNING = {"augmentations", "focus", "view_count", "memory", "jacobian"}
TUNING |= {"dev_images", "view_counts", "few_shot", "few_shot_views"}
TRAINING = {"visual_prompts", "pool_images", "batch", "seeds"}
NEIGHBOURS = {"pool_images", "batch", "upl_epochs", "episodic_images"}
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
SMALLER_CACHE = (
    "name another folder in STUDY_CACHE, or take fewer images or views "
    "(-p images 500, -p view_count 16)"
)
SMALLER_LEDGERS = "write elsewhere (--outputs), or take fewer images (-p images 500)"
Sizes = dict[str, float]


class Need(NamedTuple):
    """What a chapter takes, in bytes, part by part."""

    chapter: str
    memory: Sizes  # at its peak
    cache: Sizes  # left in the cache
    ledgers: float  # left in the outputs

    @property
    def peak(self) -> float:
        return sum(self.memory.values())

    @property
    def largest(self) -> list[tuple[str, float]]:
        return Counter(self.memory).most_common(LARGE)

    def __str__(self) -> str:
        parts = (f"{part} {gigabytes(size)}" for part, size in self.largest)
        return f"about {gigabytes(self.peak)} ({', '.join(parts)})"


class _Images(NamedTuple):
    """Size and classes of a data set; the official ones where it is not in place."""

    count: int
    classes: tuple[str, ...]
    pixels: float  # of a picture


def sample_size(count: int, most: int) -> int:
    """How many of `count` images a parameter takes; 0 takes all."""
    return min(count, most) if most else count


def looked_at(p: Mapping[str, Any], counts: Mapping[str, int]) -> tuple[int, list[int]]:
    """Images that chapter 02 takes: of the focus, and of each other data set."""
    others = [
        sample_size(n, p["other_images"]) for s, n in counts.items() if s != p["focus"]
    ]
    return sample_size(counts[p["focus"]], p["view_images"]), others


def halves(
    p: Mapping[str, Any], counts: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Images of each data set that chapters 05 and 05b train on, and test on."""
    tests = {s: sample_size(n // 2, p.get("test_images", 0)) for s, n in counts.items()}
    pools = {s: sample_size(n - tests[s], p["pool_images"]) for s, n in counts.items()}
    return pools, tests


def estimate(job: Job) -> Need:
    """The needs of a chapter, from its parameters."""
    from helpers.data import pool
    from helpers.methods import memory as memories
    from helpers.models import template_prompts
    from helpers.models.prompts import contexts_at_once

    p, name = job.parameters, job.notebook.stem
    if not p.get("backbone") or not p.get("dataset"):
        return Need(name, {"Python": PLAIN}, {}, 0)
    models = [size_of(m) for m in (p["backbone"], p.get("second_backbone")) if m]
    own = parse(given) if (given := p.get("class_names")) else ()
    at = p.get("data_root", ""), p.get("images", 0)
    sets = {
        s: _images(s, *at, own if s == "folder" else ())
        for s in (p["dataset"], *p.get("shifts", []))
    }
    first, names = models[0], next(iter(sets.values())).classes
    counts = {name: s.count for name, s in sets.items()}
    images, classes = sum(counts.values()), len(names)
    width = max(m.embed_dim for m in models)
    side = 3 * first.side**2  # bytes of a picture as a CLIP sees it

    weights = [m.bytes for m in models]
    memory: Sizes = {"libraries": LIBRARIES, "batches": ACTIVATIONS + 600 * side}
    beside = 0 if p["weights"] == "random" else max(weights)  # a file, while it is read
    memory["weights"] = sum(weights) + beside
    memory["features"] = 4 * images * sum(m.embed_dim for m in models)
    disk, ledgers = {"features": memory["features"]}, 0.0

    def sampled(key: str, which: Sequence[str] = tuple(sets)) -> int:
        """Images that a parameter takes of these data sets."""
        return sum(sample_size(counts[s], p.get(key, 0)) for s in which if s in counts)

    def of_logits(count: float) -> float:
        return 4 * count * classes

    if "wordings" in p:
        largest = max(counts.values())
        memory["ledgers"] = 4 * of_logits(images) + 6 * of_logits(largest)
        memory["templates"] = 8 * TEMPLATES * classes * width
        ledgers += 6 * of_logits(images)
    if "prompt_sets" in p:
        texts = TEMPLATES * len(p["prompt_sets"]) / 2
        memory["templates"] = 4 * texts * classes * sum(m.embed_dim for m in models)
        ledgers += 2 * len(p["prompt_sets"]) * of_logits(images) * len(models)
    if p.keys() >= TUNING:
        focus, others = looked_at(p, counts)
        seen = focus + sum(others)
        count, recipes = p["view_count"], len(p["augmentations"])
        each = max(m.prompt_bytes(names) for m in models)
        memory["prompts"] = contexts_at_once(p["memory"], each) * each
        if p["jacobian"]:
            made = [m.jacobian_bytes(classes) for m in models]
            memory["Jacobian"] = sum(made) + max(made)
        swept = p["dev_images"] * max(p["view_counts"])
        shown = seen * count * recipes + swept
        shown += p["few_shot_views"] * 1000 if p["few_shot"] else 0
        disk["views"] = 2 * shown * sum(m.embed_dim for m in models)
        ledgers += 10 * recipes * of_logits(seen)
    elif "view_count" in p:
        key = "view_images" if "view_images" in p else "episodic_images"
        view_sets = p.get("view_sets") or [p.get("focus")]
        seen = sampled(key, view_sets)
        disk["views"] = 2 * seen * p["view_count"] * width * len(models)
        largest = seen / len(view_sets) * p["view_count"]
        memory["views"] = 4 * largest * width + 2 * of_logits(largest)
    if "alphas" in p:
        memory["streams"] = memories.memory_needed(p["orders"], classes, width)
        # One prompt and 80, of about ten methods.
        ledgers += 20 * of_logits(images) * len(models)
    if "diffusion" in p:
        memory["diffusion"] = optional.memory_needed("diffusion", p["diffusion"])
    if "captioner" in p:
        writer = optional.memory_needed("captioner", p["captioner"])
        memory["captions"] = template_prompts.memory_needed(models) + writer
        ledgers += 10 * of_logits(sampled("caption_images")) * len(models)
    if p.keys() >= TRAINING or p.keys() >= NEIGHBOURS:
        tuned = next((m for m in models if m.patches), first)
        pools, _ = halves(p, counts)
        if p.keys() >= NEIGHBOURS:  # on the focus alone
            pools = {p["focus"]: pools[p["focus"]]}
            memory["prompts"] = tuned.prompt_bytes(names)
        kept = {k: pool.kept_bytes(n, sets[k].pixels) for k, n in pools.items()}
        half = 3 * tuned.side**2 * sum(pools.values())
        # The halves that train and that test, of which the focus has its turn, too.
        memory["pictures"] = 2 * half + sum(kept.values()) + kept.get(p["focus"], 0)
        memory["training"] = _training_bytes(tuned, p)
        # Reading a file beside its model is over long before the peak.
        memory["weights"] = sum(weights) + sum(m.folded_bytes for m in models)
        memory["kept"] = KEPT_BACK * memory["training"]
        ledgers += 15 * of_logits(2 * max(pools.values()))
    return Need(name, memory, disk, ledgers)


def _training_bytes(model: Size, p: Mapping[str, Any]) -> float:
    """Bytes of the graphs of images at once, or of RLCF's copy of the image tower."""
    from helpers.methods.training import GRAPHS, HEADROOM

    each = HEADROOM * model.graph_bytes(p.get("visual_prompts", 0))
    graphs = min(p["batch"] * each, max(GRAPHS, each))
    # Weights, where they start, their gradients and two moments of AdamW.
    rewarded = p.keys() >= NEIGHBOURS and p.get("second_backbone")
    whole = 5 * model.image_bytes if rewarded else 0
    return max(graphs, whole + each)


@cache
def _images(name: str, data_root: str, most: int, classes: Classes) -> _Images:
    from PIL import Image

    from helpers import data

    try:
        found = data.read(name, data_root, classes)
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


def check(jobs: Sequence[Job], outputs: Path) -> str:
    """What a study takes, in a line; ValueError where it surely will not fit.

    `outputs` is the folder that results will go to.
    """
    lines, problems = _survey(jobs, outputs)
    if problems:
        raise ValueError("\n".join(problems))
    return lines[0]


def check_room(report: Report, jobs: Sequence[Job], outputs: Path) -> None:
    """Report what each chapter takes, and what the machine lacks for it."""
    lines, problems = _survey(jobs, outputs)
    report.add("room", GOOD, "\n".join(lines))
    for problem in problems:
        report.add("room", BAD, problem)


def _survey(jobs: Sequence[Job], outputs: Path) -> tuple[list[str], list[str]]:
    """What the study takes, then each chapter, a line each; and what will not fit."""
    needs = [estimate(job) for job in jobs]
    free = available_memory()
    problems = [
        _too_much(need, job, free)
        for need, job in zip(needs, jobs, strict=True)
        if SURE * need.peak > free
    ]
    kept = sum(sum(need.cache.values()) for need in needs)
    ledgers = sum(need.ledgers for need in needs)
    held = (f for kind in HELD for f in (CACHE / "store" / kind).rglob("*"))
    left = SURE * kept - sum(f.stat().st_blocks * 512 for f in held if f.is_file())
    frees = []
    for folder, needed, least, ways in (
        (CACHE, kept, left, SMALLER_CACHE),
        (outputs, ledgers, SURE * ledgers, SMALLER_LEDGERS),
    ):
        there = next(f for f in (folder, *folder.parents) if f.exists())
        frees.append(shutil.disk_usage(there).free)
        if least > frees[-1]:
            problems.append(
                f"{folder} needs about {gigabytes(needed)} and has "
                f"{gigabytes(frees[-1])} free: make room, {ways}"
            )
    most = max(needs, key=lambda need: need.peak)
    total = (
        f"memory: at most about {gigabytes(most.peak)} ({most.chapter}), "
        f"{gigabytes(free)} free; "
        f"disk: about {gigabytes(kept + ledgers)}, {gigabytes(min(frees))} free"
    )
    return [total, *(f"{need.chapter}: {need}" for need in needs)], problems


def _too_much(need: Need, job: Job, free: float) -> str:
    cures = [CURES[part] for part, _ in need.largest if part in CURES]
    cures = [f"-p {cure}" for cure in cures if cure.split()[0] in job.parameters]
    ways = [*cures, "other chapters alone (--only)", "a machine with more memory"]
    return (
        f"{need.chapter} needs {need} of memory and {gigabytes(free)} are free: try "
        f"{', or '.join(ways)}"
    )
