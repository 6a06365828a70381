"""What `study classify` does: pictures, names and methods; no study, nothing written.

The methods are those of the registry that need no more than one image. Each gets the
arguments of `ARGUMENTS` that it declares without a default, and keeps its paper's
settings. What methods share is done once: prompts for all images; for each image
reading it, encoding it, and drawing and encoding its views.
"""

import argparse
import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from helpers import paths
from helpers.data import dataset
from helpers.data.dataset import open_image, to_rgb
from helpers.data.embedded import CLASS_NAMES
from helpers.data.folder import UNREAD, printable
from helpers.data.naming import Classes, flat, parse
from helpers.methods import registry
from helpers.methods.zero_shot import best_name, zero_shot
from helpers.models import clip, embedded
from helpers.models.clip import Backbone
from helpers.models.prompts import PromptTower
from helpers.progress import track
from helpers.prompts.names import alike, told_alike, too_long
from helpers.prompts.templates import TEMPLATES
from helpers.store.views import draw, encode
from helpers.study import checks, parameters
from helpers.study.process import print_error
from helpers.study.report import aligned
from helpers.words import folded

OPTIONS = ("context", "templates", "recipe", "views", "seed")
METHODS = ("zero_shot", "vote", "autoclip", "tpt")
IMAGE_ARGUMENTS = {"image_features", "views"}  # [1, D], [1, V, D]
ARGUMENTS = {"class_features", "template_features", "text_features", "context"}
ARGUMENTS |= IMAGE_ARGUMENTS | {"logit_scale"}
PROMPTS = 256  # of templates, encoded between two moves of the progress bar
SHOWN = 3  # classes in a table, and names in a sentence
PHOTOGRAPHS = "--model ViT-B-32-quickgelu --weights openai"


def run(arguments: argparse.Namespace) -> int:
    """The command: 0, or 1 if a file was left out. Other wrong input: ValueError."""
    own = embedded.TAG if arguments.model in embedded.names() else "openai"
    weights = parameters.resolve("weights", arguments.weights or own, paths.here())
    asked = {
        "--model": ("backbone", arguments.model),
        "--weights": ("weights", weights),
        "--device": ("device", arguments.device),
        "--seed": ("seed", arguments.seed),
        "--templates": ("text_templates", arguments.templates),
        "--recipe": ("augmentations", [arguments.recipe]),
        "--views": ("view_count", arguments.views),
    }
    sources = {key: option for option, (key, _) in asked.items()}
    checks.check(dict(asked.values()), sources)
    methods = chosen(arguments.method or METHODS)
    classes = parse(arguments.names, paths.here())
    if lines := too_long(arguments.model, flat(classes)[0]):
        raise ValueError("\n".join(lines))
    faults = {name: fault(paths.from_here(name)) for name in arguments.files}
    for name, reason in faults.items():
        if reason:
            print_error(f"{name}: {reason}")
    if all(faults.values()):
        raise ValueError("no picture is left to classify")

    lap = _stopwatch()
    backbone = clip.load(
        arguments.model, weights, arguments.device, seed=arguments.seed
    )
    side = backbone.image_size
    backbone.encode_images(torch.zeros(1, 3, side, side))  # the first one takes longer
    seconds = {"load": lap()}
    options = {key: getattr(arguments, key) for key in OPTIONS}
    classifier = Classifier(backbone, classes, methods, **options)
    if warning := told_alike(classifier.alike):
        print_error(warning)
    head = {
        "model": backbone.name,
        "weights": backbone.weights,
        "device": str(backbone.device),
        "about": about(backbone, classes),
        "names": classes,
        **options,
        "seconds": seconds | classifier.seconds,
    }
    if not arguments.json:
        print(heading(head), flush=True)
    images = []
    for name in track(faults, label="pictures") if arguments.json else faults:
        found: dict = {"path": name, "error": faults[name]}
        if not faults[name]:
            found = {"path": name, **classifier(paths.from_here(name))}
            if not arguments.json:
                print(f"\n{table(found)}", flush=True)
        images.append(found)
    if arguments.json:
        print(json.dumps(head | {"images": images}, indent=1))
    return 1 if any(faults.values()) else 0


