"""What a parameter may be: the one table of types and possible values.

`study run` and every notebook's first call look here. Rules import what they ask
(open_clip, torch) only when a value needs it, so that `study list` starts at once.
"""

import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from helpers.paths import from_root

Rule = Callable[[Any, Mapping[str, Any]], str]
"""(value, all parameters) -> "" if the value is possible, else what would be."""

LARGEST = sys.float_info.max  # whole numbers beyond it are no floats
SHOWN = 200  # characters of a wrong value
NOUNS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
}


def check(
    parameters: Mapping[str, Any],
    source: str | Mapping[str, str],
    types: Mapping[str, type] | None = None,
) -> None:
    """Raise one ValueError that names every wrong type and impossible value.

    `source` says where the values stand (a file), for all or key by key; `types` are
    the declared types, by default those of `RULES`. Keys unknown to both pass.
    """
    if types is None:
        types = {key: wanted for key, (wanted, _) in RULES.items()}
    faults = {
        key: _type_fault(value, types[key]) if key in types else ""
        for key, value in parameters.items()
    }
    # A rule that looks at other values finds those of the right type only.
    typed = {key: value for key, value in parameters.items() if not faults[key]}
    problems = []
    for key, value in parameters.items():
        where = source if isinstance(source, str) else source[key]
        fault = faults[key]
        if not fault and key in RULES:
            fault = RULES[key][1](value, typed)
        if fault:
            problems.append(f"{where}: {key} is {_shown(value)}; {fault}")
    if problems:
        raise ValueError("\n".join(problems))


def closest(word: str, words: Iterable[str]) -> str:
    """ " (did you mean ...?)" where a known word is near, else nothing."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _type_fault(value: Any, wanted: type) -> str:
    if wanted in (int, float) and type(value) in (wanted, int):
        return "" if abs(value) <= LARGEST else "accepted: a finite number"
    if type(value) is wanted:
        return ""
    hint = ""
    if wanted is str and isinstance(value, bool):
        hint = "; YAML reads yes, no, on and off as true or false: put it in quotes"
    elif wanted is float and isinstance(value, str):
        hint = _number_hint(value)
    elif wanted is list:
        hint = f", say [{value}]"
    return f"accepted: {NOUNS[wanted]}{hint}"


def _number_hint(text: str) -> str:
    """YAML takes 1e-3 and 1.0e3 for text: it wants a dot and the exponent's sign."""
    found = re.fullmatch(r"([-+]?\d+)(\.\d*)?e([-+]?)(\d+)", text, re.IGNORECASE)
    if not found:
        return ""
    whole, fraction, sign, exponent = found.groups()
    written = f"{whole}{fraction or '.0'}e{sign or '+'}{exponent}"
    return f"; YAML reads it as text: write {written}"


