"""`study doctor NAME`: does a study have all that it needs, and are its labels right?

Every finding is a line: ✓ fine, ! worth knowing, ○ what the study will leave out unless
its model can be fetched, ✗ the study cannot run.
Nothing is downloaded. For each data set a contact sheet, pictures with their class
names, goes to outputs/STUDY/doctor/: the quickest check of labels is to look.
"""

import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from helpers import data, notebooks
from helpers.data import embedded
from helpers.data import folder as class_folders
from helpers.data.dataset import UNKNOWN, Dataset, readable
from helpers.data.folder import BESIDE, WNID
from helpers.models import optional
from helpers.models.weights import weight_bytes
from helpers.paths import OUTPUTS
from helpers.study.report import BAD, GOOD, LEFT_OUT, NOTE, Report

if TYPE_CHECKING:
    from helpers.study.parameters import Job

LEDGER = "zero_shot_photo"  # the method whose accuracy papers report
TOLERANCE = 0.005
LISTED = 20  # files listed by name before the rest is counted
Findings = Iterator[tuple[str, str]]  # (mark, text)


def diagnose(parameters: Mapping[str, Any], jobs: "Sequence[Job]" = ()) -> Report:
    """Check a study by its merged parameters; estimate the time of its `jobs`.

    Reads study, dataset, shifts, data_root, class_names, images, seed, backbone,
    weights and the names of optional models; all but study, dataset, backbone and
    weights may be missing.
    """
    report = Report()
    folder = OUTPUTS / parameters["study"]
    datasets: dict[str, Dataset] = {}
    for name in (parameters["dataset"], *parameters.get("shifts", ())):
        dataset = check_dataset(
            report,
            name,
            parameters.get("data_root", ""),
            parameters.get("images", 0),
            parameters.get("seed", 0),
            parameters.get("class_names", "") if name in class_folders.INFO else "",
        )
        if dataset is not None:
            sheet = contact_sheet(dataset, folder / "doctor" / f"{dataset.name}.png")
            what = "labels" if dataset.labelled.any() else "pictures"
            report.add(name, GOOD, f"look at the {what}: {sheet}")
            datasets[name] = dataset
    local = check_weights(report, parameters["backbone"], parameters["weights"])
    if told := embedded.strange(parameters["weights"], datasets):
        report.add(parameters["backbone"], NOTE, told)
    check_models(report, parameters)
    if any(name in embedded.OFFERED for name in datasets):
        check_world(report)
    if jobs and len(datasets) == 1 + len(parameters.get("shifts", ())):
        from helpers.study import cost

        cost.check_cost(report, jobs, datasets, local)
    for name, dataset in datasets.items():
        check_published(report, name, dataset, folder, parameters)
    return report


def check_dataset(
    report: Report,
    name: str,
    data_root: str,
    images: int,
    seed: int,
    class_names: str | Sequence = "",
) -> Dataset | None:
    """Check files, counts, names and pictures; returns the sample that a run would use.

    Returns None if there is nothing to run on.
    """
    info = data.describe(name)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            whole = data.read(name, data_root, class_names)
        sample = readable(whole.sample(images, seed))
    except (ValueError, OSError) as error:
        helps = info.layout.startswith("<data_root>") and info.layout not in str(error)
        layout = f"\nexpected layout: {info.layout}" if helps else ""
        report.add(name, BAD, f"{error}{layout}")
        return None
    for warning in caught:
        report.add(name, NOTE, str(warning.message))
    counts = _counts(whole, sample, data.describe(name).images)
    for mark, text in chain(counts, _names(whole), _skipped(whole, sample)):
        report.add(name, mark, text)
    if len(sample) < len(whole):
        report.add(name, GOOD, _used(whole, sample, images))
    return sample


def _damaged(whole: Dataset, sample: Dataset) -> Sequence[tuple[str, str]]:
    """(file, reason) of each picture of the sample that cannot be decoded."""
    return sample.skipped[len(whole.skipped) :]


def _used(whole: Dataset, sample: Dataset, images: int) -> str:
    """How many images the study uses, and why not all."""
    damaged = len(_damaged(whole, sample))
    drawn = len(sample) + damaged
    why = [f"the parameter images is {images:,}"] if drawn < len(whole) else []
    if damaged:
        why.append(f"{damaged:,} {'is' if damaged == 1 else 'are'} damaged")
    return f"this study uses {len(sample):,} of the images: {' and '.join(why)}"


