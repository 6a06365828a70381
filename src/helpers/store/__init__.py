"""Results that are computed once and kept on disk.

Encoders are the expensive part of every chapter, and their output depends only on
weights, precision and input. A key of these inputs names its folder: a second run reads
the folder, a changed model or image gets a new one, and a killed run resumes.
`helpers.keys` lists what each key is made of. There are two payloads: chunks
of tensors (`chunks`), read whole, and rows of one shape (`views`), memory-mapped.
"""

from helpers.store.captioning import captions
from helpers.store.features import (
    image_features,
    prompt_cosines,
    prompt_seconds_per_image,
    template_features,
)
from helpers.store.timing import (
    read_seconds_per_image,
    seconds_per_image,
    view_seconds_per_image,
)
from helpers.store.views import chunk_features, view_features
