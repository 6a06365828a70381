"""How long a study takes: a few things timed here, times how often each is done.

`work` counts, chapter by chapter and from its parameters alone, the pictures that are
read, encoded, captioned or trained on, the texts that are encoded, and the steps of
prompt tuning. `paces` times each of these on a few pictures and classes of the study,
with random weights where its own are not on this machine: they take as long. Figures
and statistics are not counted, so an estimate may be low. What an earlier run has left
in the cache is counted, so an estimate may be high.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from helpers import data, views
from helpers.data.dataset import Dataset
from helpers.methods import autoclip, lafter, tent
from helpers.methods.training import Student
from helpers.models import clip, fast, optional, template_prompts
from helpers.models.prompts import AT_ONCE, PromptTower
from helpers.models.visual import ImageTower
from helpers.models.weights import quiet
from helpers.prompts.templates import TEMPLATES
from helpers.study.parameters import Job
from helpers.study.report import BAD, GOOD, Report
from helpers.study.room import (
    NEIGHBOURS,
    TRAINING,
    TUNING,
    halves,
    looked_at,
    sample_size,
)

START = 15.0  # seconds of a kernel, its imports and a chapter's figures
FEW, MOST = 2, 32  # pictures or texts that are timed together
ENOUGH = 0.3  # seconds that suffice to time something
CLASSES = 32  # of a step of prompt tuning
RECIPES = ("preaugment", "augmix", "autoaugment")
LISTS = {**{name: len(texts) for name, texts in TEMPLATES.items()}, "pooled": 80}
LISTS |= {"waffle": 40}
METHODS = 5  # that tune prompts in chapter 02: TPT in three forms, C-TPT and A-TPT
JACOBIAN = 512  # passes: as many as the text tower is wide
NAMED = 2  # the most expensive parts of a chapter, which are named
NAMES = {
    "read": "reading pictures",
    "drawn": "drawing views",
    "encoded": "encoding pictures and views",
    "texts": "encoding texts",
    "prompts": "encoding prompts of captions",
    "steps": "tuning prompts",
    "trained": "training on pictures",
    "captions": "captions",
    "variations": "diffusion, at most",
    "products": "weighing templates",
}
Work = Counter[str]  # of the keys of NAMES; prompts and steps are those of one class


def check_time(
    report: Report,
    jobs: Sequence[Job],
    datasets: Mapping[str, Dataset],
    weights_are_here: bool,
) -> None:
    """Report how long each chapter and the whole study take."""
    parameters = {k: v for job in jobs for k, v in job.parameters.items()}
    if not weights_are_here:
        parameters["weights"] = "random"
    try:
        pace, where = paces(parameters, next(iter(datasets.values())))
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        report.add("time", BAD, str(error))
        return
    lines, whole = [], 0.0
    for job in jobs:
        spent = {k: pace[k] * n for k, n in work(job, datasets).items()}
        seconds = START + sum(spent.values())
        whole += seconds
        largest = Counter(spent).most_common(NAMED)
        parts = [f"{NAMES[k]} {duration(n)}" for k, n in largest if n > START]
        dearest = f" ({', '.join(parts)})" if parts else ""
        lines.append(f"{job.notebook.stem}: about {duration(seconds)}{dearest}")
    random = "" if weights_are_here else ", with random weights as the study's are away"
    lines.insert(
        0, f"about {duration(whole)}, timed on a few pictures, {where}{random}:"
    )
    report.add("time", GOOD, "\n".join(lines))


def duration(seconds: float) -> str:
    """Seconds as text, to about two digits."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{max(1, round(seconds))} s"


