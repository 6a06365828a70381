"""How many images a second the methods with a memory classify, encoding left out.

    python tests/benchmarks/streams.py

Random unit features about their classes, in the sizes of the embedded study (64
classes, width 128) and of ImageNet-A with ViT-B/16 (200 classes, width 512), in one
stream and in ten orders run together. TDA's loop is its authors' way, lists of each
class and one image after the other, on the same images in the same run; "x" says how
many times as fast a method is. Times are this process's processor seconds, so that
other programs on the machine do not count; with several threads they are their sum.
"""

import math
import time
from collections.abc import Callable
from operator import itemgetter

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods import memory, registry

SIZES = [(64, 128, 2000), (200, 512, 500)]  # classes, width, images
VIEWS = 32
ORDERS = 10
SCALE = 50.0


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def update(lists: dict, label: int, item: list, capacity: int) -> None:
    kept = lists.setdefault(label, [])
    if len(kept) < capacity:
        kept.append(item)
    elif item[1] < kept[-1][1]:
        kept[-1] = item
    lists[label] = sorted(kept, key=itemgetter(1))


def cache_logits(x: Tensor, lists: dict, alpha: float, beta: float, count: int):
    items = [(label, item) for label in sorted(lists) for item in lists[label]]
    keys = torch.cat([item[0] for _, item in items])
    if len(items[0][1]) == 3:
        values = torch.cat([item[2] for _, item in items])
        values = ((values > 0.03) & (values < 1)).float()
    else:
        labels = torch.tensor([label for label, _ in items])
        values = F.one_hot(labels, count).float()
    return alpha * (-(beta - beta * (x @ keys.T))).exp() @ values


def tda_loop(features: Tensor, class_features: Tensor) -> Tensor:
    """Logits [T, C] of features [T, D], image after image."""
    positive, negative, made = {}, {}, []
    count = len(class_features)
    for x in features.split(1):
        logits = SCALE * x @ class_features.T
        p = logits.softmax(dim=1)
        loss = -(p * logits.log_softmax(dim=1)).sum(dim=1)
        label, share = int(logits.argmax()), float(loss / math.log2(count))
        update(positive, label, [x, loss], 3)
        if 0.2 < share < 0.5:
            update(negative, label, [x, loss, p], 2)
        final = logits + cache_logits(x, positive, 2.0, 5.0, count)
        if negative:
            final = final - cache_logits(x, negative, 0.117, 1.0, count)
        made.append(final)
    return torch.cat(made)


def streams(classes: int, width: int, images: int, orders: int):
    """Unit features [O, T, D] about unit class features [C, D]."""
    class_features = F.normalize(torch.randn(classes, width), dim=-1)
    at = torch.randint(classes, (orders, images))
    noise = 1.4 * torch.randn(orders, images, width) / math.sqrt(width)
    return F.normalize(class_features[at] + noise, dim=-1), class_features


@torch.inference_mode()
def measure(classes: int, width: int, images: int, rounds: int = 3) -> None:
    """Print images per second of every method at one size."""
    features, class_features = streams(classes, width, images, ORDERS)
    loop = min(
        seconds(lambda: tda_loop(features[0], class_features)) for _ in range(rounds)
    )
    print(f"{classes} classes, width {width}: TDA's loop {images / loop:.0f} images/s")
    for name, module in memory.ONLINE.items():
        rates, weight = [], 0
        for orders in (1, ORDERS):
            part = features[:orders]
            if name in memory.OF_VIEWS:
                part = part[:, : images // 10, None]
                noise = torch.randn(*part.shape[:2], VIEWS, width) / math.sqrt(width)
                part = F.normalize(part + 0.5 * noise, dim=-1)
            state = module.start(class_features, SCALE, orders=orders)
            weight = weight or memory.state_bytes(module.step(state, part)[0])

            def call(module=module, state=state, part=part) -> object:
                return module.step(state, part)

            spent = min(seconds(call) for _ in range(rounds))
            rates.append(part.shape[0] * part.shape[1] / spent)
        print(
            f"  {registry.find(name).name:13s} {rates[0]:8.0f} images/s in one stream "
            f"({rates[0] * loop / images:5.1f} x), {rates[1]:8.0f} in {ORDERS} orders, "
            f"{weight / 2**20:6.2f} MiB a stream"
        )
    for name, module in memory.TRANSDUCTIVE.items():

        def predict(module=module) -> object:
            return module.predict(features[0], class_features, SCALE)

        spent = min(seconds(predict) for _ in range(rounds))
        told = registry.find(name).name
        print(f"  {told:13s} {images / spent:8.0f} images/s as one set")


if __name__ == "__main__":
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for size in SIZES:
        measure(*size)
