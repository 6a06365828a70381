"""CLIP backbones: one class in front of any open_clip model.

CLIP embeds images and texts on one unit sphere (Radford et al. 2021, arXiv
2103.00020). Everything in the study that needs an embedding asks a `Backbone` for it.
The towers are frozen, in evaluation mode, and never see a gradient here; methods that
tune weights take `backbone.model` and say so.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from helpers.keys import key
from helpers.models import embedded, fast
from helpers.models import weights as files
from helpers.paths import from_root

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
TEXT_BATCH = 256
ON_DISK = "on disk"


def names() -> list[str]:
    """Every architecture that `load` knows: open_clip's and the embedded ones."""
    embedded.register()
    return open_clip.list_models()


def weight_choices(name: str) -> list[str]:
    """What `weights` may be for this architecture, besides what `files.read` reads."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    own = [embedded.TAG] if name in embedded.names() else []
    return [*own, *tags, "random"]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen CLIP: `encode_images`, `encode_texts`, `template_features`.

    Frozen, since `encode_images` may read a copy of the weights (`fast.image_encoder`):
    whoever tunes `model` encodes with `model.encode_image`.

    `fingerprint` is a hash of all weights and names what was computed with them;
    `logit_scale` is exp of the learned log temperature (100 for OpenAI's weights);
    `preprocess` maps a PIL image to float32 [3, image_size, image_size].
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
        """Longest prompt in tokens, start and end tokens included."""
        return self.model.context_length

    @property
    def key(self) -> str:
        """All that decides the features of an input: what the store files them under.

        Weights alone do not: the same ones give other features with GELU instead of
        QuickGELU (another name), with another image size, mean or resizing, or on a
        device that rounds in another way.
        """
        preprocess = sorted(self.model.visual.preprocess_cfg.items())
        rounding = f"{self.device.type}|{self.precision}"
        return f"{self.name}|{self.fingerprint}|{rounding}|{preprocess}"

    def crop(self, image: Image) -> Tensor:
        """The part of `preprocess` before the floats: resize, crop, RGB.

        PIL image -> uint8 [3, image_size, image_size].
        """
        *steps, _, _ = self.preprocess.transforms
        for step in steps:
            image = step(image)
        return pil_to_tensor(image)

    def normalise(self, pixels: Tensor) -> Tensor:
        """The rest of `preprocess`, wherever the pixels are.

        uint8 [..., 3, H, W] -> float32; on a CPU, `normalise(crop(image))` is
        `preprocess(image)` to the bit.
        """
        return self.preprocess.transforms[-1](pixels.float() / 255)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Preprocessed images float32 [B, 3, H, W] -> unit features float32 [B, D]."""
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        with self._autocast():
            features = self._encode_image(images)
        return F.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Prompts, T of them -> unit features float32 [T, D].

        Prompts are encoded in batches of similar length, each cropped to its longest
        prompt. That is exact where the tower is causal and reads the feature at the end
        token, as CLIP's do: the padding behind it cannot matter. Other towers get the
        full context.
        """
        tokens = self.tokenize(texts)
        lengths = torch.full((len(tokens),), tokens.shape[1])
        if _ends_at_argmax(self.model):
            lengths = tokens.argmax(dim=-1) + 1  # the end token has the highest id
        order = lengths.argsort(stable=True)
        features = torch.empty(len(tokens), self.embed_dim)
        for rows in order.split(TEXT_BATCH):
            batch = tokens[rows, : int(lengths[rows].max())].to(self.device)
            with self._autocast():
                encoded = encode_tokens(self.model, batch)
            features[rows] = F.normalize(encoded.float(), dim=-1).cpu()
        return features.to(self.device)

    def template_features(
        self, class_names: Sequence[str], templates: Sequence[str]
    ) -> Tensor:
        """Features of every class in every template: unit float32 [K, C, D]."""
        prompts = [t.format(name) for t in templates for name in class_names]
        shape = (len(templates), len(class_names), self.embed_dim)
        return self.encode_texts(prompts).view(shape)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids int64 [T, context_length]; refuses prompts that do not fit."""
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
        """Built at first use: it may take the memory of one more image tower."""
        return fast.image_encoder(self.model)

    def _autocast(self):
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

    `weights`: a tag of open_clip ("openai"), "picto" for the embedded models, "random"
    for an untrained model of the true architecture (drawn from `seed`), or a file, a
    folder or a page of the hub that `helpers.models.weights` reads. Relative paths
    count from the repository's root.
    """
    embedded.register()
    if name not in open_clip.list_models():
        close = _closest(name, open_clip.list_models())
        raise ValueError(
            f"unknown backbone {name!r}; did you mean {close}? "
            "`python -c 'import open_clip; print(open_clip.list_models())'` lists all"
            + files.as_weights(name)
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
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, preprocess, tokenizer = _built(chosen, source, found)
    except Exception as error:
        raise RuntimeError(_load_failure(chosen, weights, error)) from error
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
    """Model, preprocessing and tokenizer; `found` weights are still to be filled in."""
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
    tokenizer = open_clip.get_tokenizer(files.tokenizer_source(name, found), **options)
    return model, preprocess, tokenizer


def encode_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
    """Text features [T, D], not normalised, of token ids [T, L] with any L.

    open_clip's own `encode_text` insists on the full context length; this one takes
    the modules of CLIP's text tower in the same order and slices positions and mask to
    L. Towers of another kind (bidirectional, or read elsewhere) are left to open_clip.
    """
    if not _ends_at_argmax(model):
        return model.encode_text(tokens)
    tower = _text_tower(model)
    length = tokens.shape[1]
    x = tower.token_embedding(tokens) + tower.positional_embedding[:length]
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    x = tower.ln_final(x)
    x = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]
    projection = tower.text_projection
    if isinstance(projection, nn.Module):
        return projection(x)
    return x if projection is None else x @ projection


def fingerprint(model: nn.Module) -> str:
    """A short hash of every weight and buffer: what "the same model" means here."""
    weights = sorted(model.state_dict().items())
    return key((name, value.float()) for name, value in weights)


def with_quick_gelu(name: str, weights: str) -> str:
    """The architecture that the weights of this tag were trained with.

    OpenAI's weights need QuickGELU; open_clip builds the plain name with GELU and only
    warns, which silently costs accuracy.
    """
    config = open_clip.get_pretrained_cfg(name, weights) or {}
    return files.variant(name, config.get("quick_gelu") or None)


def resolve_device(device: str) -> torch.device:
    """ "auto" is the first of cuda, mps, cpu that is there."""
    if device != "auto":
        available = {
            "cpu": True,
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
        }
        if not available.get(device.split(":")[0], False):
            raise ValueError(f"device {device!r} is not available here; use 'auto'")
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse precisions that do not exist or that the device computes badly."""
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r}: choose one of {list(DTYPES)}")
    if precision == "float16" and device.type == "cpu":
        raise ValueError("float16 is for GPUs; on a CPU use float32 or bfloat16")