def _shown(value: Any) -> str:
    """The value as Python writes it, its beginning where that is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _anything(value: Any, parameters: Mapping[str, Any]) -> str:
    return ""


def _one_of(value: str, names: Iterable[str]) -> str:
    names = list(names)
    if value in names:
        return ""
    if len(names) <= 20:
        return f"accepted: {', '.join(names)}"
    near = difflib.get_close_matches(value, names, n=3) or names[:3]
    return f"accepted: {', '.join(near)} and {len(names) - len(near)} others"


def _several(value: list, known: Iterable[str]) -> bool:
    """Whether these are some of the known names, none twice."""
    texts = [str(name) for name in value]  # YAML's lists may hold lists
    return len(set(texts)) == len(texts) and set(texts) <= set(known)


def _are_numbers(value: list, low: float, high: float = LARGEST) -> bool:
    return all(type(x) in (int, float) and low <= x <= high for x in value)


def _are_whole(value: list, low: int) -> bool:
    return all(type(x) is int and low <= x <= LARGEST for x in value)


def _between(low: int, high: float) -> Rule:
    bounds = f"at least {low}" if high == math.inf else f"{low} to {high}"

    def rule(value: float, parameters: Mapping[str, Any]) -> str:
        return "" if low <= value <= high else f"accepted: {bounds}"

    return rule


def _images(value: int, parameters: Mapping[str, Any]) -> str:
    return "" if value == 0 or value > 1 else "accepted: 0 for all, or at least 2"


def _study(value: str, parameters: Mapping[str, Any]) -> str:
    if re.fullmatch(r"\w[\w.-]*", value, re.ASCII):
        return ""
    return "accepted: a folder's name of letters, digits, '_', '-' and '.'"


def _dataset(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers import data

    return _one_of(value, data.names())


def _shifts(value: list, parameters: Mapping[str, Any]) -> str:
    from helpers import data

    others = [name for name in data.names() if name != parameters.get("dataset")]
    if not _several(value, others):
        return f"accepted: a list without repetition from {', '.join(others)}"
    faults = [_classes(name, parameters) for name in value]
    return next(filter(None, faults), "")


def _classes(value: str, parameters: Mapping[str, Any]) -> str:
    """Chapters compare data sets class by class."""
    from helpers import data

    dataset = parameters.get("dataset")
    if not value or dataset not in data.names():
        return ""
    fault = data.other_classes(value, dataset, parameters.get("data_root", ""))
    return f"{fault}; accepted: sets of the same classes" if fault else ""


def _backbone(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.models import clip
    from helpers.models import weights as files

    return _one_of(value, clip.names()) + files.as_weights(value)


def _second_backbone(value: str, parameters: Mapping[str, Any]) -> str:
    if not value:
        return ""
    from helpers.models import clip

    weights = parameters.get("weights", "")
    first = clip.with_quick_gelu(parameters.get("backbone", ""), weights)
    if first == clip.with_quick_gelu(value, weights):
        return 'accepted: another one than backbone, or "" for none'
    fault = _backbone(value, parameters)
    if fault or _weights(weights, parameters):
        return fault  # the weights' own rule says what they lack
    return _weights(weights, {"backbone": value})


def _weights(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.models import clip
    from helpers.models import weights as files

    backbone = parameters.get("backbone")
    if backbone not in clip.names():
        return ""  # the backbone's own rule says so
    choices = clip.weight_choices(backbone)
    if value in choices:
        return ""
    if files.is_on_disk(value):
        return _refusal(files.check, value, backbone)
    return f"accepted for {backbone}: {files.accepted(choices, value)}"


def _device(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.models import clip

    fault = _one_of(value, ["auto", "cpu", "cuda", "mps"])
    return fault or _refusal(clip.resolve_device, value)


def _precision(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.models import clip

    fault = _one_of(value, clip.DTYPES)
    device = parameters.get("device", "auto")
    if fault or _device(device, parameters):
        return fault
    return _refusal(clip.check_precision, value, clip.resolve_device(device))


def _prompt_sets(value: list, parameters: Mapping[str, Any]) -> str:
    from helpers.prompts.templates import TEMPLATES

    known = [*TEMPLATES, "waffle", *(["pooled"] if parameters.get("texts") else [])]
    if value and _several(value, known):
        return ""
    hint = "" if "pooled" in known else "; pooled needs texts"
    return f"accepted: a list without repetition from {', '.join(known)}{hint}"


def _closer(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.prompts.templates import TEMPLATES

    fault = _one_of(value, map(str, parameters.get("prompt_sets", [])))
    if fault or len(TEMPLATES.get(value, "ab")) > 1:
        return fault
    return "accepted: a set of two templates or more, to weigh against each other"


def _texts(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.prompts import descriptions

    try:
        if value:
            descriptions.read(value)
    except (ValueError, FileNotFoundError) as error:
        return f'{error}; or "" for none'
    return ""


def _shares(value: list, parameters: Mapping[str, Any]) -> str:
    fine = value and _are_numbers(value, 0, 1) and 0 not in value
    return "" if fine else "accepted: a list of numbers in (0, 1]"


def _share(value: float, parameters: Mapping[str, Any]) -> str:
    return "" if 0 < value <= 1 else "accepted: a number in (0, 1]"


def _view_share(value: float, parameters: Mapping[str, Any]) -> str:
    views = parameters.get("view_count", 0)
    if views > 1 and 0 < value <= 1 and int(value * views) == 0:
        return f"accepted: a number from 1/{views}, one view of {views}, to 1"
    return _share(value, parameters)


def _aggregation(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.methods.autoclip import AGGREGATIONS

    return _one_of(value, AGGREGATIONS)


def _counts(value: list, parameters: Mapping[str, Any]) -> str:
    fine = value and _are_whole(value, 2)
    return "" if fine else "accepted: a list of whole numbers of at least 2"


def _views(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.views import VIEWS

    return _one_of(value, VIEWS)


def _augmentations(value: list, parameters: Mapping[str, Any]) -> str:
    from helpers.views import VIEWS

    if value and _several(value, VIEWS):
        return ""
    return f"accepted: a list without repetition from {', '.join(VIEWS)}"


def _view_count(value: int, parameters: Mapping[str, Any]) -> str:
    if value < 10 and not {"augmentations", "diffusion"}.isdisjoint(parameters):
        return "accepted: at least 10, of which a tenth is kept"
    return _between(2, math.inf)(value, parameters)


def _view_counts(value: list, parameters: Mapping[str, Any]) -> str:
    fine = value and _are_whole(value, 10)
    return "" if fine else "accepted: a list of whole numbers from 10 on"


def _fractions(value: list, parameters: Mapping[str, Any]) -> str:
    counts = parameters.get("view_counts", [])
    views = max(counts) if counts and not _view_counts(counts, parameters) else 10
    if value and _are_numbers(value, 1 / views, 1):
        return ""
    return f"accepted: a list of numbers from 1/{views}, one view of {views}, to 1"


def _step_counts(value: list, parameters: Mapping[str, Any]) -> str:
    fine = value and _are_whole(value, 1)
    return "" if fine else "accepted: a list of whole numbers from 1 on"


def _whole_numbers(value: list, parameters: Mapping[str, Any]) -> str:
    fine = value and _are_whole(value, 0)
    return "" if fine else "accepted: a list of whole numbers from 0 on"


def _rates(value: list, parameters: Mapping[str, Any]) -> str:
    fine = value and _are_numbers(value, 0) and 0 not in value
    return "" if fine else "accepted: a list of numbers above 0"


def _ratios(value: list, parameters: Mapping[str, Any]) -> str:
    fine = value and _are_numbers(value, 1)
    return "" if fine else "accepted: a list of numbers from 1 on"


def _remembering(value: list, parameters: Mapping[str, Any]) -> str:
    from helpers.methods import memory

    known = [name for name in memory.ONLINE if name not in memory.OF_VIEWS]
    if value and _several(value, known):
        return ""
    return f"accepted: a list without repetition from {', '.join(known)}"


def _focus(value: str, parameters: Mapping[str, Any]) -> str:
    known = [parameters.get("dataset"), *parameters.get("shifts", [])]
    return _one_of(value, map(str, known))


def _dataset_or_none(value: str, parameters: Mapping[str, Any]) -> str:
    fault = _dataset(value, parameters) if value else ""
    return f'{fault}, or "" for none' if fault else ""


def _kin_or_none(value: str, parameters: Mapping[str, Any]) -> str:
    return _dataset_or_none(value, parameters) or _classes(value, parameters)


def _file_or_none(value: str, parameters: Mapping[str, Any]) -> str:
    if not value or os.path.isfile(from_root(value)):
        return ""
    return 'accepted: the path of a file that is there, or "" for none'


def _positive(value: float, parameters: Mapping[str, Any]) -> str:
    return "" if value > 0 else "accepted: a number above 0"


def _view_sets(value: list, parameters: Mapping[str, Any]) -> str:
    known = [parameters.get("dataset"), *parameters.get("shifts", [])]
    if set(map(str, value)) <= set(map(str, known)):
        return ""
    return f"accepted: a list from {', '.join(map(str, known))}"


def _templates(value: list, parameters: Mapping[str, Any]) -> str:
    if value and all(isinstance(t, str) and _is_template(t) for t in value):
        return ""
    return 'accepted: a list of texts with one "{}" each, where the class name goes'


def _is_template(text: str) -> bool:
    bare = text.replace("{}", "", 1)
    return bare != text and not set(bare) & set("{}")


def _pretrained(embedded: str, file: str, what: str) -> Rule:
    """The embedded model, a page of the hub, or a folder with a file that all have."""

    def rule(value: str, parameters: Mapping[str, Any]) -> str:
        if value == embedded or re.fullmatch(r"[\w.-]+/[\w.-]+", value):
            return ""
        if os.path.isfile(from_root(value) / file):
            return ""
        return f"accepted: {embedded}, {what}, or a folder that holds one"

    return rule


_captioner = _pretrained(
    "picto-captioner",
    "config.json",
    "a model of the hub such as nlpconnect/vit-gpt2-image-captioning",
)
_diffusion = _pretrained(
    "picto-diffusion",
    "model_index.json",
    "a pipeline of the hub such as stabilityai/sd-turbo",
)


def _truth(value: bool, parameters: Mapping[str, Any]) -> str:
    sets = [parameters.get("dataset", ""), *parameters.get("shifts", [])]
    if not value or all(str(name).startswith("picto") for name in sets):
        return ""
    return "accepted: false, where the scenes are not drawn by the study itself"


def _template_set(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.prompts.templates import TEMPLATES

    return _one_of(value, TEMPLATES)


def _close_sets(value: list, parameters: Mapping[str, Any]) -> str:
    return _view_sets(value or [""], parameters)  # one at least


def _noise_shares(value: list, parameters: Mapping[str, Any]) -> str:
    fine = value and _are_numbers(value, 0, 1)
    return "" if fine else "accepted: a list of numbers from 0 to 1"


def _refusal(function: Callable, *arguments: Any) -> str:
    try:
        function(*arguments)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


RULES: dict[str, tuple[type, Rule]] = {
    "study": (str, _study),
    "include": (str, _anything),  # `parameters.layers` reads the file or refuses it
    "dataset": (str, _dataset),
    "shifts": (list, _shifts),
    "backbone": (str, _backbone),
    "second_backbone": (str, _second_backbone),
    "weights": (str, _weights),
    "data_root": (str, _anything),
    "images": (int, _images),
    "seed": (int, _between(0, 2**32 - 1)),  # numpy's range
    "device": (str, _device),
    "precision": (str, _precision),
    "wordings": (list, _templates),
    "prompt_sets": (list, _prompt_sets),
    "closer": (str, _closer),
    "texts": (str, _texts),
    "group": (str, _anything),
    "beta": (float, _share),
    "betas": (list, _shares),
    "aggregation": (str, _aggregation),
    "template_counts": (list, _counts),
    "draws": (int, _between(1, math.inf)),
    "view_recipe": (str, _views),
    "view_count": (int, _view_count),
    "view_share": (float, _view_share),
    "view_images": (int, _images),
    "view_sets": (list, _view_sets),
    "repeats": (int, _between(2, math.inf)),
    "focus": (str, _focus),
    "augmentations": (list, _augmentations),
    "other_images": (int, _images),
    "memory": (float, _positive),
    "jacobian": (bool, _anything),
    "dev": (str, _kin_or_none),
    "dev_images": (int, _images),
    "view_counts": (list, _view_counts),
    "fractions": (list, _fractions),
    "step_counts": (list, _step_counts),
    "learning_rates": (list, _rates),
    "few_shot": (str, _dataset_or_none),
    "few_shot_images": (int, _images),
    "few_shot_views": (int, _between(2, math.inf)),
    "coop_epochs": (int, _between(2, math.inf)),
    "cocoop_images": (int, _images),
    "cocoop_epochs": (int, _between(2, math.inf)),
    "coop_file": (str, _file_or_none),
    "cocoop_file": (str, _file_or_none),
    "captioner": (str, _captioner),
    "beams": (int, _between(1, 64)),
    "caption_tokens": (int, _between(3, math.inf)),
    "embeddings": (str, _anything),
    "truth": (bool, _truth),
    "style_set": (str, _template_set),
    "caption_images": (int, _images),
    "part_images": (int, _images),
    "noise_shares": (list, _noise_shares),
    "diffusion": (str, _diffusion),
    "strength": (float, _share),
    "diffusion_steps": (int, _between(1, 1000)),
    "guidance": (float, _between(0, math.inf)),
    "max_minutes": (float, _between(0, math.inf)),
    "strengths": (list, _shares),
    "shares": (list, _noise_shares),
    "text_templates": (str, _template_set),
    "tap_templates": (str, _template_set),
    "unlabelled": (str, _kin_or_none),
    "pool_images": (int, _images),
    "test_images": (int, _images),
    "transductive": (bool, _anything),
    "seeds": (int, _between(1, 100)),
    "text_noise": (float, _between(0, math.inf)),
    "text_steps": (int, _between(1, math.inf)),
    "visual_prompts": (int, _between(0, math.inf)),
    "prompt_counts": (list, _whole_numbers),
    "epochs": (int, _between(2, math.inf)),
    "batch": (int, _between(2, math.inf)),
    "long_epochs": (int, _between(2, math.inf)),
    "feature_epochs": (int, _between(2, math.inf)),
    "episodic_images": (int, _images),
    "close_sets": (list, _close_sets),
    "remembering": (list, _remembering),
    "stream_images": (int, _images),
    "orders": (int, _between(1, math.inf)),
    "alphas": (list, _rates),
    "tails": (list, _ratios),
    "batch_sizes": (list, _step_counts),
}