def work(job: Job, datasets: Mapping[str, Dataset]) -> Work:
    """How often a chapter does what is timed; `datasets` are those of the study."""
    p = job.parameters
    if "backbone" not in p or not datasets:
        return Counter()
    counts = {name: len(dataset) for name, dataset in datasets.items()}
    classes = len(next(iter(datasets.values())).class_names)
    kinds: list[tuple[bool, Callable]] = [
        ("wordings" in p, _zero_shot),
        (p.keys() >= TUNING, _tuning),
        ("diffusion" in p, _diffusion),
        ("captioner" in p, _captions),
        ("prompt_sets" in p, _weighing),
        (p.keys() >= TRAINING, _training),
        (p.keys() >= NEIGHBOURS, _neighbours),
        ("remembering" in p, _remembering),
        ("dose_images" in p, _doses),
        ("to_label" in p, _own_images),
        ("chunk" in p, _paying),
    ]
    found: Work = Counter()
    for fits, count in kinds:
        if fits:
            with suppress(KeyError):  # a user's own notebook may declare fewer keys
                models = 1 + bool(p.get("second_backbone"))
                found.update(count(p, counts, classes, models))
    return found


def paces(parameters: Mapping[str, Any], dataset: Dataset) -> tuple[dict, str]:
    """Seconds for one of each key of NAMES, and where that was timed.

    Captions and variations are 0 where their model is not on this machine. Raises what
    `clip.load` raises for weights that do not fit.
    """
    options = {k: parameters[k] for k in ("device", "precision") if k in parameters}
    # QuickGELU and random weights: said elsewhere.
    with quiet(), warnings.catch_warnings(action="ignore", category=UserWarning):
        model = clip.load(parameters["backbone"], parameters["weights"], **options)
    images = [dataset.image(i % len(dataset)) for i in range(MOST)]
    pixels = torch.stack([model.preprocess(image) for image in images])
    names = (dataset.class_names * CLASSES)[:CLASSES]
    prompts = [f"a photo of a {name}." for name in names]
    captions = [f"a field with {{a}} in front of {i} trees" for i in range(MOST)]
    rng, size = np.random.default_rng(0), model.image_size

    def read(n: int) -> None:
        for i in range(n):
            model.preprocess(dataset.image(i % len(dataset)))

    def draw(n: int) -> None:
        for recipe in RECIPES:
            views.make(recipe, images[0], 1 + n, size, rng, model.crop)

    def prompted(n: int) -> None:
        list(template_prompts.features(model, captions[:n], names))

    found = {
        "read": _each(read),
        "drawn": _each(draw) / len(RECIPES),
        "encoded": _each(lambda n: model.encode_images(pixels[:n]).cpu()),
        "texts": _each(lambda n: model.encode_texts(prompts[:n]).cpu()),
        "prompts": _each(prompted) / len(names),
        "steps": _step_seconds(model, names),
        "trained": _training_seconds(_tuned(model, parameters, options), images),
        "products": _product_seconds(model),
        "captions": _caption_seconds(parameters, images),
        "variations": _variation_seconds(parameters, images),
    }
    return found, str(model.device)


def _each(call: Callable[[int], Any], most: int = MOST) -> float:
    """Seconds that `call(n)` takes for one of n, of few if these take long enough."""
    n, seconds = FEW, 0.0
    call(n)  # the first one allocates
    while True:
        began = time.perf_counter()
        call(n)
        seconds = time.perf_counter() - began
        if seconds > ENOUGH or n >= most:
            return seconds / n
        n = min(4 * n, most)


def _tuned(
    model: clip.Backbone, parameters: Mapping[str, Any], options: Mapping[str, Any]
) -> clip.Backbone:
    """The backbone that chapters 05 and 05b train: the first ViT, else the first."""
    second = parameters.get("second_backbone")
    if second and not fast.is_clip_vit(model.model.visual):
        other = clip.load(second, parameters["weights"], **options)
        return other if fast.is_clip_vit(other.model.visual) else model
    return model


def _step_seconds(model: clip.Backbone, names: Sequence[str]) -> float:
    """One class in one step of prompt tuning: forward, back, and forward again."""
    try:
        tower = PromptTower(model, names)
    except ValueError:  # no text tower of CLIP's kind: chapter 02 will say so
        return 0.0

    def step(n: int) -> None:
        context = tower.context.repeat(n, 1, 1).requires_grad_()
        tower.features(context).sum().backward()
        with torch.no_grad():
            tower.features(context).cpu()

    return _each(step, AT_ONCE) / len(names)


