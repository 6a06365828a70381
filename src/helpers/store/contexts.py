"""Learned contexts on disk: our own files, and the checkpoints of CoOp and CoCoOp.

Ours are safetensors whose metadata name the backbone, data set and recipe. Checkpoints
of the authors' code (github.com/KaiyangZhou/CoOp, `model.pth.tar-EPOCH`) are read as
tensors only: `ctx` and `meta_net.*` of their state dict were learned; `token_prefix`
and `token_suffix` hold the training classes and are dropped, since a context serves
other data sets with other class names.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.models.clip import Backbone, text_tower
from helpers.store import chunks

OFFICIAL = {  # the authors' names -> those of `helpers.methods.cocoop.CoCoOp`
    "ctx": "context",
    "meta_net.linear1.weight": "hidden_weight",
    "meta_net.linear1.bias": "hidden_bias",
    "meta_net.linear2.weight": "shift_weight",
    "meta_net.linear2.bias": "shift_bias",
}
FRAME = 3  # tokens of a prompt besides context and name: start, full stop, end


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    backbone: Backbone,
    dataset: str,
    recipe: Mapping[str, object],
) -> None:
    """Write learned tensors, completely or not at all.

    Args:
        path: ends in .safetensors.
        tensors: `{"context": context}` of CoOp, or `model._asdict()` of CoCoOp.
        dataset: name of the training data.
        recipe: training settings that JSON can represent.
    """
    chunks.save(
        path,
        {name: tensor.float() for name, tensor in tensors.items()},
        backbone=backbone.key,
        fingerprint=backbone.fingerprint,
        dataset=dataset,
        recipe=json.dumps(dict(recipe), sort_keys=True),
    )


def sound(path: Path) -> bool:
    """Whether one of our files exists and is undamaged."""
    try:
        _ours(path)
    except (FileNotFoundError, ValueError):
        return False
    return True


def load(path: Path, backbone: Backbone) -> Tensor:
    """A context of CoOp for this backbone: float32 [M, W] on its device.

    `path`: a .safetensors file of `save`, or an official checkpoint of any suffix, with
    one context for all classes.
    """
    tensors = _read(path, backbone)
    if len(tensors) > 1:
        raise ValueError(
            f"{path} holds CoCoOp's net besides the context, which is not meant to be "
            "used alone: read it with `load_conditional`"
        )
    return tensors["context"]


def load_conditional(path: Path, backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of a CoCoOp for this backbone: `CoCoOp(**load_conditional(...))`."""
    tensors = _read(path, backbone)
    missing = [name for name in OFFICIAL.values() if name not in tensors]
    if missing:
        raise ValueError(f"{path} is no CoCoOp: it lacks {', '.join(missing)}")
    width, embed_dim = _width(backbone), backbone.embed_dim
    hidden = embed_dim // 16
    expected = {
        "hidden_weight": (hidden, embed_dim),
        "hidden_bias": (hidden,),
        "shift_weight": (width, hidden),
        "shift_bias": (width,),
    }
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ValueError(
                f"{path} holds {name} {[*tensors[name].shape]}, "
                f"{backbone.name} needs {[*shape]}"
            )
    return tensors


def _read(path: Path, backbone: Backbone) -> dict[str, Tensor]:
    """The learned tensors of either kind of file, their context checked."""
    if not path.is_file():
        raise FileNotFoundError(f"no learned context at {path}")
    if path.suffix == ".safetensors":
        tensors, metadata = _ours(path)
        if metadata["fingerprint"] != backbone.fingerprint:
            raise ValueError(
                f"{path} was learned with {metadata['backbone']}; {backbone.name} has "
                f"the weights {backbone.fingerprint}: train one for them"
            )
    else:
        tensors = _official(path)
    context, width = tensors["context"], _width(backbone)
    longest = backbone.context_length - FRAME - 1
    fits = context.ndim == 2 and context.shape[1] == width
    if not fits or not 1 <= len(context) <= longest:
        raise ValueError(
            f"{path} holds a context {[*context.shape]}; {backbone.name} needs one for "
            f"all classes, [M, {width}] with M from 1 to {longest}"
        )
    return {name: tensor.to(backbone.device) for name, tensor in tensors.items()}


def _ours(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, metadata = chunks.load(path)
    if "context" not in tensors or "fingerprint" not in metadata:
        raise ValueError(f"{path} holds {sorted(tensors)}: no learned context of ours")
    return tensors, metadata


def _official(path: Path) -> dict[str, Tensor]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise exceptions of many types
        raise ValueError(
            f"{path} cannot be read as tensors only. Full CoOp checkpoints also carry "
            "objects, which can run any code when they are loaded: where you trust it, "
            "open it by torch.load(FILE, 'cpu', weights_only=False) and save "
            "{'state_dict': its state_dict} with torch.save"
        ) from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    state = state if isinstance(state, dict) else {}
    if "ctx" not in state:
        raise ValueError(
            f"{path} is no checkpoint of a CoOp prompt learner: 'ctx' is missing from "
            f"its 'state_dict', which holds {sorted(map(str, state))}"
        )
    learned = {OFFICIAL[name]: state[name] for name in OFFICIAL if name in state}
    if not all(isinstance(tensor, Tensor) for tensor in learned.values()):
        raise ValueError(f"{path} holds something else than tensors: fetch it again")
    return {name: tensor.float() for name, tensor in learned.items()}


def _width(backbone: Backbone) -> int:
    """Width W of the text tower's token embeddings."""
    embedding: Any = text_tower(backbone.model).token_embedding
    return embedding.weight.shape[1]
