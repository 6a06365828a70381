"""The behaviour card of a CLIP: what it does before any method adapts it.

Whether a method of test-time adaptation can gain depends on properties of the CLIP: how
sharp its softmax is, what a step of the context moves, what survives a crop. The card
measures these with the user's own or with development pictures. No method's gain is
among them and no label of a test set is read, so that a CLIP may be chosen by its card.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur, pil_to_tensor

from helpers import data, paths
from helpers.data.dataset import Dataset
from helpers.methods import tpt
from helpers.models import behaviour
from helpers.models.clip import Backbone
from helpers.models.prompts import AT_ONCE, PromptTower
from helpers.models.visual import ImageTower
from helpers.prompts.templates import TEMPLATES
from helpers.results import metrics, published
from helpers.store.views import draw
from helpers.views import image_seed
from helpers.views.crop_flip import random_box
from helpers.views.strong import strong

CONTEXT = "a photo of a"  # where TPT starts
PHOTO, SKETCH = "a photo of a {}.", "a sketch of a {}."
WORDINGS = TEMPLATES["openai_80"][::4]  # 20, spread over all of them
UNKNOWN_TOKENS = (0, 1, 4, 16, 50)
BLUR = 1 / 64  # sigma by the picture's width
OPEN_LABELS = ("picto-dev", "picto-few-shot", "folder")  # no test sets
BATCH = 64  # pictures in the image tower at once
NO_LABELS = "left out: needs labels"
UNPUBLISHED = "not published"  # a run on the real weights fills it in

View = Callable[[Backbone, Image.Image, np.random.Generator], Tensor]


def _centre(area: float) -> View:
    def view(backbone: Backbone, image: Image.Image, _) -> Tensor:
        side = math.sqrt(area)
        left, top = (round(n * (1 - side) / 2) for n in image.size)
        return backbone.crop(
            image.crop((left, top, image.width - left, image.height - top))
        )

    return view


def _random(area: float) -> View:
    def view(backbone: Backbone, image: Image.Image, generator) -> Tensor:
        left, top, width, height = random_box(*image.size, generator, (area, area))
        box = (left, top, left + width, top + height)
        size = (backbone.image_size, backbone.image_size)
        return pil_to_tensor(image.resize(size, Resampling.BILINEAR, box))

    return view


def _strong(backbone: Backbone, image: Image.Image, generator) -> Tensor:
    return strong(image, backbone.image_size, generator)


def _blurred(backbone: Backbone, image: Image.Image, _) -> Tensor:
    sigma = BLUR * backbone.image_size
    return gaussian_blur(backbone.crop(image), 2 * math.ceil(3 * sigma) + 1, sigma)


CHANGES: dict[str, View] = {
    "centre crop, area 0.5": _centre(0.5),
    "centre crop, area 0.25": _centre(0.25),
    "random crop, area 0.5": _random(0.5),
    "random crop, area 0.25": _random(0.25),
    "strong view": _strong,
    "blur": _blurred,
}


class _Rows:
    """The rows of a card as they are measured."""

    def __init__(self) -> None:
        self.rows = []

    def add(self, measure, value, unit, n, of, **more) -> None:
        row = {"measure": measure, "value": float(value), "unit": unit, "n": n}
        self.rows.append(row | {"of": of, "note": ""} | more)

    def share(self, measure: str, correct: Tensor | np.ndarray | None) -> None:
        """A share of images, its interval; `correct`: bool [N], None if unlabelled."""
        if correct is None:
            return self.left_out("share", NO_LABELS, measure)
        correct = metrics.as_array(correct)
        low, high = metrics.bootstrap_interval(correct)
        interval = {"ci_low": low, "ci_high": high}
        self.add(measure, correct.mean(), "share", len(correct), "images", **interval)

    def compared(self, change: str, logits: Tensor, whole: Tensor, labels) -> None:
        """Shares of changed pictures [N, C] that agree with the whole and are right."""
        choices = logits.argmax(dim=1)
        self.share(f"agreement, {change}", choices == whole)
        self.share(f"accuracy, {change}", None if labels is None else choices == labels)

    def left_out(self, unit: str, why: str, *measures: str) -> None:
        for measure in measures:
            self.add(measure, math.nan, unit, 0, "", note=why)


def card(
    backbone: Backbone,
    dataset: Dataset,
    labelled: bool = True,
    images: int = 400,
    views: int = 64,
    seed: int = 0,
) -> pd.DataFrame:
    """The behaviour card: a row per measure.

    Columns: measure, value (shares as fractions), unit, n and what the n are (`of`),
    ci_low and ci_high (95 %, of shares of images), note (why a value is missing).

    `images`: the most images for each measure, 0 for all; memory holds them. Where the
    data set's facts name parts, as picto-dev's do, measures in distribution take
    "photo", TPT's step takes "hard", the right word takes "sketch"; elsewhere the first
    two take any image.
    `labelled=False` reads no label. `views`: of each image for TPT's step, at least 10.
    """
    if not labelled:
        dataset = replace(dataset, labels=np.zeros_like(dataset.labels))
    home, hard, sketches = (
        _part(dataset, name, images, seed) for name in ("photo", "hard", "sketch")
    )
    rows = _Rows()
    rows.add("logit scale", backbone.logit_scale, "", 1, "model")
    names = dataset.class_names
    wordings = backbone.template_features(names, [PHOTO, SKETCH, *WORDINGS]).cpu()
    pixels = _stacked(backbone.crop(image) for image in _pictures(home))
    features = _encode(backbone, pixels)
    labels = torch.from_numpy(home.labels) if labelled else None
    length, of = _length(backbone, pixels), len(pixels)
    rows.add("length of image features", length, "", of, "images")
    _geometry(rows, features, wordings[0], labels)
    _confidence(rows, backbone.logit_scale * features @ wordings[0].T, labels)
    _wordings(rows, features, wordings[2:], labels)
    _right_word(rows, backbone, sketches, wordings, labelled)
    _step(rows, backbone, hard, views, seed)
    _changes(rows, backbone, home, features, wordings[0], labels, seed)
    _unknown_tokens(rows, backbone, pixels, wordings[0], labels, seed)
    _attention(rows, backbone, names)
    columns = ["measure", "value", "unit", "n", "of", "ci_low", "ci_high", "note"]
    return pd.DataFrame(rows.rows).reindex(columns=columns)


def beside_published(cards: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Cards by backbone, as text, beside what is published of OpenAI's CLIPs.

    Columns: measure, n, a column for each backbone, published.
    """
    first = next(iter(cards.values()))
    order = [m for m in first["measure"] if ", layer " not in m]
    table = {"measure": order, "n": [_sized(cards, measure) for measure in order]}
    for name, found in cards.items():
        by_measure = found.set_index("measure")
        table[name] = [_shown(by_measure.loc[measure]) for measure in order]
    known = published.behaviour()
    table["published"] = [known.get(measure, UNPUBLISHED) for measure in order]
    return pd.DataFrame(table)


