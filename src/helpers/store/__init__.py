"""What is computed once is kept on disk.

Encoders are the expensive part of every chapter and their output depends on nothing
but weights, precision and input. So it is found by a key of all that made it: a second
run reads it, a changed model or picture misses it, and a killed run goes on where it
stood. `helpers.store.folders` tells what each key is made of. There are two payloads:
chunks of tensors (`chunks`), read whole, and rows of one shape (`rows`), mapped.
"""

from helpers.store.captioning import captions
from helpers.store.features import (
    image_features,
    prompt_cosines,
    prompt_seconds_per_image,
    seconds_per_image,
    template_features,
)
from helpers.store.views import view_features, view_seconds_per_image

__all__ = [
    "captions",
    "image_features",
    "prompt_cosines",
    "prompt_seconds_per_image",
    "seconds_per_image",
    "template_features",
    "view_features",
    "view_seconds_per_image",
]
