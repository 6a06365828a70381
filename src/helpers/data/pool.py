"""The unlabelled pool: the images that self-training sees.

A pool has no labels, so that no method can read one. Two protocols:

    inductive     pool and test set share no image; `held_out` splits a data set that
                  has no training split by the hash of its ids, the same on any machine
    transductive  pool and test set overlap: training saw test images, without labels

LaFTer's code (arXiv 2305.18287) trains on a random 80 % of ImageNet-A and -Sketch and
tests on the rest, but tests on all of ImageNet-R, training images included.
"""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from helpers.data.dataset import Dataset
from helpers.keys import key

KEPT_PIXELS = 2**28  # decoded pictures that stay in memory: 1.1 GB


@dataclass(frozen=True, eq=False)
class Pool:
    """Unlabelled images as a backbone sees them, and strong views of each.

    `images` is uint8 [N, 3, S, S]; `strong(i, generator)` draws a view of image i,
    uint8 [3, S, S].
    """

    ids: tuple[str, ...]
    images: Tensor
    strong: Callable[[int, np.random.Generator], Tensor]

    def __post_init__(self) -> None:
        shape = [*self.images.shape]
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
            raise ValueError(
                f"images {self.images.dtype} {shape}: need torch.uint8 [N, 3, S, S]"
            )
        if len(self.ids) != len(self.images) or not len(self.ids):
            raise ValueError(f"{len(self.ids)} ids for {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def key(self) -> str:
        """A short hash of ids and pixels, in this order."""
        return key(self.ids, self.images)

    def views(self, rows: Tensor, epoch: int, seed: int) -> Tensor:
        """Draw a strong view of each of the images at `rows`: uint8 [B, 3, S, S].

        A view's generator depends on seed, epoch and image id alone.
        """
        drawn = []
        for i in rows.tolist():
            number = zlib.crc32(self.ids[i].encode())
            generator = np.random.default_rng([seed, epoch, number])
            drawn.append(self.strong(i, generator))
        return torch.stack(drawn)


def pool(
    dataset: Dataset,
    crop: Callable[[Image], Tensor],
    size: int,
    strong: Callable[[Image, int, np.random.Generator], Tensor],
) -> Pool:
    """The pictures of a data set as a pool; its labels stay behind.

    `crop` and `size` are a backbone's `crop` and `image_size`; `strong` draws a view
    of a full picture, as `views.strong.strong` does. Once a view was asked for, its
    picture stays decoded in memory where pictures are few or small; the others are
    read anew each time.
    """
    images = torch.empty((len(dataset), 3, size, size), dtype=torch.uint8)
    for i, image in enumerate(map(dataset.image, range(len(dataset)))):
        images[i] = crop(image)
    kept: dict[int, Image] = {}
    room = KEPT_PIXELS

    def view(i: int, generator: np.random.Generator) -> Tensor:
        nonlocal room
        image = kept[i] if i in kept else dataset.image(i)
        if i not in kept and image.width * image.height <= room:
            kept[i] = image
            room -= image.width * image.height
        return strong(image, size, generator)

    return Pool(dataset.ids, images, view)


def held_out(
    ids: Sequence[str], share: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into a pool and a test set, both int64 and ascending.

    The test set has the given share. Where an image goes depends on its id and the
    seed, not on the order of `ids`. Raises ValueError if a part would be empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"share {share} of the images held out: between 0 and 1")
    count = round(share * len(ids))
    if not 0 < count < len(ids):
        raise ValueError(f"{share} of {len(ids)} images leaves a part empty")
    digests = [hashlib.sha256(f"{seed}:{i}".encode()).digest() for i in ids]
    order = np.array(sorted(range(len(ids)), key=digests.__getitem__))
    return np.sort(order[count:]), np.sort(order[:count])


def twins(pool: Pool, test: Pool) -> dict[str, str]:
    """Map the ids of pool images that are also in the test set to their ids there.

    Images are the same if their ids or their pixels are.
    """
    tested = {key(image): i for i, image in zip(test.ids, test.images, strict=True)}
    own = {*test.ids}
    found = {}
    for name, image in zip(pool.ids, pool.images, strict=True):
        twin = name if name in own else tested.get(key(image))
        if twin is not None:
            found[name] = twin
    return found


def protocol(pool: Pool, test: Pool, transductive: bool = False) -> str:
    """Return "inductive" or "transductive".

    Raises ValueError if pool and test set share images, by id or by pixels, unless
    `transductive` allows it.
    """
    shared = list(twins(test, pool))
    if not shared:
        return "inductive"
    if not transductive:
        raise ValueError(
            f"{len(shared)} of {len(test)} test images are in the unlabelled pool, "
            f"{shared[0]!r} the first: split with held_out, remove duplicates, or say "
            "transductive=True, which marks every result"
        )
    return "transductive"