def _training_seconds(model: clip.Backbone, images: Sequence) -> float:
    """One picture forward and back through the image tower, whose norms are tuned."""
    pixels = torch.stack([model.crop(image) for image in images])
    tower = ImageTower(model, norms=True)
    student = Student(tower, torch.zeros(2, model.embed_dim, device=model.device))
    norms = [p for p in student.parameters() if p.requires_grad]

    def step(n: int) -> None:
        loss = student(pixels[:n]).logsumexp(dim=-1).sum()
        torch.autograd.grad(loss, norms, allow_unused=True)[0].cpu()

    return _each(step)


def _product_seconds(model: clip.Backbone) -> float:
    """A thousand million products in AutoCLIP: N pictures x K templates x C x D."""
    k, c, d = 40, 200, model.embed_dim
    x, t = torch.randn(MOST, d), torch.randn(k, c, d)
    x, t = (v / v.norm(dim=-1, keepdim=True) for v in (x, t))
    each = _each(lambda n: autoclip.autoclip(x[:n], t, 100.0))
    return 1e9 * each / (k * c * d)


def _caption_seconds(parameters: Mapping[str, Any], images: Sequence) -> float:
    name = parameters.get("captioner", "")
    if not name or _is_missing(parameters, "captioner"):
        return 0.0
    from helpers.models import captioner

    settings = parameters["device"], parameters["beams"], parameters["caption_tokens"]
    try:
        writer = captioner.load(name, *settings)
    except optional.MissingModel:
        return 0.0
    return _each(lambda n: writer(images[:n]))


def _variation_seconds(parameters: Mapping[str, Any], images: Sequence) -> float:
    """One variation by the embedded model; others are bounded in time, see `work`."""
    name = parameters.get("diffusion", "")
    if not name.startswith("picto-"):
        return 1.0  # such chapters count seconds
    from helpers.models import diffusion

    steps = parameters["diffusion_steps"]
    variator = diffusion.load(name, parameters["strength"], steps)
    return _each(lambda n: variator(images[:n], range(n)))


def _is_missing(p: Mapping[str, Any], key: str) -> bool:
    names = optional.wanted(p)
    return key in names and bool(optional.lacking(key, names[key]))


def _drawn(p: Mapping[str, Any], counts: Mapping[str, int]) -> int:
    """Views of all images that a chapter takes of its `view_sets`."""
    taken = (sample_size(counts[name], p["view_images"]) for name in p["view_sets"])
    return p["view_count"] * sum(taken)


def _size(p: Mapping[str, Any], name: str) -> int:
    """The number of images of a data set that is none of the study's own."""
    names = p.get("class_names", "") if name == "folder" else ""
    return data.describe(name).images or len(
        data.read(name, p.get("data_root", ""), names)
    )


def _apart(p: Mapping[str, Any], key: str, most: str, count: int = 0) -> int:
    """Images that `most` takes of the data set of `key`; of `count` where it is ""."""
    return sample_size(_size(p, p[key]) if p[key] else count, p[most])


# What the chapters do: a function each of (parameters, images of each data set, number
# of classes, number of backbones). Views are drawn and encoded.


def _zero_shot(p: Mapping, counts: dict[str, int], classes: int, models: int) -> dict:
    total = sum(counts.values()) * models
    texts = sum(LISTS[k] for k in ("name", "photo", "openai_7", "openai_80"))
    texts = models * classes * (texts + len(p["wordings"]))
    return {"read": total, "encoded": total, "texts": texts}


