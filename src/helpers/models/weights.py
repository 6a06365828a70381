"""Read CLIP weights from a user's disk, without running code that a file contains.

- state dicts of open_clip and of OpenAI's code, as safetensors or from torch.save, also
  within a training checkpoint
- OpenAI's downloads (~/.cache/clip): TorchScript archives, which contain code, so that
  only those with a published SHA-256 are opened
- a Hugging Face CLIPModel: its folder or its file
- open_clip's folders (`local-dir:FOLDER`) and pages of the hub (`hf-hub:OWNER/NAME`)

For everything else an error says in one line what it is and what to do.
"""

import hashlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import get_pretrained_url, list_pretrained_models_by_tag
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.models import hub
from helpers.paths import from_root
from helpers.words import closest

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
FOLDER, PAGE = "local-dir:", "hf-hub:"  # open_clip's prefixes
HUB = r"[\w.-]+/[\w.-]+"
KNOWN = (  # names of weights files; the first that a folder has is read
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
OPEN_CLIP, TRANSFORMERS = "open_clip_config.json", "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's number: open_clip's name
OPENAI = "OpenAI's archive"
NUMBERS = ("input_resolution", "context_length", "vocab_size")  # in OpenAI's archives
WRAPPERS = ("state_dict", "model_state_dict", "model")
RENAMED = {  # Hugging Face's names -> OpenAI's, replaced in this order
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.encoder.layers": "transformer.resblocks",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.encoder.layers": "visual.transformer.resblocks",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "visual_projection.weight": "visual.proj",
    "self_attn": "attn",
    "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


@dataclass(frozen=True)
class Weights:
    """Tensors under open_clip's names, and the settings in their folder.

    `quick_gelu` and `heads` (of the image and the text tower) are None if unknown;
    `preprocess` has open_clip's keyword arguments for preprocessing.
    """

    kind: str
    path: Path
    state: dict[str, Tensor]
    quick_gelu: bool | None = None
    heads: tuple[int, int] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)  # open_clip's, of the model
    preprocess: Mapping[str, Any] = field(default_factory=dict)


def is_on_disk(weights: str) -> bool:
    """Whether `weights` names an existing file or folder, or a page of the hub."""
    if weights.startswith((FOLDER, PAGE)):
        return True
    return bool(weights) and os.path.exists(from_root(weights))


def read(weights: str, on_meta: bool = False) -> Weights:
    """Read the weights of a file, a folder or a page of the hub.

    With `on_meta` the tensors are on the meta device: names and shapes, without memory.
    Raises ValueError or FileNotFoundError with a line about the problem and its remedy.
    """
    if weights.startswith(PAGE):
        path = _fetch(_page(weights))
    else:
        path = from_root(weights.removeprefix(FOLDER))
    file = _file_in(path) if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no weights file at {file}")
    kind, content = _content(file)
    state = _clip_tensors(file, _tensors(file, content, on_meta))
    if kind == OPENAI:
        return Weights(kind, file, state, quick_gelu=True)
    if any(key.startswith("text_model.") for key in state):
        config = _transformers_config(file, state)
        state = _from_transformers(state)
        return Weights("Hugging Face CLIPModel", file, state, **config)
    if file.with_name(OPEN_CLIP).is_file():
        return Weights("open_clip's folder", file, state, **_open_clip_config(file))
    return Weights(kind, file, state)


def fill(model: nn.Module, name: str, found: Weights) -> None:
    """Load weights into an open_clip model.

    Raises ValueError if their names, shapes or settings are not the model's.
    """
    state = convert_state_dict(model, dict(found.state))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    own = model.state_dict()
    for key in ("logit_scale", "logit_bias"):  # a number, or a list of one
        if key in state and key in own and state[key].numel() == own[key].numel():
            state[key] = state[key].reshape(own[key].shape)
    if "logit_bias" in own and "logit_bias" not in state:
        state["logit_bias"] = torch.zeros_like(own["logit_bias"])
    state.pop("text.transformer.embeddings.position_ids", None)
    wrong = _difference(own, state) or _setting(model, name, found)
    if wrong:
        raise ValueError(f"{found.path} ({found.kind}) is no {name}: {wrong}")
    if not any(tensor.is_meta for tensor in state.values()):
        model.load_state_dict(state)


def check(weights: str, name: str) -> Weights | None:
    """Check that names and shapes of weights are the architecture's, without memory.

    Returns None for a page of the hub that is not downloaded yet. The text towers of
    transformers are not checked, as their config may be on the hub. Raises the errors
    of `read` and `fill`.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if weights.startswith(PAGE) and not constants.HF_HUB_OFFLINE:
        page = _page(weights)
        kept = (try_to_load_from_cache(page, name) for name in KNOWN)
        if not any(isinstance(path, str) for path in kept):
            return None
    found = read(weights, on_meta=True)
    name = variant(name, found.quick_gelu)
    if "hf_model_name" not in open_clip.get_model_config(name)["text_cfg"]:
        fill(meta_model(name), name, found)
    return found


def variant(name: str, quick_gelu: bool | None) -> str:
    """Return the architecture's name with or without QuickGELU, if there are both."""
    plain = name.removesuffix("-quickgelu")
    wanted = {True: f"{plain}-quickgelu", False: plain}.get(quick_gelu, name)
    return wanted if wanted in open_clip.list_models() else name


def accepted(choices: Sequence[str], given: str) -> str:
    """List the values of `weights`, with the nearest to `given`."""
    return (
        f"choose one of {', '.join(choices)}, a file ({', '.join(SUFFIXES)}), a folder "
        f"of open_clip or Hugging Face, or {PAGE}OWNER/NAME{closest(given, choices)}"
    )


def missing(given: str) -> str:
    """Say that nothing is where `given` points; "" if it is no path, or is there."""
    looks_like_path = given.startswith((".", "~")) or given.endswith(SUFFIXES)
    if is_on_disk(given) or not (looks_like_path or os.sep in given):
        return ""
    page = f"; did you mean {PAGE}{given}?"
    hint = page if re.fullmatch(HUB, given) and not looks_like_path else ""
    return f"no weights file at {from_root(given)}{hint}"


@cache
def published() -> dict[str, str]:
    """Return {SHA-256: architecture} of the files that OpenAI published."""
    names = list_pretrained_models_by_tag("openai")
    urls = {name: get_pretrained_url(name, "openai") for name in names}
    return {u.split("/")[-2]: n for n, u in urls.items() if "-quickgelu" not in n}


def _page(weights: str) -> str:
    page = weights.removeprefix(PAGE)
    if not re.fullmatch(HUB, page):
        raise ValueError(f"{weights!r} is no page of the hub: {PAGE}OWNER/NAME")
    return page


def _fetch(page: str) -> Path:
    """The folder with a page's weights and settings, downloaded if necessary."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    def fetched(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(page, name))
        except EntryNotFoundError:  # the page lacks it, or there is no network
            return None
        except (HfHubHTTPError, OSError) as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(f"cannot fetch {PAGE}{page}: {first}") from error

    away = hub.out_of_reach()
    file = next((path for path in map(fetched, KNOWN) if path), None)
    if file is None:
        offline = f" and {away}" if away else ""
        raise FileNotFoundError(
            f"{PAGE}{page}: no weights in the hub's cache {constants.HF_HUB_CACHE}"
            f"{offline}, or the page has none: where there is a network, "
            f"`hf download {page}` fetches it"
        )
    others = (OPEN_CLIP, TRANSFORMERS, *PROCESSORS)
    for name in others:
        fetched(name)
    return file.parent


def _file_in(folder: Path) -> Path:
    """The weights file in a folder."""
    for name in KNOWN:
        if (folder / name).is_file():
            return folder / name
    found = sorted(f.name for f in folder.iterdir() if f.suffix in SUFFIXES)
    if len(found) == 1:
        return folder / found[0]
    if found:
        raise ValueError(
            f"{folder} holds several files of weights: name one of {', '.join(found)}"
        )
    raise FileNotFoundError(f"{folder} holds no weights ({', '.join(SUFFIXES)})")


def _content(file: Path) -> tuple[str, Any]:
    """The kind of a file and its content; runs no code of the file."""
    try:
        with file.open("rb") as opened:
            head = opened.read(512)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    if re.search(r"-of-0*([2-9]|\d\d+)\.\w+$", file.name):
        raise ValueError(f"{file} is one of several shards: save the model in one file")
    if fault := _fault(head):
        raise ValueError(f"{file} {fault}")
    if head.startswith(b"PK"):
        return _zipped(file)
    try:
        return "state dict", load_file(file)
    except Exception as error:
        what = "damaged or cut short" if head[8:9] == b"{" else "no weights file"
        raise ValueError(f"{file} is {what} ({error}): download it again") from error


def _fault(head: bytes) -> str:
    """Why a file with these first bytes cannot be weights, or ""."""
    start = head.lstrip().lower()
    if not head:
        return "is empty: download it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights: run `git lfs pull` in its folder"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page: download the file itself, not the page about it"
    return ""


def _zipped(file: Path) -> tuple[str, Any]:
    """The kind and content of a zip archive: torch.save's, or TorchScript."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{file} is damaged or cut short ({error}): download it again"
        ) from error
    if not any(name.endswith("constants.pkl") for name in names):
        return "state dict", _unpickled(file)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest in published():
        return OPENAI, torch.jit.load(file, map_location="cpu").state_dict()
    raise ValueError(
        f"{file} is a TorchScript archive, which runs code when it is opened, and its "
        f"SHA-256 {digest[:12]}… is none that OpenAI published: where you trust it, "
        "save torch.jit.load(FILE, 'cpu').state_dict() with torch.save and name that"
    )


