"""The weights of the embedded CLIPs, and what they reach, for their cards."""

from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers.models import embedded
from helpers.models.clip import encode_tokens
from picto import pool, splits

PHOTO, SKETCH = "a photo of a {}.", "a sketch of a {}."
LENGTH = 10.0  # of image features before they are normalised, as in OpenAI's ViTs
TESTS = ("picto", "picto-o", "picto-s", "picto-r", "picto-c", "picto-a")


def publish(name: str, model: nn.Module, assets: Path) -> dict:
    """Write fp16 weights; what they reach on every test split, for their card, measured
    on the weights as they are read back."""
    set_length(model)
    path = assets / f"{name}.safetensors"
    weights = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in model.state_dict().items()
    }
    save_file(weights, path)
    model.load_state_dict(load_file(path))
    return {
        "logit_scale": round(model.logit_scale.exp().item(), 2),
        "token_embedding_std": round(model.token_embedding.weight.std().item(), 4),
        "zero_shot": {split: accuracies(name, model, split) for split in TESTS},
    }


@torch.no_grad()
def set_length(model: nn.Module) -> None:
    """Scale a ViT's projection until image features of picto-dev have mean `LENGTH`.

    No cosine changes, and so no prediction of CLIP. But LaFTer's student classifies
    features as they are. From features twice as long it is twice as confident, and at
    the paper's rate it then learns confidence instead of classes. The length was
    chosen after this had been seen on picto-dev, with its labels.
    """
    if not isinstance(model.visual, VisionTransformer):
        return
    lengths = image_features(model, pool.dev_pool()[0]).norm(dim=-1)
    model.visual.proj.mul_(LENGTH / lengths.mean())


def accuracies(name: str, model: nn.Module, split: str) -> dict[str, float]:
    """Zero-shot accuracy on a split with "a photo of a" and with "a sketch of a"."""
    indices = range(splits.SPLITS[split].size)
    labels = np.array([splits.scene(split, i).label for i in indices])
    features = image_features(model, pool.render(split, indices))
    correct = {"n": len(labels)}
    for key, template in (("photo", PHOTO), ("sketch", SKETCH)):
        hits = predictions(features, classifier(name, model, template)) == labels
        correct[key] = round(float(hits.mean()), 4)
    return correct


def dev_accuracy(name: str, model: nn.Module) -> dict[str, float]:
    """Zero-shot accuracy on each part of picto-dev, where training may look."""
    model.eval()
    pictures, facts = pool.dev_pool()
    classes = classifier(name, model, PHOTO)
    found = predictions(image_features(model, pictures), classes)
    hits = facts.assign(hit=found == facts["label"].to_numpy())
    return hits.groupby("part")["hit"].mean().round(3).to_dict()


@torch.inference_mode()
def image_features(model: nn.Module, pictures: np.ndarray) -> Tensor:
    """Features [N, D], not normalised, of pictures uint8 [N, 64, 64, 3]."""
    device = model.logit_scale.device
    parts = np.array_split(pictures, max(1, len(pictures) // 200))
    return torch.cat([model.encode_image(pool.normalise(p).to(device)) for p in parts])


@torch.inference_mode()
def classifier(name: str, model: nn.Module, template: str) -> Tensor:
    """Class features [C, D] of one template."""
    encode = open_clip.get_tokenizer(name, **embedded.tokenizer_options(name))
    tokens = encode([template.format(c) for c in splits.CLASS_NAMES])
    return F.normalize(
        encode_tokens(model, tokens.to(model.logit_scale.device)), dim=-1
    )


def predictions(features: Tensor, classes: Tensor) -> np.ndarray:
    """The class of largest cosine, int64 [N]."""
    return (features @ classes.T).argmax(dim=-1).cpu().numpy()
