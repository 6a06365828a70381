"""Self-training as chapters 05 and 05b run it: halves of data sets, trainings, ledgers.

It connects data sets, pools of images, the training loop of `helpers.methods`, the
store and the ledgers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd
import psutil
import torch
from torch import Tensor, nn

from helpers import parallel, store
from helpers.chapters.notebook import Run
from helpers.data.dataset import Dataset
from helpers.data.pool import Pool, held_out, pool, protocol, twins
from helpers.keys import folder
from helpers.methods import coop, training, upl
from helpers.models.clip import Backbone
from helpers.models.prompts import PromptTower
from helpers.progress import track
from helpers.results import predictions
from helpers.results.protocol import gained, macro
from helpers.results.synthesis import key_of
from helpers.store.checkpoints import Checkpoint
from helpers.store.timing import fastest
from helpers.store.views import draw
from helpers.views.strong import strong

TIMED = 64  # images, at most, on which a model is timed
VERSION = 1  # of what training computes: raise it, and kept runs are made anew


@dataclass(frozen=True, eq=False)
class Halves:
    """What training may see of a data set, and what is tested."""

    seen: Dataset  # its labels are for diagnosis alone
    test: Dataset
    pool: Pool  # the pictures of `seen`
    tested: Pool  # the pictures of `test`
    protocol: str  # "inductive": they share no picture
    twins: Mapping[str, str] = field(default_factory=dict)  # left out of the pool

    @property
    def name(self) -> str:
        """The data set that is tested."""
        return self.test.name


def halves(
    backbone: Backbone,
    dataset: Dataset,
    unlabelled: Dataset | None = None,
    pool_images: int = 0,
    test_images: int = 0,
    seed: int = 0,
    transductive: bool = False,
) -> Halves:
    """Choose training and test images by the hash of their ids, without their labels.

    Args:
        unlabelled: training images; by default the half that is not tested. If it has
            images of `dataset`, half of `dataset` is tested, too, otherwise all of it.
        pool_images: training images at most, 0 for all.
        test_images: test images at most, 0 for the half, or for all.
        transductive: train on the whole data set, test images included.

    Returns:
        The halves. Training images that equal a test image are left out of the pool;
        `twins` names them with the id of the test image. If no training image is left,
        as with a single image, the test images are the pool, and `protocol` says so.
    """
    share = min(0.5, test_images / len(dataset)) if test_images else 0.5
    cut = held_out(dataset.ids, share, seed) if len(dataset) > 1 else ([0], [0])
    seen, test = (dataset.subset(rows) for rows in cut)
    seen = dataset if transductive else seen
    if unlabelled is not None:
        apart = set(unlabelled.ids).isdisjoint(dataset.ids)
        seen, test = unlabelled, few(dataset, test_images, seed) if apart else test
    seen = few(seen, pool_images, seed)
    crops = partial(pool, crop=backbone.crop, size=backbone.image_size, strong=strong)
    both = [crops(part) for part in (seen, test)]
    same = {} if transductive else twins(*both)
    if len(same) == len(seen):
        seen, both[0] = test, both[1]
    elif same:
        seen = seen.subset([i for i, name in enumerate(seen.ids) if name not in same])
        both[0] = crops(seen)
    return Halves(seen, test, *both, protocol(*both, transductive=True), same)


def few(dataset: Dataset, count: int, seed: int = 0) -> Dataset:
    """`count` images by the hash of their ids, without labels; 0 for all."""
    if count == 0 or count >= len(dataset):
        return dataset
    return dataset.subset(held_out(dataset.ids, count / len(dataset), seed)[1])


def kept(
    backbone: Backbone, method: str, seen: Pool, *tensors: Tensor, **settings: object
) -> dict[str, Any]:
    """Keyword arguments of a training whose checkpoint is kept in the store.

    `tensors` and `settings` are the inputs besides backbone and pool: the checkpoint's
    key is made of all of them.
    """
    made_by = VERSION, method, backbone.key, seen.key, tensors, settings
    return {"checkpoint": Checkpoint(folder("trained", *made_by)), "free": free_bytes}


def upl_trainings(
    backbone: Backbone,
    cut: Halves,
    zero_shot_logits: Tensor,
    looks: tuple[str, int, int],
    epochs: int,
    seeds: int,
) -> list[Callable[[], training.Trained]]:
    """Functions that train UPL on the pool, one for each seed.

    Args:
        zero_shot_logits: [N, C] of the pool's images.
        looks: recipe of the views, views per image, and the seed of the views and of
            the first training. The original image is not trained on.
    """
    rows = upl.confident_images(zero_shot_logits)
    images, logits = cut.seen.subset(rows.tolist()), zero_shot_logits[rows]
    views = store.view_features(backbone, images, *looks)[:, 1:].to(logits.device)
    tower = PromptTower(backbone, cut.seen.class_names, upl.TOKENS)
    trainings = []
    for seed in range(looks[-1], looks[-1] + seeds):
        start = coop.random_start(*tower.context.shape, seed).to(logits.device)
        used = {"epochs": epochs, "seed": seed}
        made_by = views, logits, start
        names = list(tower.class_names)
        how = used | kept(backbone, "upl", cut.pool, *made_by, names=names, **used)
        side = tower.features, backbone.logit_scale, start
        trainings.append(partial(upl.upl, views, logits, *side, **how))
    return trainings


def free_bytes(device: torch.device) -> float:
    """Free memory of a device in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def side_by_side(
    trainings: Sequence[Callable[[], training.Trained]], label: str
) -> list[training.Trained]:
    """The results of independent trainings, in their order.

    Each training is a `functools.partial` with its own keyword `checkpoint`. With
    workers (`helpers.parallel`), each worker runs one training and returns its last
    state, from which the training is completed here. All trainings and their pools are
    shipped to every worker.
    """
    if not parallel.active():
        return [call() for call in track(trainings, label=label)]
    checkpoints = [call.keywords["checkpoint"] for call in trainings]

    def work(span: range) -> dict[str, Any]:
        trainings[span.start]()
        return checkpoints[span.start].load()

    spans = [range(i, i + 1) for i in range(len(trainings))]
    for span, state in parallel.spread(work, spans, label):
        checkpoints[span.start].save(state)
    return [call() for call in trainings]


