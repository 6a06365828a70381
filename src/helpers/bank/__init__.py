"""Features computed once and kept on disk.

Encoders are the expensive part of every chapter and their output depends on nothing
but weights, precision and input. So features are filed under a key of all that made
them: a second run reads them, a changed model or data set misses them, and a killed
run goes on where it stood.
"""

from helpers.bank.captioning import captions
from helpers.bank.own_prompts import prompt_cosines, prompt_seconds_per_image
from helpers.bank.shards import image_features, seconds_per_image, template_features
from helpers.bank.views import view_features, view_seconds_per_image

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
