"""CLIP backbones: one class for any open_clip model.

CLIP embeds images and texts on one unit sphere (Radford et al. 2021, arXiv
2103.00020). A `Backbone` computes every embedding of the study. Its towers are frozen
and in evaluation mode; methods that tune weights use `backbone.model` and say so.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import open_clip
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from helpers.keys import key
from helpers.models import embedded, fast, hub
from helpers.models import weights as files

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
TEXT_BATCH = 256
ON_DISK = "on disk"


def names() -> list[str]:
    """Return the architectures that `load` knows: open_clip's and the embedded ones."""
    embedded.register()
    return open_clip.list_models()


def weight_choices(name: str) -> list[str]:
    """Return the values of `weights` for an architecture, besides files and folders."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    own = [embedded.TAG] if name in embedded.names() else []
    return [*own, *tags, "random"]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen CLIP: `encode_images`, `encode_texts`, `template_features`.

    `encode_images` may use a copy of the weights (`fast.image_encoder`), so that code
    that tunes `model` must encode with `model.encode_image`.

    `fingerprint` is a hash of all weights; `logit_scale` is exp of the learned log
    scale (100 for OpenAI's weights); `preprocess` maps a PIL image to float32 [3,
    image_size, image_size].
    """

    name: str
    weights: str
    model: nn.Module
    tokenizer: Callable
    preprocess: Callable[[Image], Tensor]
    image_size: int
    embed_dim: int  # width D of the shared embedding
    device: torch.device
    precision: str
    fingerprint: str
    logit_scale: float

    @property
    def context_length(self) -> int:
        """Length of the longest prompt in tokens, start and end tokens included."""
        return self.model.context_length

    @property
    def key(self) -> str:
        """All that decides the features of an input: the key of stored features.

        Besides the weights these are the activation (GELU or QuickGELU, part of the
        name), the preprocessing, and the device and precision, which decide rounding.
        """
        preprocess = sorted(self.model.visual.preprocess_cfg.items())
        rounding = f"{self.device.type}|{self.precision}"
        return f"{self.name}|{self.fingerprint}|{rounding}|{preprocess}"

    def crop(self, image: Image) -> Tensor:
        """Resize, crop and convert to RGB: the part of `preprocess` on uint8.

        PIL image -> uint8 [3, image_size, image_size].
        """
        *steps, _, _ = self.preprocess.transforms
        for step in steps:
            image = step(image)
        return pil_to_tensor(image)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale and normalise: the rest of `preprocess`, on the pixels' device.

        uint8 [..., 3, H, W] -> float32; on a CPU `normalise(crop(image))` equals
        `preprocess(image)` to the bit.
        """
        return self.preprocess.transforms[-1](pixels.float() / 255)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Encode preprocessed images float32 [B, 3, H, W]: unit features [B, D]."""
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            features = self._encode_image(images)
        return F.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode T prompts: unit features float32 [T, D].

        Batches hold prompts of similar length and are cropped to their longest prompt.
        That is exact for a causal tower that is read at the end token, such as CLIP's,
        since later tokens do not affect it. Other towers get the full context. Raises
        ValueError for no texts, or for a prompt longer than the context.
        """
        tokens = self.tokenize(texts)
        lengths = torch.full((len(tokens),), tokens.shape[1])
        if reads_end_token(self.model):
            lengths = tokens.argmax(dim=-1) + 1  # the end token has the highest id
        order = lengths.argsort(stable=True)
        features = torch.empty(len(tokens), self.embed_dim)
        for rows in order.split(TEXT_BATCH):
            batch = tokens[rows, : int(lengths[rows].max())].to(self.device)
            with self.autocast():
                encoded = encode_tokens(self.model, batch)
            features[rows] = F.normalize(encoded.float(), dim=-1).cpu()
        return features.to(self.device)

    def template_features(
        self, class_names: Sequence[str], templates: Sequence[str]
    ) -> Tensor:
        """Encode every class in every template: unit features float32 [K, C, D]."""
        prompts = [t.format(name) for t in templates for name in class_names]
        shape = (len(templates), len(class_names), self.embed_dim)
        return self.encode_texts(prompts).view(shape)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokenise T texts: ids int64 [T, context_length].

        Raises ValueError for no texts, or for a text longer than the context.
        """
        texts = list(texts)
        if not texts:
            raise ValueError("no texts to encode")
        if isinstance(self.tokenizer, open_clip.SimpleTokenizer):
            for text in texts:
                length = len(self.tokenizer.encode(text)) + 2
                if length > self.context_length:
                    raise ValueError(
                        f"prompt of {length} tokens, but {self.name} reads at most "
                        f"{self.context_length}: shorten {text!r}"
                    )
        return self.tokenizer(texts)

    @cached_property
    def _encode_image(self) -> Callable[[Tensor], Tensor]:
        """Built at first use, as it may take the memory of another image tower."""
        return fast.image_encoder(self.model)

    def autocast(self) -> torch.autocast:
        """Return a context manager that computes in the backbone's precision."""
        enabled = self.precision != "float32"
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=enabled)


