"""How long a study takes here, roughly, for `study doctor`.

A chapter's parameters tell how many views it encodes, prompts it encodes, classes it
carries through a tuned prompt or a step of tuning, and pictures it trains on. Each of
these is timed on a few pictures, with random weights where the study's own are not
here. What needs a model that is not on this machine is left out, as in a run without a
network. The rest is not counted, nor what the store holds already: a factor of two is
possible. The store refuses views that the disk has no room for, and
`helpers.study.process` watches the memory of a run.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from helpers import data, notebooks, views
from helpers.data.dataset import Dataset
from helpers.methods.training import Student
from helpers.models import clip, optional, template_prompts
from helpers.models.fast import is_clip_vit
from helpers.models.prompts import PromptTower
from helpers.models.visual import ImageTower
from helpers.models.weights import quiet
from helpers.study.parameters import Job
from helpers.study.report import BAD, GOOD, Report

START = 15.0  # seconds of a kernel, its imports and a chapter's figures
FEW, CLASSES = 8, 32  # pictures, or classes, that are timed together
TUNINGS = 3  # of each image in chapter 02: TPT's serves three methods
TRAININGS = 8  # in chapter 05: five ablations, a transductive one, two lengths
TEMPLATES = 80  # of the largest shared set
NAMES = {
    "views": "drawing and encoding views",
    "texts": "encoding prompts",
    "captions": "encoding prompts of captions",
    "passes": "encoding tuned prompts",
    "steps": "tuning prompts",
    "trained": "training on pictures",
    "drawn": "diffusion, at most",
}


def check_cost(
    report: Report,
    jobs: Sequence[Job],
    datasets: Mapping[str, Dataset],
    weights_are_here: bool,
) -> None:
    """Report the time of each chapter."""
    parameters = {k: v for job in jobs for k, v in job.parameters.items()}
    weights = parameters["weights"] if weights_are_here else "random"
    options = {k: parameters[k] for k in ("device", "precision") if k in parameters}
    try:
        # QuickGELU and random weights: said elsewhere.
        with quiet(), warnings.catch_warnings(action="ignore", category=UserWarning):
            names = [parameters["backbone"], parameters.get("second_backbone")]
            models = [clip.load(name, weights, **options) for name in names if name]
        each = unit_seconds(models, next(iter(datasets.values())))
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        report.add("time", BAD, str(error))
        return
    lines, whole = [], 0.0
    for job in jobs:
        try:
            done = work(job.parameters, datasets)
        except KeyError:  # a user's own notebook may declare fewer keys
            done = Counter()
        spent = {name: each[name] * n for name, n in done.items()}
        away, whole_chapter = _away(job), START + sum(spent.values())
        if away:
            spent = {}
        seconds = START + sum(spent.values())
        whole += seconds
        most = max(spent, key=spent.__getitem__, default="")
        why = f" (most of it {NAMES[most]})" if spent.get(most, 0) > START else ""
        if whole_chapter > seconds + START:
            why = f", since {away}; with it about {duration(whole_chapter)}"
        lines.append(f"{job.notebook.stem}: about {duration(seconds)}{why}")
    on = str(models[0].device)
    on += "" if weights_are_here else ", with random weights as the study's are away"
    first = f"about {duration(whole)}, timed on a few pictures, {on}:"
    report.add("time", GOOD, "\n".join([first, *lines]))


def _away(job: Job) -> str:
    """Say which model the whole chapter needs and this machine lacks; "" if none."""
    names = optional.wanted(job.parameters)
    needed = {*notebooks.read(job.notebook).optional} & {"captioner", "diffusion"}
    for key in needed & names.keys():
        if lacking := optional.lacking(key, names[key]):
            return f"{key} {names[key]} is {lacking}"
    return ""


def work(p: Mapping[str, Any], datasets: Mapping[str, Dataset]) -> Counter[str]:
    """How often a chapter does what is timed, by the keys of `NAMES`."""
    counts = {name: len(dataset) for name, dataset in datasets.items()}
    classes = len(next(iter(datasets.values())).class_names)
    models = 1 + bool(p.get("second_backbone"))
    focus = counts.get(p.get("focus", ""), max(counts.values()))

    def taken(key: str, of: int) -> int:
        return min(of, p[key]) if p.get(key) else of

    seen = taken("view_images" if "view_images" in p else "episodic_images", focus)
    if "view_sets" in p:
        seen = sum(taken("view_images", counts.get(s, focus)) for s in p["view_sets"])
    seen *= len(p.get("augmentations", ["one recipe"]))
    if "other_images" in p:
        others = (taken("other_images", n) for n in counts.values())
        seen += sum(others) - taken("other_images", focus)
    found = {"views": p.get("view_count", 0) * seen}
    if "wordings" in p:
        found["views"] += models * sum(counts.values())  # a view is the image itself
        found["texts"] = models * classes * (TEMPLATES + len(p["wordings"]))
    if "prompt_sets" in p:
        found["texts"] = models * classes * TEMPLATES * len(p["prompt_sets"])
    if "caption_images" in p:
        captions = sum(taken("caption_images", n) for n in counts.values())
        found["captions"] = 2 * models * classes * captions
    tuned = later = 0  # images whose prompts are tuned, and their steps but the first
    if "augmentations" in p:
        swept = taken("dev_images", focus)
        paths = models * swept * len(p["learning_rates"])
        tuned = TUNINGS * seen + swept * len(p["view_counts"] + p["fractions"]) + paths
        longest = max(p["step_counts"], default=1)
        matched = sum(taken("matched_images", n) for n in counts.values())
        later = (longest - 1) * (paths + matched * bool(p["dev"]))
    elif "dose_images" in p:
        found["views"] += models * p["dose_images"] * p["view_count"]
        tuned = models * p["dose_images"] * (2 + len(p["learning_rates"]))
    elif "chunk" in p:
        tuned = seen * -(-p["view_count"] // p["chunk"])
    elif "to_label" in p:
        tuned = seen
    found["passes"] = classes * tuned
    # With the Jacobian, first steps are matrix products.
    found["steps"] = classes * (later if p.get("jacobian") else later + tuned)
    if "pool_images" in p:
        own = data.pool_name(p["unlabelled"], p["focus"], p["dataset"])
        drawn = data.describe(own).images if own else 0
        pool = taken("pool_images", drawn or focus // 2)
        found["trained"] = 2 * p["epochs"] * pool
        if "long_epochs" in p:
            # Of the seeds' trainings, one is the beginning of the long one.
            sets = (1 + len(p["more_backbones"])) * len(datasets)
            tried = len(p["learning_rates"]) * bool(p["dev"])
            short = p["epochs"] * (TRAININGS + p["seeds"] - 1 + sets - 1 + tried)
            found["trained"] = (short + p["long_epochs"]) * pool
    if "max_minutes" in p and not p["diffusion"].startswith("picto-"):
        trials = 1 + len(p["strengths"]) + len(p["step_counts"])
        found["drawn"] = 60 * p["max_minutes"] * trials
    return +Counter(found)


def unit_seconds(models: Sequence[clip.Backbone], dataset: Dataset) -> dict[str, float]:
    """Seconds for one of each key of `NAMES`, with the first of the models.

    The first ViT is trained, as in chapter 05.
    """
    images = [dataset.image(i % len(dataset)) for i in range(FEW)]
    model = models[0]
    student = next((m for m in models if is_clip_vit(m.model.visual)), model)
    pixels = torch.stack([student.crop(image) for image in images])
    names = (dataset.class_names * CLASSES)[:CLASSES]
    prompts = [f"a photo of a {name}." for name in names]
    captions = [f"a field with {{a}} in front of {i} trees" for i in range(FEW)]
    rng, size = np.random.default_rng(0), model.image_size

    def look() -> None:
        drawn = views.make("preaugment", images[0], FEW, size, rng, model.crop)
        model.encode_images(model.normalise(drawn.to(model.device))).cpu()

    def prompted() -> None:
        list(template_prompts.features(model, captions, names))

    return {
        "views": _seconds(look) / FEW,
        "texts": _seconds(lambda: model.encode_texts(prompts).cpu()) / CLASSES,
        "captions": _seconds(prompted) / FEW / CLASSES,
        **_tuning_seconds(model, names),
        "trained": _training_seconds(student, pixels),
        "drawn": 1.0,  # chapters that draw are limited in time
    }


def _seconds(call: Callable[[], Any]) -> float:
    call()  # the first one allocates
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _tuning_seconds(model: clip.Backbone, names: Sequence[str]) -> dict[str, float]:
    """One class in a tuned prompt, and in a step of tuning: forward and back."""
    try:
        tower = PromptTower(model, names)
    except ValueError:  # no text tower of CLIP's kind: chapter 02 will say so
        return {"passes": 0.0, "steps": 0.0}
    contexts = tower.context.repeat(FEW, 1, 1)

    def encode() -> None:
        with torch.no_grad():
            tower.features(contexts).cpu()

    def step() -> None:
        tower.features(contexts.clone().requires_grad_()).sum().backward()

    each = FEW * len(names)
    return {"passes": _seconds(encode) / each, "steps": _seconds(step) / each}


def _training_seconds(model: clip.Backbone, pixels: torch.Tensor) -> float:
    """One picture forward and back through the image tower, whose norms are tuned."""
    tower = ImageTower(model, norms=True)
    student = Student(tower, torch.zeros(2, model.embed_dim, device=model.device))
    norms = [p for p in student.parameters() if p.requires_grad]

    def step() -> None:
        loss = student(pixels).logsumexp(dim=-1).sum()
        torch.autograd.grad(loss, norms, allow_unused=True)[0].cpu()

    return _seconds(step) / len(pixels)


def duration(seconds: float) -> str:
    """Seconds as text, to about two digits."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{max(1, round(seconds))} s"