def _tuning(p: Mapping, counts: dict[str, int], classes: int, models: int) -> dict:
    focus, others = looked_at(p, counts)
    once = sum(others)  # seen with the first augmentation alone
    once += sample_size(focus, p["other_images"]) * (models - 1)
    swept = _apart(p, "dev", "dev_images", focus)
    drawn = p["view_count"] * (focus * len(p["augmentations"]) + once)
    drawn += swept * max(p["view_counts"])
    tuned = METHODS * (focus * len(p["augmentations"]) + once)
    tuned += swept * (len(p["view_counts"]) + len(p["fractions"]))
    most = max(p["step_counts"])
    tuned += swept * most * len(p["learning_rates"]) * models
    if p["dev"]:  # the matched step: of TPT everywhere, of C-TPT and CoOp's on one set
        matched = [sample_size(n, p["matched_images"]) for n in (focus, *others)]
        tuned += most * (sum(matched) + models * matched[0])
    if p["few_shot"]:
        few = _apart(p, "few_shot", "few_shot_images")
        tuned += p["coop_epochs"] * few / 32  # batches
        tuned += p["cocoop_epochs"] * sample_size(few, p["cocoop_images"])
        drawn += few * p["few_shot_views"]
    if p["few_shot"] or p["coop_file"] or p["cocoop_file"]:
        tuned += 3 * focus
    tuned += JACOBIAN * models * p["jacobian"]
    seen = focus + once
    steps = classes * tuned
    return {"read": seen, "drawn": drawn, "encoded": seen + drawn, "steps": steps}


def _diffusion(p: Mapping, counts: dict[str, int], classes: int, models: int) -> dict:
    if _is_missing(p, "diffusion"):
        return {}
    taken = sample_size(counts[p["focus"]], p["view_images"])
    trials = len(p["strengths"]) + len(p["step_counts"])
    made = taken * p["view_count"] + _apart(p, "dev", "dev_images", taken) * trials
    drawn = taken * (3 * p["view_count"] + 2)
    if not p["diffusion"].startswith("picto-"):  # cut off after so many seconds each
        made = 60 * p["max_minutes"] * (1 + trials)
    return {
        "drawn": drawn,
        "encoded": drawn + taken * p["view_count"],
        "variations": made,
        # TPT's one step and DiffTPT's four, on two sets of views.
        "steps": classes * taken * 2 * (1 + 4),
    }


def _captions(p: Mapping, counts: dict[str, int], classes: int, models: int) -> dict:
    if _is_missing(p, "captioner"):
        return {}
    taken = {s: sample_size(n, p["caption_images"]) for s, n in counts.items()}
    part = {s: sample_size(n, p["part_images"]) for s, n in taken.items()}
    with_keyword = not _is_missing(p, "embeddings")
    # Prompts of style alone are few; those of the others are an image's own.
    sets = models * sum(taken.values()) * (1 + with_keyword)
    sets += sum(part.values()) * (1 + with_keyword + 4 * p["truth"])
    close = sum(part[s] for s in p["close_sets"])
    sets += close * (len(p["noise_shares"]) + 5 * with_keyword)
    seen = models * sum(n for s, n in taken.items() if n < counts[s])
    seen += sum(part.values())
    return {
        "read": seen,
        "encoded": seen,
        "captions": sum(taken.values()),
        "texts": models * classes * (1 + LISTS[p["style_set"]]),
        "prompts": classes * sets,
    }


def _weighing(p: Mapping, counts: dict[str, int], classes: int, models: int) -> dict:
    lists = sum(LISTS[name] for name in p["prompt_sets"])
    drawn, closer = _drawn(p, counts), LISTS[p["closer"]]
    weighed = models * (2 * lists + closer * (8 + len(p["betas"])))
    weighed += 2 * p["draws"] * sum(p["template_counts"])
    products = sum(counts.values()) * weighed + drawn * closer
    return {
        "drawn": drawn,
        "encoded": drawn,
        "texts": models * classes * (1 + lists),
        "products": products * classes * 512 / 1e9,
    }


def _training(p: Mapping, counts: dict[str, int], classes: int, models: int) -> dict:
    pools, tests = halves(p, counts)
    if p["unlabelled"]:
        pools[p["dataset"]] = sample_size(_size(p, p["unlabelled"]), p["pool_images"])
    pool, test = pools[p["focus"]], tests[p["focus"]]
    runs = p["seeds"] + len(lafter.ABLATIONS) - 1
    runs -= not _has_vit(p)  # the ablation of the prompts
    epochs = p["epochs"] * (runs * pool + sum(pools.values()) - pool + test)
    epochs += p["long_epochs"] * pool
    if p["dev"]:
        tried = sample_size(_size(p, p["dev"]), p["dev_images"])
        epochs += p["epochs"] * len(p["learning_rates"]) * tried // 2
    watched = test * (p["long_epochs"] + p["epochs"])
    tested = test * runs + sum(tests.values()) + 200 * len(p["prompt_counts"])
    seen = sum(pools.values()) + sum(tests.values())
    return {
        "read": 2 * seen,
        "drawn": epochs,
        "encoded": seen + epochs + watched + tested,
        "trained": epochs,
        "texts": classes * (LISTS[p["text_templates"]] + LISTS[p["tap_templates"]]),
    }