def load(
    name: str,
    weights: str = "openai",
    device: str = "auto",
    precision: str = "float32",
    seed: int = 0,
) -> Backbone:
    """Load an open_clip architecture with weights.

    Args:
        name: the architecture, one of `names()`.
        weights: a tag of open_clip ("openai"), "picto" for the embedded models,
            "random" for an untrained model (drawn with `seed`), or a file, a folder or
            a page of the hub that `helpers.models.weights` reads. Relative paths start
            at the repository's root.
        device: "auto" or a torch device.
        precision: a key of `DTYPES`.
        seed: of random weights.

    Raises:
        ValueError: an argument is unknown or does not fit the others.
        FileNotFoundError: no weights at that path.
        RuntimeError: weights or tokenizer cannot be downloaded or built.
    """
    known = names()
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.3)
        close = " or ".join(map(repr, near)) or "an open_clip model"
        raise ValueError(
            f"unknown backbone {name!r}; did you mean {close}? "
            "`python -c 'import open_clip; print(open_clip.list_models())'` lists all"
        )
    source = _source(name, weights)
    found = files.read(weights) if source == ON_DISK else None
    chosen = with_quick_gelu(name, weights)
    if found:
        chosen = files.variant(name, found.quick_gelu)
    if chosen != name:
        kind = "QuickGELU" if chosen.endswith("-quickgelu") else "GELU"
        warnings.warn(
            f"{weights!r} weights of {name} were trained with {kind}: "
            f"using {chosen} instead",
            stacklevel=2,
        )
    where = resolve_device(device)
    check_precision(precision, where)
    variant = f"{chosen}-quickgelu"
    if found and found.quick_gelu is None and variant in open_clip.list_models():
        warnings.warn(
            f"{chosen} is built with GELU; if {weights} was trained with QuickGELU, as "
            f"OpenAI's were, name the backbone {variant}",
            stacklevel=2,
        )
    if config := open_clip.get_pretrained_cfg(chosen, weights):
        (page, path), away = hub.download(config), hub.out_of_reach()
        if away and not path and config.get("hf_hub"):
            raise RuntimeError(_load_failure(chosen, weights, away, page))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, preprocess, tokenizer = _built(chosen, source, found)
    except Exception as error:
        raise RuntimeError(
            _load_failure(chosen, weights, str(error) or repr(error))
        ) from error
    if found:
        files.fill(model, chosen, found)
    model = model.to(where, memory_format=torch.channels_last).eval()
    model.requires_grad_(False)
    size = model.visual.image_size
    return Backbone(
        name=chosen,
        weights=weights,
        model=model,
        tokenizer=tokenizer,
        preprocess=preprocess,
        image_size=size[0] if isinstance(size, tuple) else size,
        embed_dim=open_clip.get_model_config(chosen)["embed_dim"],
        device=where,
        precision=precision,
        fingerprint=fingerprint(model),
        logit_scale=float(model.logit_scale.exp()),
    )