def _counts(dataset: Dataset, sample: Dataset, official: int) -> Findings:
    counts = f"{len(dataset):,} images of {len(dataset.class_names):,} classes"
    if dataset.files:
        counts += f" in {os.path.commonpath([path.parent for path in dataset.files])}"
    if official in (0, len(dataset)):
        yield GOOD, counts
    else:
        yield NOTE, f"{counts}; the official set has {official:,}"
    if lacking := data.unlabelled(dataset):
        text = f"{lacking}: chapters that measure against labels are left out"
        yield NOTE, "\n".join([text, *data.without_label(dataset)])
        return
    damaged = {file for file, _ in _damaged(dataset, sample)}
    sound = [id not in damaged for id in dataset.ids]
    of_all, of_sound = (
        np.bincount(labels, minlength=len(dataset.class_names))
        for labels in (dataset.labels, dataset.labels[sound])
    )
    for what, lacking in {
        "no image": of_all == 0,
        "damaged images alone": (of_all > 0) & (of_sound == 0),
    }.items():
        names = [dataset.class_names[label] for label in np.flatnonzero(lacking)]
        if names:
            text = f"{len(names)} classes have {what} and only serve as wrong answers"
            if len(names) == 1:
                text = f"1 class has {what} and only serves as a wrong answer"
            yield NOTE, f"{text}: {_some(names, 5)}"


def _names(dataset: Dataset) -> Findings:
    """Five labels with their folder and name, and class names that CLIP cannot use."""
    known = np.flatnonzero(dataset.labelled)
    if len(known) < len(dataset):
        all_names = dataset.names or [(name,) for name in dataset.class_names]
        shown = [" or ".join(map(repr, names)) for names in all_names]
        yield GOOD, f"class names: {_some(shown, LISTED)}"
    _, first = np.unique(dataset.labels[known], return_index=True)
    first = known[first]
    chosen = first[np.linspace(0, len(first) - 1, min(5, len(first))).astype(int)]
    triples = (
        f"label {dataset.labels[i]}: {dataset.ids[i]} = "
        f"{dataset.class_names[dataset.labels[i]]!r}"
        for i in chosen
    )
    if len(known):
        yield GOOD, "\n".join(["labels, images and class names", *triples])
    twice = [text for text, k in Counter(dataset.class_names).items() if k > 1]
    if twice:
        text = f"class names that occur twice ({', '.join(twice)}): their logits tie"
        yield NOTE, f"{text} and the second class of each pair can never win"
    codes = [t for t in dataset.class_names if WNID.fullmatch(t) or t.isdigit()]
    numbered = [t for t in dataset.class_names if re.match(r"\d+ ", t)]
    if len(numbered) > len(dataset.class_names) / 2:
        codes += numbered
    if codes:
        text = f"class names that are numbers or codes ({_some(codes, 3)}) say little"
        yield NOTE, f"{text} to CLIP: give names in classes.csv (columns folder,name)"


def _skipped(whole: Dataset, sample: Dataset) -> Findings:
    for reason in dict.fromkeys(why for _, why in whole.skipped):
        files = [file for file, why in whole.skipped if why == reason]
        mark = GOOD if reason == BESIDE else NOTE
        yield mark, f"left out, {reason}: {_some(files, LISTED)}"
    damaged = sample.skipped[len(whole.skipped) :]
    if damaged:
        shown = "\n".join(f"{file}: {reason}" for file, reason in damaged[:LISTED])
        rest = len(damaged) - LISTED
        more = f"\nand {rest} more" if rest > 0 else ""
        yield NOTE, f"left out, {len(damaged)} damaged files:\n{shown}{more}"
    elif whole.files:
        yield GOOD, f"all {len(sample):,} pictures can be decoded"