def chosen(wanted: Sequence[str]) -> dict[str, Callable]:
    """Functions by key, of keys or names of methods, several with commas between them.

    Raises ValueError for one that is unknown, or needs more than an image and names.
    """
    possible, entries = usable(), registry.entries()
    keys = {folded(entry.name): key for key, entry in entries.items()}
    keys |= {folded(key): key for key in entries}
    found = {}
    for name in ",".join(wanted).split(","):
        key = keys.get(folded(name))
        if key not in possible:
            why = _refusal(key) if key else "is unknown"
            known = ", ".join(possible)
            raise ValueError(f"method {name.strip()!r} {why}; possible here: {known}")
        found[key] = possible[key]
    return found


def usable() -> dict[str, Callable]:
    """The functions that one image and its names suffice for, by key."""
    entries = registry.entries()
    return {
        key: function
        for key, function in sorted(registry.functions().items())
        if entries[key].needs in ("nothing", "image") and _wants(function) <= ARGUMENTS
    }


def _wants(function: Callable) -> set[str]:
    """The arguments that a method declares without a default."""
    return {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is not parameter.VAR_KEYWORD
    }


def _refusal(key: str) -> str:
    """Why a method of the registry is not for one image."""
    entry = registry.entries()[key]
    why = f"needs {registry.NEEDS[entry.needs].given}"
    if entry.needs in ("nothing", "image"):
        main = key in registry.functions()
        why = "needs more than prompts and views" if main else "is a chapter's variant"
    return f"{why}: chapter {entry.chapter} runs it"


def fault(path: Path) -> str:
    """Why there is no picture at the path, or ""."""
    if path.is_dir():
        return "a folder: chapter 08 is for folders, `study run my_images`"
    if not path.is_file():
        return "no such file"
    return UNREAD.get(path.suffix.lower()) or dataset.fault(path)


