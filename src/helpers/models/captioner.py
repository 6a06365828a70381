"""Captioners: transformers' `VisionEncoderDecoderModel`, from the hub or embedded.

An image encoder makes a sequence of tokens; a GPT-2 reads them by cross-attention and
writes the caption (the recipe of nlpconnect/vit-gpt2-image-captioning). The embedded
`picto-captioner` is of the same class: its encoder is a frozen embedded CLIP, read
before its pooling; only a projection and the decoder were trained.

`helpers.store.captions` keeps the captions.
"""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PretrainedConfig,
    PreTrainedModel,
    VisionEncoderDecoderModel,
)
from transformers.modeling_outputs import BaseModelOutput

from helpers.models import clip, embedded, hub
from helpers.models.fast import attention_pool, fold
from helpers.models.optional import MissingModel

EMBEDDED = "picto-captioner"
HUB = "nlpconnect/vit-gpt2-image-captioning"
HUB_SIZE = "1 GB"
BEAMS, MAX_TOKENS = 4, 16  # the hub model's own settings
BATCH, HUB_BATCH = 128, 16  # pictures at once: 0.1 and 1 GB of keys and values


class TowerConfig(PretrainedConfig):
    """transformers' config of a CLIP image tower as an encoder."""

    model_type = "clip-tower"

    def __init__(self, backbone: str = "picto-rn", hidden_size: int = 128, **options):
        self.backbone, self.hidden_size = backbone, hidden_size
        super().__init__(**options)


AutoConfig.register(TowerConfig.model_type, TowerConfig, exist_ok=True)


class Tower(PreTrainedModel):
    """A frozen embedded CLIP as an encoder with local and global features.

    Three levels of CLIP's ResNet become tokens of the decoder's width: the feature maps
    of the last two stages, a token per cell, and the pooled feature.
    """

    config_class = TowerConfig
    main_input_name = "pixel_values"

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(config)
        model = clip.load(config.backbone, embedded.TAG, "cpu").model
        self.trunk = fold(model.visual)
        last = self.trunk.attnpool
        wide = last.k_proj.in_features
        widths = wide // 2, wide, last.c_proj.out_features
        self.neck = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.hidden_size))
            for width in widths
        )
        pool = last.positional_embedding
        cells = len(pool) - 1  # of the last stage; the stage before has 4 times as many
        self.positions = nn.Parameter(torch.zeros(5 * cells + 1, config.hidden_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: transformers would initialise the trunk's weights again."""

    def forward(self, pixel_values: Tensor, **_) -> BaseModelOutput:
        """Encode preprocessed images [B, 3, H, W]: tokens [B, T, hidden_size]."""
        return BaseModelOutput(self.project(self.levels(pixel_values)))

    @torch.no_grad()
    def levels(self, pixel_values: Tensor) -> list[Tensor]:
        """Compute the frozen part: tokens of each level, [B, cells, channels]."""
        trunk = self.trunk
        early = trunk.layer2(trunk.layer1(trunk.stem(pixel_values)))
        middle = trunk.layer3(early)
        late = trunk.layer4(middle)
        whole = F.normalize(attention_pool(trunk.attnpool, late), dim=-1)
        maps = [level.flatten(2).transpose(1, 2) for level in (middle, late)]
        return [*maps, whole[:, None]]

    def project(self, levels: Sequence[Tensor]) -> Tensor:
        """Compute the trained part: tokens [B, T, hidden_size] of all levels."""
        parts = [layer(x) for layer, x in zip(self.neck, levels, strict=True)]
        return torch.cat(parts, dim=1) + self.positions


@dataclass(frozen=True, eq=False)
class Captioner:
    """A loaded captioner: `captioner(images)` gives a caption for each image.

    `beams` is the width of the beam search, `max_tokens` the greatest length of a
    caption, start and end tokens included, `batch` the images that fit in memory.
    """

    name: str
    model: VisionEncoderDecoderModel
    preprocess: Callable[[Image.Image], Tensor]
    decode: Callable[[Tensor], list[str]]
    device: torch.device
    beams: int
    max_tokens: int
    batch: int
    fingerprint: str

    @property
    def search(self) -> GenerationConfig:
        """The model's generation settings with our `beams` and `max_tokens`."""
        settings = copy.deepcopy(self.model.generation_config)
        settings.num_beams, settings.max_length = self.beams, self.max_tokens
        return settings

    @property
    def key(self) -> str:
        """All that decides a caption besides the image: the key of stored captions."""
        return f"{self.fingerprint}|{self.beams}|{self.max_tokens}|{self.device.type}"

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """Caption RGB images by beam search; a caption may be empty."""
        pixels = torch.stack([self.preprocess(image) for image in images])
        written = self.model.generate(
            pixel_values=pixels.to(self.device), generation_config=self.search
        )
        return [" ".join(text.split()) for text in self.decode(written)]


def load(
    name: str = EMBEDDED,
    device: str = "auto",
    beams: int = BEAMS,
    max_tokens: int = MAX_TOKENS,
) -> Captioner:
    """Load the embedded captioner, one of the Hugging Face hub, or one in a folder.

    Raises ValueError for too few beams or tokens, and `MissingModel` with the command
    that fetches a captioner that is not on this machine.
    """
    if beams < 1 or max_tokens < 3:
        raise ValueError(
            f"beams {beams} and max_tokens {max_tokens}: at least 1 and 3 are needed"
        )
    if name == EMBEDDED:
        return wrap(*_embedded(name), device, beams, max_tokens)
    return _ready(name, *_pretrained(name), device, beams, max_tokens)


def wrap(
    model: VisionEncoderDecoderModel,
    backbone: str,
    device: str = "auto",
    beams: int = BEAMS,
    max_tokens: int = MAX_TOKENS,
) -> Captioner:
    """Wrap a model of `new_model` with the preprocessing and tokenizer of its CLIP."""
    preprocess = clip.load(backbone, embedded.TAG, "cpu").preprocess
    decode = _decoder(tokenizer(backbone))
    return _ready(EMBEDDED, model, preprocess, decode, device, beams, max_tokens)


def _ready(
    name: str,
    model: VisionEncoderDecoderModel,
    preprocess: Callable,
    decode: Callable,
    device: str,
    beams: int,
    max_tokens: int,
) -> Captioner:
    where = clip.resolve_device(device)
    return Captioner(
        name=name,
        model=model.to(where).eval(),
        preprocess=preprocess,
        decode=decode,
        device=where,
        beams=beams,
        max_tokens=max_tokens,
        batch=BATCH if name == EMBEDDED else HUB_BATCH,
        fingerprint=clip.fingerprint(model),
    )


def new_model(backbone: str, decoder: dict[str, int]) -> VisionEncoderDecoderModel:
    """Make an untrained captioner on a frozen embedded CLIP, with that CLIP's tokens.

    `decoder` has GPT-2's sizes: n_embd, n_layer, n_head, n_positions.
    """
    tokens = tokenizer(backbone)
    start, end = tokens.sot_token_id, tokens.eot_token_id
    config = GPT2Config(
        vocab_size=tokens.vocab_size,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=0,
        add_cross_attention=True,
        is_decoder=True,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        **decoder,
    )
    encoder = Tower(TowerConfig(backbone, hidden_size=config.n_embd))
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=GPT2LMHeadModel(config))
    model.encoder.trunk.requires_grad_(False)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=0,
        suppress_tokens=[0, start],
    )
    return model