def contact_sheet(dataset: Dataset, path: Path) -> Path:
    """Write 40 pictures of as many classes as possible, names under them.

    A picture without a label has a "?".
    """
    import matplotlib

    tile, line, columns = 128, 20, 8
    font = ImageFont.truetype(
        f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 13
    )
    chosen = dataset.sample(40)
    order = np.argsort(chosen.labels, kind="stable")
    rows = math.ceil(len(chosen) / columns)
    sheet = Image.new("RGB", (columns * tile, rows * (tile + line)), "white")
    draw = ImageDraw.Draw(sheet)
    for cell, position in enumerate(order):
        x, y = cell % columns * tile, cell // columns * (tile + line)
        picture = chosen.image(position)
        is_small = max(picture.size) < tile
        method = Image.Resampling.NEAREST if is_small else Image.Resampling.BICUBIC
        side = (tile - 4, tile - 4)
        framed = ImageOps.pad(picture, side, method, "white", centering=(0.5, 1))
        sheet.paste(framed, (x + 2, y + 2))
        label = chosen.labels[position]
        name = "?" if label == UNKNOWN else chosen.class_names[label]
        while font.getlength(name) > tile - 6:
            name = name.rstrip("…")[:-1] + "…"
        draw.text((x + tile / 2, y + tile), name, "black", font, anchor="ma")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def check_weights(report: Report, backbone: str, weights: str) -> bool:
    """Report where the weights come from; returns whether this machine has them."""
    topic = f"{backbone}, {weights}"
    try:
        return _find_weights(report, topic, backbone, weights)
    except (ValueError, FileNotFoundError) as error:
        report.add(topic, BAD, str(error))
        return False


def _find_weights(report: Report, topic: str, backbone: str, weights: str) -> bool:
    import open_clip

    from helpers.models import clip, embedded
    from helpers.models import weights as files

    if backbone not in clip.names():
        raise ValueError(f"open_clip knows no model {backbone!r}")
    name = clip.with_quick_gelu(backbone, weights)
    if name != backbone:
        text = f"these weights need QuickGELU: {name} is used (write that)"
        report.add(topic, NOTE, text)
    if weights == "random":
        report.add(topic, NOTE, "untrained: every accuracy will be chance")
        return True
    if weights == embedded.TAG:
        report.add(topic, GOOD, f"embedded: {embedded.weights_file(name).name}")
        return True
    config = open_clip.get_pretrained_cfg(name, weights)
    if config:
        return _check_download(report, topic, config, weight_bytes(name))
    if nowhere := files.missing(weights):
        raise FileNotFoundError(nowhere)
    if not files.is_on_disk(weights):
        raise ValueError(files.accepted(clip.weight_choices(name), weights))
    found = files.check(weights, name)
    if found is None:
        size = _gigabytes(weight_bytes(name))
        report.add(topic, NOTE, f"not on this machine: the run downloads about {size}")
        return False
    size = found.path.stat().st_size / 1e6
    report.add(topic, GOOD, f"{found.kind}: {found.path}, {size:,.0f} MB")
    used = files.variant(name, found.quick_gelu)
    if used != name:
        report.add(topic, NOTE, f"these weights are those of {used}, which is used")
    return True


def check_models(report: Report, parameters: Mapping[str, Any]) -> None:
    """Report whether this machine has the models besides CLIP that chapters need."""
    needed_for = dict.fromkeys(optional.MODELS, "what needs it")
    for chapter in notebooks.chapters():
        needed_for |= chapter.optional
    for key, name in optional.wanted(parameters).items():
        lacking = optional.lacking(key, name)
        if not lacking:
            report.add(f"{key} {name}", GOOD, "on this machine")
            continue
        text = (
            f"{lacking}: without it the study leaves out {needed_for[key]}; the run or "
            f"`{optional.command(key, name)}` fetches it where there is a network"
        )
        report.add(f"{key} {name}", LEFT_OUT, text)


def check_world(report: Report) -> None:
    """Report whether the embedded world is drawn as it was when its CLIPs were trained.

    Pillow's rasteriser decides the last pixels, and its versions differ.
    """
    from helpers.models.embedded import card, names

    here = embedded.world_hash()
    for name in names():
        then = card(name)
        if then["world"] == here:
            report.add("picto", GOOD, f"drawn as {name} saw it in training ({here})")
            continue
        text = (
            f"drawn differently than when {name} was trained: accuracies may differ a "
        )
        text += f"little; `pip install pillow=={then['pillow']}` restores the pictures"
        report.add("picto", NOTE, text)