def _unpickled(file: Path) -> Any:
    try:
        return torch.load(file, "cpu", weights_only=True, mmap=True)
    except Exception as error:
        if "Weights only load failed" not in str(error):
            first = str(error).strip().splitlines()[0][:200]
            raise ValueError(
                f"{file} is damaged or no weights file: {first}"
            ) from error
        raise ValueError(
            f"{file} holds Python objects besides tensors, and unpickling them would "
            "run code: where you trust it, open it by torch.load(FILE, 'cpu', "
            "weights_only=False) and save its state dict alone with torch.save"
        ) from error


def _tensors(file: Path, content: Any, on_meta: bool) -> dict[str, Tensor]:
    """The named tensors of a state dict, or of a checkpoint that holds one."""
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} holds a {type(content).__name__}, no state dict")
    return {
        key: value.to("meta") if on_meta else value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }


def _clip_tensors(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a CLIP, without the prefix that a wrapper adds to their names.

    DistributedDataParallel adds "module.", torch.compile "_orig_mod.", a trainer the
    name of its attribute. Raises ValueError if there is no whole CLIP.
    """
    scales = [key for key in tensors if re.search(r"(^|\.)logit_scale$", key)]
    if not scales:
        some = ", ".join(list(tensors)[:3]) or "none"
        raise ValueError(
            f"{file} holds no whole CLIP: {len(tensors)} other tensors ({some})"
        )
    prefix = min(scales, key=len).removesuffix("logit_scale")
    return {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix) and key not in NUMBERS
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a Hugging Face CLIPModel with OpenAI's names and shapes."""
    named = {}
    for key, value in state.items():
        for old, new in RENAMED.items():
            key = key.replace(old, new)
        if key in ("text_projection", "visual.proj"):
            value = value.T
        if not key.endswith("position_ids"):
            named[key] = value
    for key in [k for k in named if ".attn.q_proj." in k]:
        parts = [named.pop(key.replace("q_proj", f"{i}_proj"), None) for i in "qkv"]
        if all(part is not None for part in parts):
            named[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return named


def _transformers_config(file: Path, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings in the folder of a CLIPModel."""
    path = file.with_name(TRANSFORMERS)
    config = _json(path) if path.is_file() else {}
    kind = config.get("model_type", "siglip" if "logit_bias" in state else "clip")
    if kind != "clip":
        raise ValueError(
            f"{file} is a Hugging Face model of type {kind}, of which only clip is "
            f"converted: take open_clip's version, a tag or {PAGE}timm/NAME"
        )
    if not config:
        return {}
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    acts = {part.get("hidden_act", "quick_gelu") for part in (vision, text)}
    if acts not in ({"quick_gelu"}, {"gelu"}):
        raise ValueError(
            f"{path}: hidden_act is {' and '.join(sorted(acts))}; open_clip's towers "
            "have both quick_gelu or both gelu"
        )
    return {
        "quick_gelu": acts == {"quick_gelu"},
        "heads": (
            vision.get("num_attention_heads", 12),
            text.get("num_attention_heads", 8),
        ),
        "preprocess": _preprocess(file),
    }


def _open_clip_config(file: Path) -> dict[str, Any]:
    """The settings in open_clip's folder."""
    path = file.with_name(OPEN_CLIP)
    config = _json(path)
    model, preprocess = config.get("model_cfg", {}), config.get("preprocess_cfg", {})
    return {
        "quick_gelu": bool(model.get("quick_gelu", False)),
        "config": model,
        "preprocess": {
            f"image_{key}": _hashable(preprocess.get(key))
            for key in ("mean", "std", "interpolation", "resize_mode")
        },
    }


def _preprocess(file: Path) -> dict[str, Any]:
    """open_clip's arguments for the preprocessing of a folder's CLIPImageProcessor."""
    processors = (file.with_name(name) for name in PROCESSORS)
    path = next((path for path in processors if path.is_file()), None)
    config = _json(path) if path else {}
    config = config.get("image_processor", config)
    resample = config.get("resample", 3)
    if resample not in INTERPOLATIONS:
        known = " or ".join(f"{k} ({name})" for k, name in INTERPOLATIONS.items())
        raise ValueError(f"{path}: resample {resample}: open_clip resizes by {known}")
    return {
        "image_mean": _hashable(config.get("image_mean")),
        "image_std": _hashable(config.get("image_std")),
        "image_interpolation": INTERPOLATIONS[resample],
        "image_resize_mode": None if config.get("do_center_crop", True) else "squash",
    }


def _hashable(value: Any) -> Any:
    """Lists as tuples, as open_clip has them, since they are part of a store's key."""
    return tuple(value) if isinstance(value, list) else value


def _difference(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """How two sets of tensors differ, in a few words; "" if they do not."""
    both = [key for key in own if key in state]
    reshaped = [k for k in both if own[k].shape != state[k].shape]
    counted = [k for k in own if not k.endswith("num_batches_tracked")]
    found = [
        f"{key} is {list(state[key].shape)} instead of {list(own[key].shape)}"
        for key in reshaped[:2]
    ]
    found += [f"{len(reshaped) - 2} more differ in shape"] if reshaped[2:] else []
    missing = [k for k in counted if k not in state]
    extra = [k for k in state if k not in own]
    found += [f"{len(missing)} tensors are missing ({missing[0]})"] if missing else []
    found += [f"{len(extra)} are of no use here ({extra[0]})"] if extra else []
    return ", ".join(found)


def _setting(model: nn.Module, name: str, found: Weights) -> str:
    """A difference between a folder's config and the model that no tensor shows."""
    if found.heads:
        towers = (model.visual.transformer, getattr(model, "text", model).transformer)
        own = tuple(tower.resblocks[0].attn.num_heads for tower in towers)
        if own != found.heads:
            return f"its towers have {found.heads} attention heads instead of {own}"
    config = open_clip.get_model_config(name)
    quick_gelu = bool(config.get("quick_gelu", False))
    if found.quick_gelu not in (None, quick_gelu):
        return f"its quick_gelu is {found.quick_gelu} instead of {quick_gelu}"
    for part in ("vision_cfg", "text_cfg"):
        theirs = found.config.get(part, {})
        for key, value in config[part].items():
            other = theirs.get(key, value)
            if other != value and not key.startswith("hf_") and "pretrained" not in key:
                return f"its {part} has {key} {other!r} instead of {value!r}"
    return ""


def meta_model(name: str) -> nn.Module:
    """Build an open_clip model on the meta device, without memory for its tensors."""
    with quiet(), torch.device("meta"):
        return open_clip.create_model(name, device="meta", pretrained_text=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence open_clip's warning that a model has no weights."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def weight_bytes(backbone: str) -> int:
    """Return the size of an open_clip model's parameters in float32, in bytes."""
    return sum(4 * parameter.numel() for parameter in meta_model(backbone).parameters())