def read(
    name: str, data_root: str = "", class_names: Sequence[str] = ()
) -> tuple[Dataset, bool]:
    """A data set by its name or a folder's path, and whether its labels may be read.

    Labels of test sets may not, nor those of a folder that lacks some. `class_names`
    as in `data.read`.
    """
    if name not in data.names() and paths.from_here(name).is_dir():
        name, data_root = "folder", str(paths.from_here(name))
    dataset = data.read(name, data_root, class_names)
    return dataset, name in OPEN_LABELS and bool(dataset.labelled.all())


def _part(dataset: Dataset, name: str, images: int, seed: int) -> Dataset | None:
    """At most `images` of a part, or of all images where the data set has no parts.

    None for sketches of a data set without parts.
    """
    if dataset.facts is not None and "part" in dataset.facts:
        chosen = np.flatnonzero(dataset.facts["part"] == name)
        return dataset.subset(chosen).sample(images, seed)
    return None if name == "sketch" else data.readable(dataset.sample(images, seed))


def _pictures(dataset: Dataset):
    return map(dataset.image, range(len(dataset)))


def _stacked(pictures) -> Tensor:
    return torch.stack(list(pictures))


def _encode(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Unit features [N, D] on the CPU of uint8 [N, 3, S, S]."""
    parts = (part.to(backbone.device) for part in pixels.split(BATCH))
    encoded = (backbone.encode_images(backbone.normalise(part)) for part in parts)
    return torch.cat([features.cpu() for features in encoded])


@torch.no_grad()
def _length(backbone: Backbone, pixels: Tensor) -> float:
    """Mean length of features that are not normalised, of uint8 [N, 3, S, S]."""
    encode, total = backbone.model.encode_image, 0.0
    for part in pixels.split(BATCH):
        with backbone.autocast():
            found = encode(backbone.normalise(part.to(backbone.device)))
        total += found.float().norm(dim=-1).sum().item()
    return total / len(pixels)


def _correct(features: Tensor, classes: Tensor, labels: Tensor | None) -> Tensor | None:
    return None if labels is None else (features @ classes.T).argmax(dim=1) == labels


def _geometry(rows: _Rows, features: Tensor, classes: Tensor, labels) -> None:
    distance, cosine = behaviour.modality_gap(features, classes)
    size = len(features), "images"
    rows.add("modality gap: distance of means", distance, "distance", *size)
    rows.add("modality gap: cosine of means", cosine, "cosine", *size)
    if labels is None:
        rows.left_out("cosine", NO_LABELS, "cosine of matching pairs")
    else:
        matching = (features * classes[labels]).sum(dim=1).mean()
        rows.add("cosine of matching pairs", matching, "cosine", *size)
    pairs = behaviour.pair_cosines(classes)
    size = len(pairs), "pairs of classes"
    rows.add("cosine of two class features, mean", pairs.mean(), "cosine", *size)
    rows.add("cosine of two class features, largest", pairs.max(), "cosine", *size)


def _confidence(rows: _Rows, logits: Tensor, labels: Tensor | None) -> None:
    confidence = logits.softmax(dim=1).amax(dim=1).mean()
    entropy = metrics.entropy(logits).mean()
    rows.add("confidence, mean", confidence, "share", len(logits), "images")
    rows.add("entropy, mean", entropy, "nats", len(logits), "images")
    correct = None if labels is None else logits.argmax(dim=1) == labels
    rows.share("accuracy, whole picture", correct)
    if labels is None:
        rows.left_out("share", NO_LABELS, "calibration error (ECE)")
    else:
        ece = metrics.expected_calibration_error(logits, labels)
        rows.add("calibration error (ECE)", ece, "share", len(logits), "images")


def _wordings(rows: _Rows, features: Tensor, wordings: Tensor, labels) -> None:
    """Accuracies of single templates, `wordings` [K, C, D]."""
    found = []
    if labels is not None:
        found = [_correct(features, w, labels).float().mean().item() for w in wordings]
    for measure, of in (("lowest", min), ("median", np.median), ("highest", max)):
        name = f"accuracy over {len(wordings)} wordings, {measure}"
        if labels is None:
            rows.left_out("share", NO_LABELS, name)
        else:
            rows.add(name, of(found), "share", len(features), "images")


def _right_word(
    rows: _Rows, backbone: Backbone, sketches, wordings: Tensor, labelled: bool
) -> None:
    measure = 'gain from "sketch" on sketches'
    if sketches is None or not labelled:
        return rows.left_out("points", "left out: needs labelled sketches", measure)
    pixels = _stacked(backbone.crop(image) for image in _pictures(sketches))
    features, labels = _encode(backbone, pixels), torch.from_numpy(sketches.labels)
    photo, sketch = (_correct(features, w, labels).float().mean() for w in wordings[:2])
    rows.add(measure, 100 * (sketch - photo), "points", len(labels), "images")


def _step(rows: _Rows, backbone: Backbone, dataset: Dataset, count: int, seed) -> None:
    """What TPT's published first step moves, without asking whether it helps."""
    common, changed = "TPT's step: movement in common", "TPT's step: predictions moved"
    n = len(dataset)
    try:
        tower = PromptTower(backbone, dataset.class_names, CONTEXT)
    except ValueError as refusal:  # a text tower of another kind
        return rows.left_out("share", f"left out: {refusal}", common, changed)
    drawn = (
        draw(backbone, image, image_id, "preaugment", count, seed)
        for image, image_id in zip(_pictures(dataset), dataset.ids, strict=True)
    )
    seen = _stacked(_encode(backbone, views) for views in drawn).to(backbone.device)
    scale, start = backbone.logit_scale, tower.context
    tuned = tpt.tune(seen, tower.features, scale, start, batch=AT_ONCE).context
    with torch.no_grad():
        classes = tower.features(start)
    before = (seen[:, 0] @ classes.T).argmax(dim=1)
    shares, after = [], []
    pairs = zip(seen[:, 0].split(AT_ONCE), tuned.split(AT_ONCE), strict=True)
    for original, contexts in pairs:
        with torch.no_grad():
            moved = tower.features(contexts)
        shares.append(behaviour.common_share(moved - classes))
        after.append((moved @ original[..., None])[..., 0].argmax(dim=1))
    rows.add(common, torch.cat(shares).mean(), "share", n, "images")
    rows.share(changed, torch.cat(after) != before)


def _changes(
    rows: _Rows, backbone: Backbone, dataset: Dataset, features, classes, labels, seed
) -> None:
    whole = (features @ classes.T).argmax(dim=1)
    for name, change in CHANGES.items():
        seeds = [image_seed(seed, name) for name in dataset.ids]
        pixels = _stacked(
            change(backbone, image, np.random.default_rng(number))
            for image, number in zip(_pictures(dataset), seeds, strict=True)
        )
        rows.compared(name, _encode(backbone, pixels) @ classes.T, whole, labels)


def _unknown_tokens(
    rows: _Rows, backbone: Backbone, pixels: Tensor, classes, labels, seed
) -> None:
    """Add random tokens to the patches, drawn as LaFTer's prompts start."""
    for count in UNKNOWN_TOKENS:
        name = f"{count} unknown token{'' if count == 1 else 's'}"
        try:
            tower = ImageTower(backbone, prompts=count, seed=seed)
        except ValueError:
            why = "left out: no ViT of CLIP's kind"
            rows.left_out("share", why, f"agreement, {name}", f"accuracy, {name}")
            continue
        with torch.no_grad():
            found = torch.cat([tower(part).cpu() for part in pixels.split(BATCH)])
        logits = found @ classes.T
        if not count:
            whole = logits.argmax(dim=1)
        rows.compared(name, logits, whole, labels)


def _attention(rows: _Rows, backbone: Backbone, class_names: Sequence[str]) -> None:
    """The end token's attention to context and class name."""
    measures = {
        part: f"end token's attention to {part}" for part in ("context", "name")
    }
    try:
        found = behaviour.end_attention(backbone, class_names)
    except ValueError as refusal:
        return rows.left_out("share", f"left out: {refusal}", *measures.values())
    for part, measure in measures.items():
        shares, size = found[:, behaviour.PARTS.index(part)], len(class_names)
        rows.add(measure, shares.mean(), "share", size, "classes")
        for layer, value in enumerate(shares.tolist(), start=1):
            rows.add(f"{measure}, layer {layer}", value, "share", size, "classes")


def _shown(row: pd.Series) -> str:
    if row["note"]:
        return row["note"]
    if row["unit"] == "share":
        return f"{row['value']:.1%}"
    return f"{row['value']:.3g} {row['unit']}".strip()


def _sized(cards: dict[str, pd.DataFrame], measure: str) -> str:
    """The sample's size and unit, from the first card that has the measure."""
    rows = pd.concat(cards.values()).query("measure == @measure and n > 0")
    return f"{rows['n'].iloc[0]:,} {rows['of'].iloc[0]}" if len(rows) else ""