def _embedded(name: str) -> tuple[VisionEncoderDecoderModel, str]:
    """The embedded captioner, and the name of its CLIP."""
    file, recipe = embedded.asset(name), embedded.card(name)["recipe"]
    model = new_model(recipe["backbone"], recipe["decoder"])
    trained = {key: value.float() for key, value in load_file(file).items()}
    missing, unknown = model.load_state_dict(trained, strict=False)
    own = [k for k in missing if not k.startswith(("encoder.trunk.", "decoder.lm_"))]
    if unknown or own:
        raise ValueError(f"{file} does not fit {name}: `study train {name}` remakes it")
    model.tie_weights()
    return model, recipe["backbone"]


def tokenizer(backbone: str) -> Callable:
    """Return open_clip's tokenizer of an embedded CLIP."""
    embedded.register()
    return open_clip.get_tokenizer(backbone, **embedded.tokenizer_options(backbone))


def _decoder(tokens: Callable) -> Callable[[Tensor], list[str]]:
    special = {0, tokens.sot_token_id, tokens.eot_token_id}

    def decode(written: Tensor) -> list[str]:
        rows = [[t for t in row if t not in special] for row in written.tolist()]
        texts = [tokens.decode(row).strip() if row else "" for row in rows]
        # Decoding puts a blank before punctuation and around hyphens.
        return [re.sub(r" ([.,])", r"\1", text.replace(" - ", "-")) for text in texts]

    return decode


def _pretrained(name: str) -> tuple:
    """Model, preprocessing and decoding of a captioner from the hub or a folder."""
    source = hub.source(name)
    try:
        model = VisionEncoderDecoderModel.from_pretrained(source)
        processor = AutoImageProcessor.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # damaged or missing files, no network: many types
        size = f" (about {HUB_SIZE})" if name == HUB else ""
        raise MissingModel(
            "captioner",
            f"no captioner {name!r} here: fetch it with `hf download {name}`{size} "
            f"where there is a network, or give the folder that holds it; "
            f"{EMBEDDED!r} ships with the package, and knows the embedded pictures "
            "only",
            error,
        ) from error

    def preprocess(image: Image.Image) -> Tensor:
        return processor(images=image, return_tensors="pt")["pixel_values"][0]

    def decode(written: Tensor) -> list[str]:
        return tokenizer.batch_decode(written, skip_special_tokens=True)

    if tokenizer.pad_token_id is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, preprocess, decode
