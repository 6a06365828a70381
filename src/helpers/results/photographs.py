"""A table of photographs: what each shows, how sure that is, which ones to look at.

`predictions.csv` in a study's folder has a row per image, labelled or not:

    path                  the image's id: its path below data_root
    name, confidence      the class that the chosen method predicts, its probability
    runner_up, runner_up_confidence
    top_5                 "cat 0.61; fox 0.20; dog 0.11; owl 0.05; cow 0.02"
    agreement             share of the methods that predict `name`
    views_kept            views that the selection of TPT or of a vote keeps, "0 3 17"
    look_at_this_one      whether a person should: see `table`
    label                 the class, where it is known
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import softmax

from helpers.data.dataset import UNKNOWN
from helpers.results import metrics, predictions

FILE = "predictions.csv"
TOP = 5


def table(
    ids: Sequence[str],
    class_names: Sequence[str],
    logits: Mapping[str, ArrayLike],
    chosen: str = "",
    labels: ArrayLike | None = None,
    views_kept: ArrayLike | None = None,
    lead: float = 2.0,
    agreeing: float = 2 / 3,
) -> pd.DataFrame:
    """A row per image, see above, from several methods' logits of the same images.

    `look_at_this_one` is true where the runner-up is close, that is, the confidence is
    less than `lead` times the runner-up's, or where fewer than the share `agreeing` of
    the methods predict the same class. No absolute confidence counts, since it depends
    on the number of classes, and methods differ in it.

    Args:
        ids: of N images.
        class_names: C names.
        logits: [N, C] of each method, logit scale included.
        chosen: the method whose prediction is shown, by default the first.
        labels: integers [N], -1 where unknown.
        views_kept: positions of views [N, K].

    Raises:
        ValueError: no method, an unknown one, or shapes that do not fit.
    """
    if not logits:
        raise ValueError("a table of photographs needs the logits of a method")
    chosen = chosen or next(iter(logits))
    if chosen not in logits:
        raise ValueError(f"no logits of {chosen!r}: choose one of {', '.join(logits)}")
    shape = (len(ids), len(class_names))
    arrays = {method: metrics.as_array(values) for method, values in logits.items()}
    for method, values in arrays.items():
        if values.shape != shape:
            raise ValueError(
                f"logits of {method} are {list(values.shape)}, but there are "
                f"{shape[0]} images and {shape[1]} classes"
            )
    p = softmax(arrays[chosen].astype(np.float64), axis=1)
    order = np.argsort(-arrays[chosen], axis=1, kind="stable")[:, :TOP]
    names = np.array(class_names, dtype=object)[order]
    shares = np.take_along_axis(p, order, axis=1)
    choices = np.stack([values.argmax(axis=1) for values in arrays.values()])
    agreement = (choices == order[:, 0]).mean(axis=0)
    labels = np.full(len(ids), UNKNOWN) if labels is None else metrics.as_array(labels)
    kept = [()] * len(ids) if views_kept is None else metrics.as_array(views_kept)
    return pd.DataFrame(
        {
            "path": list(ids),
            "name": names[:, 0],
            "confidence": shares[:, 0],
            "runner_up": names[:, 1],
            "runner_up_confidence": shares[:, 1],
            "top_5": [
                "; ".join(
                    f"{name} {share:.2f}" for name, share in zip(*row, strict=True)
                )
                for row in zip(names, shares, strict=True)
            ],
            "agreement": agreement,
            "views_kept": [" ".join(map(str, views)) for views in kept],
            "look_at_this_one": (shares[:, 0] < lead * shares[:, 1])
            | (agreement < agreeing - 1e-9),
            "label": ["" if i == UNKNOWN else class_names[i] for i in labels.tolist()],
        }
    )


def write(folder: str | Path, photographs: pd.DataFrame) -> Path:
    """Write the table to `<folder>/predictions.csv`, the folder of a study."""
    return predictions.write_csv(Path(folder) / FILE, photographs)