def _text_tower(model: nn.Module) -> nn.Module:
    """open_clip keeps the text tower's modules on CLIP itself or under `.text`."""
    return getattr(model, "text", model)


def _ends_at_argmax(model: nn.Module) -> bool:
    """Whether the text tower is CLIP's: causal, and read at the highest token id."""
    tower = _text_tower(model)
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", ""))
    causal = getattr(tower, "attn_mask", None) is not None
    return pool == "argmax" and causal and getattr(tower, "cls_emb", None) is None


def weights_path(weights: str) -> Path:
    """The file that `weights` names; relative paths count from the repository."""
    return from_root(weights)


def _source(name: str, weights: str) -> str | None:
    """What open_clip takes as `pretrained`: a tag, a file, None for random weights.

    `ON_DISK` where the weights are not open_clip's to find.
    """
    if weights == "random":
        return None
    if weights == embedded.TAG:
        return str(embedded.weights_file(name))
    if open_clip.get_pretrained_cfg(name, weights):
        return weights
    if files.is_on_disk(weights):
        return ON_DISK
    if Path(weights).suffix in files.SUFFIXES:
        raise FileNotFoundError(f"no weights file at {weights_path(weights)}")
    choices = files.accepted(weight_choices(name), weights)
    raise ValueError(f"unknown weights {weights!r} for {name}: {choices}")


def _load_failure(name: str, weights: str, error: Exception) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"cannot get the weights {weights!r} or the tokenizer of {name}: {first}. "
        "Without a network, download the weights elsewhere and give the file's path as "
        f"`weights`, with {name} as `backbone`. {files.nearby(name, weights)}"
    )


def _closest(name: str, choices: list[str]) -> str:
    import difflib

    found = difflib.get_close_matches(name, choices, n=3, cutoff=0.3)
    return " or ".join(repr(choice) for choice in found) or "an open_clip model"
