"""What test-time prompt tuning costs: the released algorithm next to ours.

    OMP_NUM_THREADS=1 python tests/benchmarks/tpt.py --backbone RN50-quickgelu

The literal side does for every image what the released code does: encode its views,
run full-length prompts through the text tower forward, backward and forward again,
encode view 0 once more. Ours encodes the views once and tunes from their features. Both
have the same random full-size weights and run in turn, in float32. Times are CPU
seconds of all threads, so that a busy machine matters little. A literal image takes one
to two minutes of one core and, for 200 classes, about 10 GB.

The Jacobian of a full-size tower takes a quarter of an hour and more. Unless asked for
by `--jacobian`, a stand-in of its size shows what an image costs once it is there.
"""

import argparse
import time
from collections.abc import Callable

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.methods.selection import marginal_entropy
from helpers.methods.tpt import FIRST_STEPS, original_logits, tune
from helpers.models import clip
from helpers.models.prompts import PromptTower

SCALE = 100.0  # of OpenAI's weights


def timed(call: Callable, *arguments, **keywords) -> tuple[float, object]:
    """CPU seconds, and what the call returned."""
    began = time.process_time()
    result = call(*arguments, **keywords)
    return time.process_time() - began, result


def pictures(images: int, views: int, size: int) -> Tensor:
    """Smooth random images, unlike enough for their views to differ in entropy."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(images * views, 3, 6, 6, generator=generator)
    fine = F.interpolate(coarse, size=(size, size), mode="bicubic")
    return fine.unflatten(0, (images, views))


def literal_features(model: torch.nn.Module, tokens: Tensor, context: Tensor) -> Tensor:
    """Unit features of full-length prompts, all layers at all positions."""
    x = model.token_embedding(tokens)
    learned = context.expand(len(tokens), -1, -1)
    x = torch.cat([x[:, :1], learned, x[:, 1 + len(context) :]], dim=1)
    x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
    x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=-1)]
    return F.normalize(x @ model.text_projection, dim=-1)


def literal_image(
    model: torch.nn.Module, tokens: Tensor, start: Tensor, views: Tensor
) -> tuple[dict[str, float], Tensor, Tensor]:
    """The released algorithm on one image: seconds by stage, selection and logits."""
    seconds = {}
    context = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.AdamW([context], lr=5e-3)
    with torch.no_grad():
        seconds["views"], encoded = timed(model.encode_image, views, normalize=True)
    seconds["text forward"], texts = timed(literal_features, model, tokens, context)
    logits = SCALE * encoded @ texts.T
    entropies = torch.special.entr(logits.softmax(-1)).sum(-1)
    selected = entropies.argsort()[: len(views) // 10]
    loss = marginal_entropy(logits[selected][None]).sum()
    seconds["text backward"], _ = timed(loss.backward)
    del texts, logits, loss
    optimiser.step()
    with torch.no_grad():
        seconds["text again"], texts = timed(literal_features, model, tokens, context)
        seconds["view 0 again"], first = timed(
            model.encode_image, views[:1], normalize=True
        )
    return seconds, selected, SCALE * first @ texts.T


def compare(name: str, images: int, classes: int, views: int, jacobian: bool) -> None:
    """Print stages and ratios of one backbone."""
    backbone = clip.load(name, "random", device="cpu")
    names = list(dict.fromkeys(open_clip.IMAGENET_CLASSNAMES))[:classes]
    seconds, tower = timed(PromptTower, backbone, names)
    context = tower.context
    pixels = pictures(images, views, backbone.image_size)
    graph = tower.peak_bytes(gradient=True) / 1e9
    print(f"\n{name}, {classes} classes, {views} views, {images} images, CPU seconds")
    print(f"  ours, once: packing {seconds:.2f}, graph of {graph:.1f} GB")

    backbone.encode_images(pixels[0, :1])  # what the encoder prepares, it does once
    seconds, encoded = timed(
        lambda: [backbone.encode_images(image) for image in pixels]
    )
    features = torch.stack(encoded)
    ours = {"views": seconds / images}
    start = context.clone().requires_grad_()
    once, shared = timed(tower.features, start)
    del shared
    seconds, tuned = timed(tune, features, tower.features, SCALE, context)
    ours["gradient and step"] = (seconds - once) / images
    arguments = (features, tower.features, SCALE, tuned.context)
    seconds, logits = timed(original_logits, *arguments)
    ours["text again"] = seconds / images
    print(f"  ours, once: first class features and their graph {once:.2f}")
    print("  ours, an image:", stages(ours))

    print(f"  Jacobian: {tower.jacobian_bytes / 1e9:.2f} GB, ", end="")
    if jacobian:
        seconds, rows = timed(tower.jacobian, context)
        print(f"made in {seconds:.0f} s")
    else:
        rows = torch.full((classes, tower.embed_dim, *context.shape), 1e-3)
        print("a stand-in for its time")
    many = features[:1].expand(FIRST_STEPS, -1, -1)
    plain = timed(lambda: tower.features(context).sum())[0]
    seconds, fast = timed(tune, many, tower.features, SCALE, context, jacobian=rows)
    by_product = (seconds - plain) / FIRST_STEPS
    print(f"  ours, an image of {FIRST_STEPS}, by the Jacobian: {by_product:.3f}")
    if jacobian:
        apart = (fast.context[0] - tuned.context[0]).abs() > 1e-3
        print(f"    turns {int(apart.sum())} of {apart.numel()} signs")
    del rows, fast, many

    prompts = [f"a photo of a {name}." for name in names]
    tokens = backbone.tokenize(prompts)
    literal, same, worst = [], [], 0.0
    for i, image in enumerate(pixels):
        spent, selected, expected = literal_image(
            backbone.model, tokens, context, image
        )
        literal.append(spent)
        alike = selected.sort().values.equal(tuned.selected[i].sort().values)
        same.append(alike and expected.argmax().item() == logits[i].argmax().item())
        worst = max(worst, (expected[0] - logits[i]).abs().max().item())
    theirs = {stage: sum(s[stage] for s in literal) / images for stage in literal[0]}
    print("  literal, an image:", stages(theirs))
    print(
        f"  views and prediction agree on {sum(same)} of {images} images, "
        f"logits to {worst:.0e}"
    )

    text = sum(s for stage, s in theirs.items() if stage.startswith("text"))
    step, again = ours["gradient and step"], ours["text again"]
    whole = sum(theirs.values())
    for label, adaptation in {
        "": step + again,
        ", Jacobian": by_product + again,
    }.items():
        print(
            f"  literal / ours{label}: text and adaptation {text / adaptation:.0f} x, "
            f"with the images {whole / (adaptation + ours['views']):.1f} x"
        )


def stages(seconds: dict[str, float]) -> str:
    """One line of times, and their sum."""
    parts = ", ".join(f"{stage} {spent:.2f}" for stage, spent in seconds.items())
    return f"{parts}; in all {sum(seconds.values()):.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backbone", nargs="+", default=["RN50-quickgelu", "ViT-B-16-quickgelu"]
    )
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--views", type=int, default=64)
    parser.add_argument("--jacobian", action="store_true", help="make it in full")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in options.backbone:
        compare(name, options.images, options.classes, options.views, options.jacobian)