def _neighbours(p: Mapping, counts: dict[str, int], classes: int, models: int) -> dict:
    pools, tests = halves(p, counts)
    pool, test = pools[p["focus"]], tests[p["focus"]]
    if p["unlabelled"] and p["focus"] == p["dataset"]:
        pool = sample_size(_size(p, p["unlabelled"]), p["pool_images"])
    epochs = p["epochs"] * pool * (1 + _has_vit(p))  # FixMatch and LoRA
    streams = test * sum(settings["steps"] for settings in tent.PROTOCOLS.values())
    single = sample_size(test, p["episodic_images"])
    looks = single * p["view_count"]
    kept = min(pool, 16 * classes)  # UPL's images, from two sets of labels
    crops = 2 * kept * p["view_count"]
    stepped = single * (1 + 3 * (models - 1))  # TENT's step, RLCF's three
    tuned = 3 * single * (models - 1)
    tuned += 2 * p["upl_epochs"] * p["upl_seeds"] * kept / 32
    return {
        "read": 2 * (pool + test),
        "drawn": epochs + 3 * looks + crops,
        "encoded": pool + 3 * test + epochs + models * looks + crops,
        "trained": epochs + streams + stepped * p["view_count"],
        "texts": classes * LISTS[p["text_templates"]],
        "steps": classes * tuned,
    }


def _has_vit(p: Mapping) -> bool:
    names = str(p["backbone"]), str(p.get("second_backbone"))
    return any("vit" in name.lower() for name in names)


def _remembering(p: Mapping, counts: dict[str, int], classes: int, models: int) -> dict:
    drawn = _drawn(p, counts)
    texts = models * classes * (LISTS["photo"] + LISTS["openai_80"])
    return {"drawn": drawn, "encoded": drawn, "texts": texts}


def _doses(p: Mapping, counts: dict[str, int], classes: int, models: int) -> dict:
    focus, others = looked_at(p, counts)
    few = min(focus, p["dose_images"])
    seeds = p["view_seeds"] + models - 2
    drawn = p["view_count"] * (focus + sum(others) + few * seeds)
    tuned = models * few * (len(p["learning_rates"]) + 2)
    tuned += models * JACOBIAN * p["jacobian"]
    texts, seen, plain = LISTS["openai_80"] // 4, 0, 0  # wordings
    if p["scenes"]:
        plain, of_scenes = 2 * p["dose_images"], len(p["sizes"]) + len(p["offsets"])
        drawings = p["dose_images"] * (of_scenes + len(p["severities"]))
        drawn += p["dose_views"] * drawings
        tuned += p["dose_images"] * of_scenes
        seen = plain + drawings
        texts += LISTS[p["style_set"]]
    work = {"read": seen, "drawn": drawn, "encoded": drawn + plain}
    return work | {"texts": classes * texts, "steps": classes * tuned}


def _paying(p: Mapping, counts: dict[str, int], classes: int, models: int) -> dict:
    focus, others = looked_at(p, counts)
    taken = focus + sum(others) + _apart(p, "dev", "dev_images", focus)
    drawn, chunks = taken * p["view_count"], -(-p["view_count"] // p["chunk"])
    tuned = taken * chunks + JACOBIAN * p["jacobian"]
    return {"drawn": drawn, "encoded": drawn, "steps": classes * tuned}


def _own_images(p: Mapping, counts: dict[str, int], classes: int, models: int) -> dict:
    taken = sample_size(counts[p["focus"]], p["view_images"])
    drawn = taken * p["view_count"]
    seen = {"read": taken, "drawn": drawn, "encoded": drawn + taken * models}
    texts = classes * (LISTS["openai_80"] + models)
    return seen | {"texts": texts, "steps": classes * taken}