class Classifier:
    """Methods of one backbone for one list of classes.

    `seconds` has what prompts took, `alike` the names that the backbone mixes up.
    `context`: words before a name; `templates`: what methods of several prompts use, a
    key of `TEMPLATES`; `recipe`, `views` and `seed`: so many views, the image included.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Classes,
        methods: Mapping[str, Callable],
        context: str = "a photo of a",
        templates: str = "openai_80",
        recipe: str = "preaugment",
        views: int = 64,
        seed: int = 0,
    ) -> None:
        self.backbone, self.classes, self.methods = backbone, classes, methods
        self.recipe, self.count, self.seed = recipe, views, seed
        self.wants = {key: _wants(function) for key, function in methods.items()}
        wanted = set().union(*self.wants.values())
        names, owner = flat(classes)
        self.owner, self.seconds = torch.from_numpy(owner), {}
        lap = _stopwatch()
        class_features = backbone.encode_texts([f"{context} {name}." for name in names])
        scale = backbone.logit_scale
        self.alike = alike(class_features, names, owner=self.owner)
        self.given = {"class_features": class_features, "logit_scale": scale}
        if "context" in wanted:
            tower = PromptTower(backbone, names, context)
            self.given |= {"text_features": tower.features, "context": tower.context}
        self.seconds["prompts"] = lap()
        if "template_features" in wanted:
            found = _template_features(backbone, names, TEMPLATES[templates])
            self.given["template_features"] = found
            self.seconds["templates"] = lap()

    def __call__(self, path: Path) -> dict:
        """What the methods say about a picture, for JSON; its name seeds its views."""
        lap = _stopwatch()
        image = to_rgb(open_image(path, upright=True))
        seconds = {"read": lap()}
        features = self.backbone.encode_images(self.backbone.preprocess(image)[None])
        given = {**self.given, "image_features": features}
        seconds["image"] = lap()
        if any("views" in wants for wants in self.wants.values()):
            how = printable(path.name), self.recipe, self.count, self.seed
            drawn = draw(self.backbone, image, *how)
            given["views"] = encode(self.backbone, drawn)[None].to(features.device)
            seconds["views"] = lap()
        answers = {}
        for key, method in self.methods.items():
            wants = self.wants[key]
            lap()
            with torch.no_grad():
                made = method(**{name: given[name] for name in wants})
                if not wants & IMAGE_ARGUMENTS:  # class features, made of prompts alone
                    made = zero_shot(features, made, self.backbone.logit_scale)
            logits = best_name(made.cpu(), self.owner)[0]
            own = lap()
            looking = seconds["views" if "views" in wants else "image"]
            answers[key] = self._answer(logits) | {
                "seconds": own,
                "seconds_alone": seconds["read"] + looking + own,
            }
        return {
            "width": image.width,
            "height": image.height,
            "seconds": seconds,
            "methods": answers,
            "agree": len({answer["prediction"] for answer in answers.values()}) == 1,
        }

    def _answer(self, logits: torch.Tensor) -> dict:
        """Prediction, confidence and probabilities from logits [C]."""
        shares = logits.softmax(dim=0)
        best = int(shares.argmax())
        return {
            "prediction": self.classes[best][0],
            "confidence": float(shares[best]),
            "probabilities": {
                names[0]: share
                for names, share in zip(self.classes, shares.tolist(), strict=True)
            },
        }


def about(backbone: Backbone, classes: Classes) -> str:
    """A warning that the weights do not know these classes, or ""."""
    if backbone.weights == "random":
        return "The weights are random, and so are the answers."
    if backbone.weights != embedded.TAG:
        return ""
    known = {folded(name) for name in CLASS_NAMES}
    strange = [names[0] for names in classes if known.isdisjoint(map(folded, names))]
    text = f"{backbone.name} knows drawn pictures of {len(CLASS_NAMES)} classes only"
    if strange:
        more = f" and {len(strange) - SHOWN} others" if len(strange) > SHOWN else ""
        text += f", not {', '.join(strange[:SHOWN])}{more}"
    return f"{text}. For photographs ask OpenAI's CLIP: {PHOTOGRAPHS}"


def heading(head: Mapping) -> str:
    """The lines above all tables: model, device and prompts."""
    seconds, count = head["seconds"], sum(map(len, head["names"]))
    lines = [
        f"{head['model']}, weights {head['weights']}, on {head['device']}: "
        f"loaded in {seconds['load']:.1f} s",
        f'prompts, once for all pictures: {count} as "{head["context"]} '
        f'{head["names"][0][0]}." in {seconds["prompts"]:.2f} s',
    ]
    if "templates" in seconds:
        total = count * len(TEMPLATES[head["templates"]])
        lines[1] += f"; {total} of {head['templates']} in {seconds['templates']:.2f} s"
    return "\n".join([*filter(None, [head["about"]]), *lines])


def table(found: Mapping) -> str:
    """A picture's answers: a row per method, then where the methods agree."""
    rows = []
    for key, answer in found["methods"].items():
        shares = sorted(answer["probabilities"].items(), key=lambda s: -s[1])[:SHOWN]
        best = [f"{name} {share:.1%}" for name, share in shares]
        times = f"{answer['seconds']:.3f}", f"{answer['seconds_alone']:.3f}"
        rows.append((_called(key), *best, *times))
    titles = ["method", "first", "second", "third"][: len(rows[0]) - 2]
    seconds = found["seconds"]
    shared = f"reading {seconds['read']:.3f} s, encoding {seconds['image']:.3f} s"
    if "views" in seconds:
        shared += f", drawing and encoding views {seconds['views']:.3f} s"
    return "\n".join(
        [
            f"{found['path']}, {found['width']} x {found['height']} pixels",
            aligned([(*titles, "seconds", "alone"), *rows]),
            f"Shared: {shared}; alone counts what the method needs of it.",
            verdict(found["methods"]),
        ]
    )


def verdict(methods: Mapping[str, Mapping]) -> str:
    """A sentence about which methods agree."""
    groups: dict[str, list[str]] = {}
    for key, answer in methods.items():
        groups.setdefault(answer["prediction"], []).append(_called(key))
    if len(groups) == 1:
        return f"All say {', '.join(groups)}."
    sides = [f"{name} ({', '.join(who)})" for name, who in groups.items()]
    return f"They disagree: {'; '.join(sides)}."


def _called(key: str) -> str:
    return registry.names()[key] or key


def _template_features(
    backbone: Backbone, names: Sequence[str], templates: Sequence[str]
) -> torch.Tensor:
    """Unit features [K, C, D], with a progress bar where there are many prompts."""
    at_once = max(1, PROMPTS // len(names))
    parts = [templates[i : i + at_once] for i in range(0, len(templates), at_once)]
    shown = track(parts, label="encoding prompts") if len(parts) > 1 else parts
    return torch.cat([backbone.template_features(names, part) for part in shown])


def _stopwatch() -> Callable[[], float]:
    """A function that gives the seconds since its last call."""
    last = time.perf_counter()

    def lap() -> float:
        nonlocal last
        before, last = last, time.perf_counter()
        return last - before

    return lap