def continued(
    short: Callable[[], training.Trained], long: Callable[[], training.Trained]
) -> training.Trained:
    """The result of `long`, which begins with the epochs of `short`.

    Both are trainings as in `side_by_side`, alike but for `epochs`, and no epoch
    depends on their number. `short` is trained first, and kept.
    """
    fewer, more = (call.keywords["checkpoint"] for call in (short, long))
    if more.load() is None and short.keywords["epochs"] <= long.keywords["epochs"]:
        short()
        more.save(fewer.load())
    return long()


def accuracy(logits: Tensor, labels: Sequence[int]) -> float:
    """Top-1 accuracy of logits [N, C]."""
    chosen = logits.argmax(dim=-1).cpu()
    return (chosen == torch.tensor(labels)).double().mean().item()


def watch(images: Tensor, labels: Sequence[int]) -> Callable[[nn.Module], dict]:
    """A training's `evaluate`: logs `top1` on these images, which do not train."""
    return lambda model: {"top1": accuracy(training.logits(model, images), labels)}


def label_accuracy(trained: training.Trained, labels: Sequence[int]) -> list[float]:
    """The share of correct pseudo-labels in each epoch."""
    given, labels = trained.labels, torch.tensor(labels)
    taught = given != training.NO_LABEL
    right = ((given == labels) & taught).sum(dim=1) / taught.sum(dim=1)
    return right.tolist()


def timed(model: nn.Module, inputs: Tensor) -> tuple[Tensor, float]:
    """Logits [N, C] of a trained model on the CPU, and its seconds per image.

    `inputs` are images or features; to make these is not in the seconds.
    """
    few = inputs[:TIMED]
    seconds = fastest(lambda: training.logits(model, few).cpu()) / len(few)
    return training.logits(model, inputs).cpu(), seconds


def tested(model: nn.Module, backbone: Backbone, cut: Halves) -> tuple[Tensor, float]:
    """`timed` of a trained image tower on the tested images, with reading in it."""
    logits, seconds = timed(model, cut.tested.images)
    return logits, seconds + store.read_seconds_per_image(backbone, cut.test)


def training_seconds(log: pd.DataFrame) -> float:
    """What a training takes: its fastest epoch, times the number of its epochs."""
    return float(len(log) * log["seconds"].min())


def drawn(
    backbone: Backbone, dataset: Dataset, recipe: str, count: int, seed: int
) -> Iterator[Tensor]:
    """The views of each image, uint8 [V, 3, S, S], equal to those of the store."""
    for i, image_id in enumerate(dataset.ids):
        yield draw(backbone, dataset.image(i), image_id, recipe, count, seed)


def record(
    run: Run,
    backbone: Backbone,
    method: str,
    cut: Halves,
    logits: Tensor,
    seconds: float = 0.0,
    settings: Mapping[str, object] | None = None,
    seed: int | None = None,
) -> pd.DataFrame:
    """Write a method's ledger on the test half; returns it without logits.

    `seed` is that of training, by default the run's. The settings also contain the
    protocol and the number of training images.
    """
    used = {"protocol": cut.protocol, "pool_images": len(cut.seen), **(settings or {})}
    run = run if seed is None else replace(run, seed=seed)
    ledger = run.predictions(method, cut.test, backbone, logits, seconds, used)
    return ledger.drop(columns="logits")


def earlier(
    run: Run, backbone: Backbone, cut: Halves, methods: Sequence[str]
) -> list[pd.DataFrame]:
    """The ledgers of these methods that an earlier chapter wrote on the same halves.

    Without logits. Ledgers of other test images or pools, and missing ones, are left
    out.
    """
    found = []
    for method in methods:
        about = run.folder, cut.name, backbone.name, method, run.seed
        path = predictions.ledger_path(*about)
        if not path.is_file():
            continue
        ledger = predictions.read(path, with_logits=False)
        used = ledger.attrs["settings"]
        same = used["protocol"], used["pool_images"], tuple(ledger["image_id"])
        if same == (cut.protocol, len(cut.seen), cut.test.ids):
            found.append(ledger)
    return found


def mean_gain(
    ledgers: Sequence[pd.DataFrame], method: str, over: str
) -> dict[str, float]:
    """`protocol.macro` of a method's gain over another: the mean over data sets."""
    scores = {}
    for ledger in ledgers:
        hit = ledger["prediction"] == ledger["label"]
        scores[key_of(ledger)] = ledger.assign(hit=hit).set_index("image_id")
    backbones = list(dict.fromkeys(key.backbone for key in scores))
    return macro(list(gained(scores, backbones, method, [over]).values()))
