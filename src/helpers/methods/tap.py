"""TAP: LaFTer's text classifier, trained on texts about the expected kind of image.

TAP: Targeted Prompting for Task Adaptive Generation of Textual Training Instances for
Visual Classification, Mirza et al. 2023, arXiv 2309.06809. No image is used. A language
model is asked about each class in each of the renditions that the data set is known to
show ("what does a cartoon of a goldfish look like?"), and a linear classifier learns
from the answers as in the first stage of LaFTer (`helpers.methods.lafter`), with a rate
of 1e-3, 400 to 5,500 steps, and without hand-written templates among its texts.

`targeted` makes such texts from descriptors of the classes and names of renditions. The
choice of renditions is knowledge about the test set, but uses no label.

Deviation: the released code takes classes in the order of its JSON file, which need not
be the data set's; here a text's class is given with it.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from helpers.methods.lafter import text_classifier
from helpers.methods.registry import method

LEARNING_RATE = 1e-3


@method(
    "tap", "TAP", "text classifiers", paper="arXiv 2309.06809", chapter="05", speaker=""
)
def tap(
    text_features: Tensor,
    labels: Tensor,
    classes: int,
    steps: int = 5000,
    **training: Any,
) -> Tensor:
    """Class weights [C, D] from unit features of targeted texts [M, D].

    `training`: the other arguments of `lafter.text_classifier`.
    """
    training = {"learning_rate": LEARNING_RATE, **training}
    return text_classifier(text_features, labels, classes, steps, **training)


def targeted(
    class_names: Sequence[str],
    descriptors: Sequence[Sequence[str]],
    renditions: Sequence[str],
) -> list[list[str]]:
    """Texts of every class: each rendition of it, with each of its descriptors.

    A rendition reads like a template, "a pencil sketch of a {}". A class without
    descriptors gets its renditions alone.
    """
    if not renditions:
        raise ValueError("no renditions: name one at least, such as 'a sketch of a {}'")
    return [
        [
            f"{rendition.rstrip('.').format(name)}{about}."
            for rendition in renditions
            for about in ([f", with {text}" for text in of_class] or [""])
        ]
        for name, of_class in zip(class_names, descriptors, strict=True)
    ]