def _check_download(
    report: Report, topic: str, config: Mapping[str, Any], size: int
) -> bool:
    """Whether open_clip's download of these weights is in the cache it would use."""
    from helpers.models import hub

    page, found = hub.download(config)
    if found:
        report.add(topic, GOOD, f"downloaded: {found}")
    elif config.get("hf_hub") and (away := hub.out_of_reach()):
        text = f"not on this machine, and {away}: download them elsewhere from {page} "
        report.add(topic, BAD, f"{text}and give the file's path as `weights`")
    else:
        text = f"not on this machine: the run downloads about {_gigabytes(size)}"
        report.add(topic, NOTE, f"{text}, {page}")
    return bool(found)


def check_published(
    report: Report,
    name: str,
    dataset: Dataset,
    folder: Path,
    parameters: Mapping[str, Any],
) -> None:
    """Compare the study's zero-shot accuracy, if there is one, with the published."""
    from helpers.models import clip
    from helpers.results import predictions, published

    if parameters["weights"] == "random":
        return
    backbone = clip.with_quick_gelu(parameters["backbone"], parameters["weights"])
    ledger = predictions.ledger_path(folder, dataset.name, backbone, LEDGER)
    rows = published.lookup(name, backbone)
    rows = rows[rows["method"].str.startswith("CLIP zero-shot")]
    if parameters["weights"] != "openai":
        rows = rows.iloc[:0]  # what is published holds for OpenAI's weights
    topic = f"{dataset.name}, zero-shot"
    if not ledger.is_file():
        for row in rows.itertuples():
            report.add(topic, GOOD, f"expect {row.top1:.2%} ({row.source})")
        return
    frame = predictions.read(ledger, with_logits=False)
    frame = frame[frame["label"] != UNKNOWN]
    if frame.empty:
        return
    top1 = float((frame["prediction"] == frame["label"]).mean())
    mark, text = judge(
        top1,
        n=len(frame),
        full=data.describe(name).images,
        classes=frame.attrs["classes"],
        published=dict(zip(rows["source"], rows["top1"], strict=True)),
    )
    report.add(topic, mark, text)


def judge(
    top1: float, n: int, full: int, classes: int, published: Mapping[str, float]
) -> tuple[str, str]:
    """(mark, text) of a zero-shot accuracy on `n` of `full` images.

    `published`: source -> accuracy of the same pair. On a part of the set, twice the
    standard error is allowed on top of 0.5 points.
    """
    text = f"{top1:.2%} on {n:,} images"
    if top1 < 1.5 / classes and not published:
        return NOTE, f"{text} is chance (1 in {classes}): look at the labels"
    if not published:
        return GOOD, f"{text}; nothing published to compare with"
    source, nearest = min(published.items(), key=lambda item: abs(item[1] - top1))
    if top1 < nearest / 10:
        return BAD, (
            f"{text}, published {nearest:.2%}: the labels are shifted against the "
            "class names. Known causes: folders sorted as strings (ImageNet-V2, about "
            "1%), the rank among 200 folders used with 1000 names (ImageNet-A and -R, "
            "0.5%), folders of another set, weights that were never loaded"
        )
    error = 0.0 if n == full else 2 * math.sqrt(nearest * (1 - nearest) / n)
    gap = top1 - nearest
    text += f", published {nearest:.2%} ({source}), difference {100 * gap:+.2f} points"
    if abs(gap) <= TOLERANCE + error:
        return GOOD, text
    if gap > 0:
        cause = (
            "a prompt ensemble instead of the single prompt gains 1.4 to 4.6 points; "
            "so does an easier part of the set"
        )
    elif gap > -0.03:
        cause = (
            "class names that are not the curated ones cost 1 to 2 points, a missing "
            "full stop or a resize without antialiasing some tenths"
        )
    else:
        cause = (
            "OpenAI's weights without QuickGELU, weights of another model, or "
            "some folders of another class order"
        )
    return NOTE, f"{text}. Known causes: {cause}"


def _some(texts: Sequence[str], limit: int) -> str:
    rest = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {rest:,} more" if rest > 0 else "")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