def _built(name: str, source: str | None, found: files.Weights | None) -> tuple:
    """Model, preprocessing and tokenizer; `found` weights are not filled in yet."""
    with files.quiet() if found else nullcontext():
        model, _, preprocess = open_clip.create_model_and_transforms(
            name,
            pretrained=None if found else source,
            pretrained_image=False,
            pretrained_text=False,
            weights_only=True,
            **(found.preprocess if found else {}),
        )
    options = embedded.tokenizer_options(name)
    at = f"{files.FOLDER}{found.path.parent}" if found and found.config else name
    return model, preprocess, open_clip.get_tokenizer(at, **options)


def encode_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
    """Encode token ids [T, L] of any length L: text features [T, D], not normalised.

    open_clip's `encode_text` needs the full context length. This function runs the
    modules of CLIP's text tower in the same order, with positions and mask cut to L.
    Other towers (bidirectional, or read at another token) are left to open_clip.
    """
    if not reads_end_token(model):
        return model.encode_text(tokens)
    tower = text_tower(model)
    length = tokens.shape[1]
    x = tower.token_embedding(tokens) + tower.positional_embedding[:length]
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    x = tower.ln_final(x)
    x = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]
    return project_text(tower, x)


def project_text(tower: nn.Module, x: Tensor) -> Tensor:
    """Map a text tower's states [..., W] after its last norm to features [..., D]."""
    projection = tower.text_projection
    if isinstance(projection, nn.Module):
        return projection(x)
    return x if projection is None else x @ projection


def fingerprint(model: nn.Module) -> str:
    """Return a short hash of a model's weights and buffers, equal for equal models."""
    weights = sorted(model.state_dict().items())
    return key((name, value.float()) for name, value in weights)


def with_quick_gelu(name: str, weights: str) -> str:
    """Return the name of the architecture that a tag's weights were trained with.

    OpenAI's weights need QuickGELU. open_clip builds the plain name with GELU and only
    warns, which costs accuracy.
    """
    config = open_clip.get_pretrained_cfg(name, weights)
    return files.variant(name, True) if config and config.get("quick_gelu") else name


def resolve_device(device: str) -> torch.device:
    """Return a torch device; "auto" is the first of cuda, mps, cpu that is available.

    Raises ValueError for a device that is not available.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, usable in available.items() if usable)
    elif not available.get(device.split(":")[0]):
        raise ValueError(f"device {device!r} is not available here; use 'auto'")
    return torch.device(device)


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError for a precision that is unknown or unfit for the device."""
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r}: choose one of {list(DTYPES)}")
    if precision == "float16" and device.type == "cpu":
        raise ValueError("float16 is for GPUs; on a CPU use float32 or bfloat16")


def text_tower(model: nn.Module) -> nn.Module:
    """Return the module with the text tower's parts: the CLIP itself or its `.text`."""
    return getattr(model, "text", model)


def reads_end_token(model: nn.Module) -> bool:
    """Whether the text tower is causal and read at the end token, the highest id."""
    tower = text_tower(model)
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", ""))
    causal = getattr(tower, "attn_mask", None) is not None
    return pool == "argmax" and causal and getattr(tower, "cls_emb", None) is None


def _source(name: str, weights: str) -> str | None:
    """open_clip's argument `pretrained`: a tag, a file, or None for random weights.

    `ON_DISK` for weights that `helpers.models.weights` reads.
    """
    if weights == "random":
        return None
    if weights == embedded.TAG:
        return str(embedded.weights_file(name))
    if open_clip.get_pretrained_cfg(name, weights):
        return weights
    if files.is_on_disk(weights):
        return ON_DISK
    if nowhere := files.missing(weights):
        raise FileNotFoundError(nowhere)
    choices = files.accepted(weight_choices(name), weights)
    raise ValueError(f"unknown weights {weights!r} for {name}: {choices}")


def _load_failure(name: str, weights: str, why: str, page: str = "") -> str:
    first = why.strip().splitlines()[0].rstrip(".")
    source = f" from {page}" if page else ""
    return (
        f"cannot get the weights {weights!r} or the tokenizer of {name}: {first}. "
        f"Without a network, download the weights elsewhere{source} and give the "
        f"file's path as `weights`, with {name} as `backbone`. The backbone picto-rn "
        "with the weights picto needs no download, but knows drawn pictures only"
    )
