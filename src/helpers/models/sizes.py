"""What a CLIP takes of memory, from its architecture alone: no weights are loaded.

The numbers err, to either side; `tests/benchmarks/memory.csv` has measured peaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from helpers.models import embedded
from helpers.models.weights import weight_bytes

UNKNOWN = 2_000_000_000  # bytes of weights whose text tower's plan is not here
FLOATS = 10  # per token and unit of width that a ViT's block keeps for its gradient
PROMPTS = 50  # LaFTer's visual prompts
STEM, BLOCK = 180, 20  # per pixel and 64 units of width, what a ResNet keeps


@dataclass(frozen=True)
class Size:
    """The architecture of a CLIP, as far as memory depends on it."""

    bytes: int  # of all weights in float32
    embed_dim: int
    width: int  # of the text tower
    layers: int
    side: int  # pixels
    patches: int  # of a ViT, 0 for a ResNet
    image_width: int
    image_layers: int  # of a ResNet all its blocks

    @property
    def image_bytes(self) -> float:
        """The image tower: what is not the text tower's blocks, within a tenth."""
        return max(0.2 * self.bytes, self.bytes - 48 * self.layers * self.width**2)

    @property
    def folded_bytes(self) -> float:
        """What `fast.image_encoder` copies: a ResNet's image tower."""
        return 0.0 if self.patches else self.image_bytes

    def visual_prompts(self, asked: int) -> int:
        """How many visual prompts a ViT gets: `asked`, or for -1 as many as in LaFTer.

        Those are 50 beside the 50 tokens, patches and class token, of ViT-B/32, the
        paper's tower; larger towers get 50, too, and smaller ones a prompt for each
        token. A ResNet gets none.
        """
        if not self.patches:
            return 0
        return min(PROMPTS, self.patches + 1) if asked < 0 else asked

    def graph_bytes(self, visual_prompts: int) -> float:
        """What one picture keeps on its way for the gradient of its norms."""
        if self.patches:
            tokens = self.patches + 1 + self.visual_prompts(visual_prompts)
            return 4 * FLOATS * self.image_layers * tokens * self.image_width
        floats = STEM + BLOCK * self.image_layers
        return 4 * floats * self.side**2 * self.image_width / 64

    def prompt_bytes(self, class_names: Sequence[str]) -> float:
        """`PromptTower.peak_bytes` with a gradient, of "a photo of a" and the names."""
        prefix, own = 5, [1.5 * len(name.split()) + 2 for name in class_names]
        tokens = prefix + sum(own)
        keys = prefix + sum(prefix + n for n in own)
        return 4 * self.width * (self.layers * (12 * tokens + 2 * keys) + 28 * tokens)

    def jacobian_bytes(self, classes: int) -> float:
        """The derivative of every class feature by a context of four tokens."""
        return 4 * classes * self.embed_dim * 4 * self.width


@cache
def size_of(name: str) -> Size:
    """The size of an open_clip architecture."""
    import open_clip

    embedded.register()
    plain = name.removesuffix("-quickgelu")  # of the same size
    config = open_clip.get_model_config(name) or open_clip.get_model_config(plain)
    sees, reads = config["vision_cfg"], config["text_cfg"]
    side = sees.get("image_size", 224)
    side = max(side) if isinstance(side, list | tuple) else side
    try:
        size = weight_bytes(name)
    except Exception:  # a text tower of another library, whose plan is on the hub
        size = UNKNOWN
    layers = sees.get("layers", 12)
    is_resnet = isinstance(layers, list | tuple)
    patch = 0 if is_resnet else sees.get("patch_size") or 16
    return Size(
        bytes=size,
        embed_dim=config["embed_dim"],
        width=reads.get("width", 512),
        layers=reads.get("layers", 12),
        side=side,
        patches=(side // patch) ** 2 if patch else 0,
        image_width=sees.get("width", 768),
        image_layers=sum(layers) if is_resnet else layers,
    )
