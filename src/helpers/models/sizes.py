"""How many visual prompts LaFTer gives a CLIP, from its architecture alone."""

from dataclasses import dataclass

from helpers.models import embedded

PROMPTS = 50  # LaFTer's visual prompts


@dataclass(frozen=True)
class Size:
    """The image tower of a CLIP."""

    patches: int  # of a ViT, 0 for a ResNet

    def visual_prompts(self, asked: int) -> int:
        """How many visual prompts a ViT gets: `asked`, or for -1 as many as in LaFTer.

        Those are 50 beside the 50 tokens, patches and class token, of ViT-B/32, the
        paper's tower; larger towers get 50, too, and smaller ones a prompt for each
        token. A ResNet gets none.
        """
        if not self.patches:
            return 0
        return min(PROMPTS, self.patches + 1) if asked < 0 else asked


def size_of(name: str) -> Size:
    """The size of an open_clip architecture."""
    import open_clip

    embedded.register()
    plain = name.removesuffix("-quickgelu")  # of the same size
    config = open_clip.get_model_config(name) or open_clip.get_model_config(plain)
    sees = config["vision_cfg"]
    side = sees.get("image_size", 224)
    side = max(side) if isinstance(side, list | tuple) else side
    is_resnet = isinstance(sees.get("layers", 12), list | tuple)
    patch = 0 if is_resnet else sees.get("patch_size") or 16
    return Size(patches=(side // patch) ** 2 if patch else 0)
