"""What a parameter may be: the one table of types and possible values.

`study run` and every notebook's first call look here. Rules import what they ask
(open_clip, torch) only when a value needs it, so that `study list` starts at once.
"""

import difflib
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from helpers.paths import from_root
from helpers.words import closest

Rule = Callable[[Any, Mapping[str, Any]], str]
"""(value, all parameters) -> "" if the value is possible, else what would be."""

COMMAND_LINE = "the command line"  # a source of values
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
        key: _type_fault(value, types[key], _way(source, key)) if key in types else ""
        for key, value in parameters.items()
        if not (key == "class_names" and isinstance(value, list))  # as YAML has it
    }
    # A rule that looks at other values finds those of the right type only.
    typed = {key: value for key, value in parameters.items() if not faults.get(key)}
    problems = []
    for key, value in parameters.items():
        where = source if isinstance(source, str) else source[key]
        fault = faults.get(key)
        if not fault and key in RULES:
            fault = RULES[key][1](value, typed)
        if fault:
            problems.append(f"{where}: {key} is {_shown(value)}; {fault}")
    if problems:
        raise ValueError("\n".join(problems))


def _way(source: str | Mapping[str, str], key: str) -> str:
    """How a value is given where it stands: `{}` is its place."""
    where = source if isinstance(source, str) else source[key]
    return f"-p {key} {{}}" if where == COMMAND_LINE else f"{key}: {{}}"


def _type_fault(value: Any, wanted: type, way: str) -> str:
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
        text = _as_list(str(value))
        text = shlex.quote(text) if way.startswith("-p ") else text
        hint = f", say {way.format(text)}"
    return f"accepted: {NOUNS[wanted]}{hint}"


def _as_list(text: str) -> str:
    """The text as one of a list, or of several with commas between, as YAML reads it.

    Templates are quoted, since YAML takes {} for a table.
    """
    if not set(text) & set("{}[]\"':#"):
        return f"[{text}]"
    parts = [part.strip(" \"'") for part in text.strip(" []").split(",")]
    if not all("{}" in part for part in parts):
        parts = [text.strip(" []")]
    return json.dumps(parts, ensure_ascii=False)


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
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _anything(value: Any, parameters: Mapping[str, Any]) -> str:
    return ""


def _passing(test: Callable[[Any], Any], accepted: str) -> Rule:
    """The rule that the value alone passes a test."""
    return lambda value, _: "" if test(value) else f"accepted: {accepted}"


def _list_of(test: Callable[[Any], Any], accepted: str) -> Rule:
    """The rule that a list has members, and that all of them pass a test."""
    return _passing(lambda v: v and all(map(test, v)), f"a list of {accepted}")


def _number_from(low: float, high: float = LARGEST) -> Callable[[Any], bool]:
    return lambda x: type(x) in (int, float) and low <= x <= high


def _whole_from(low: int) -> Callable[[Any], bool]:
    return lambda x: type(x) is int and low <= x <= LARGEST


def _between(low: int, high: float) -> Rule:
    bounds = f"at least {low}" if high == math.inf else f"{low} to {high}"
    return _passing(lambda value: low <= value <= high, bounds)


def _one_of(value: str, names: Iterable[str]) -> str:
    names = list(names)
    if value in names:
        return ""
    if len(names) <= 20:
        return f"accepted: {', '.join(names)}"
    near = difflib.get_close_matches(value, names, n=3) or names[:3]
    return f"accepted: {', '.join(near)} and {len(names) - len(near)} others"


def _some_of(value: list, names: Iterable[str], hint: str = "") -> str:
    names = list(names)
    texts = [str(name) for name in value]  # YAML's lists may hold lists
    if value and len(set(texts)) == len(texts) and set(texts) <= set(names):
        return ""
    return f"accepted: a list without repetition from {', '.join(names)}{hint}"


def _named_in(module: str, names: str, several: bool = False) -> Rule:
    """The rule that a value, or each of several, is a name that a module knows."""

    def rule(value: Any, parameters: Mapping[str, Any]) -> str:
        known = getattr(import_module(f"helpers.{module}"), names)
        return _some_of(value, known) if several else _one_of(value, known)

    return rule


def _refusal(function: Callable, *arguments: Any) -> str:
    """The message of the error that a function raises, or ""."""
    try:
        function(*arguments)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


def _sets(parameters: Mapping[str, Any]) -> list[str]:
    """The study's data sets."""
    return [str(parameters.get("dataset")), *map(str, parameters.get("shifts", []))]


def _dataset(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers import data

    return _one_of(value, data.names())


def _class_names(value: str | list, parameters: Mapping[str, Any]) -> str:
    from helpers.data.naming import parse

    if value and "folder" not in _sets(parameters):
        return 'accepted: "" unless dataset is folder, a folder of yours'
    return _refusal(parse, value) if value else ""


def _wording(value: str, parameters: Mapping[str, Any]) -> str:
    words, name, rest = value.partition(" {}.")
    if words.strip() and name and not rest and not set(words) & set("{}"):
        return ""
    return 'accepted: words that end with the name, such as "a sketch of a {}."'


def _shifts(value: list, parameters: Mapping[str, Any]) -> str:
    from helpers import data

    others = [name for name in data.names() if name != parameters.get("dataset")]
    if value and (fault := _some_of(value, others)):
        return fault
    return next(filter(None, (_classes(name, parameters) for name in value)), "")


def _classes(value: str, parameters: Mapping[str, Any]) -> str:
    """Chapters compare data sets class by class."""
    from helpers import data

    dataset = parameters.get("dataset")
    if not value or dataset not in data.names():
        return ""
    fault = data.other_classes(value, dataset, parameters.get("data_root", ""))
    return f"{fault}; accepted: sets of the same classes" if fault else ""


def _dataset_or_none(value: str, parameters: Mapping[str, Any]) -> str:
    fault = _dataset(value, parameters) if value else ""
    return f'{fault}, or "" for none' if fault else ""


def _same_classes_or_none(value: str, parameters: Mapping[str, Any]) -> str:
    return _dataset_or_none(value, parameters) or _classes(value, parameters)


def _pools(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers import data

    if "{}" not in value:
        return _same_classes_or_none(value, parameters)
    found = [data.pool_name(value, name, name) for name in data.names()]
    if not any(found):
        whole = [name for name in data.names() if name.endswith("-unlabelled")]
        return f"no data set is called so; there are {', '.join(whole)}"
    pools = (data.pool_name(value, name, name) for name in _sets(parameters))
    return next(filter(None, (_classes(name, parameters) for name in pools)), "")


def _scenes(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.data import embedded

    if value and value not in embedded.OFFERED:
        return f'accepted: {", ".join(embedded.OFFERED)}, or "" for none'
    return _classes(value, parameters)


def _backbone(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.models import clip

    return _one_of(value, clip.names())


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


def _more_backbones(value: list, parameters: Mapping[str, Any]) -> str:
    known = [parameters.get(key, "") for key in ("backbone", "second_backbone")]
    for position, name in enumerate(value):
        if not isinstance(name, str) or name in known or name in value[:position]:
            return "accepted: names, each once, and none of the other two backbones"
        if fault := _second_backbone(name, parameters):
            return f"{name!r}: {fault}"
    return ""


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
    if nowhere := files.missing(value):
        return nowhere
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

    pooled = bool(parameters.get("texts"))
    known = [*TEMPLATES, "waffle", *["pooled"] * pooled]
    return _some_of(value, known, "" if pooled else "; pooled needs texts")


def _closer(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.prompts.templates import TEMPLATES

    fault = _one_of(value, map(str, parameters.get("prompt_sets", [])))
    if fault or len(TEMPLATES.get(value, "ab")) > 1:
        return fault
    return "accepted: a set of two templates or more, to weigh against each other"


def _texts(value: str, parameters: Mapping[str, Any]) -> str:
    from helpers.prompts import descriptions

    fault = _refusal(descriptions.read, value) if value else ""
    return f'{fault}; or "" for none' if fault else ""


def _view_share(value: float, parameters: Mapping[str, Any]) -> str:
    views = parameters.get("view_count", 0)
    if views > 1 and 0 < value <= 1 and int(value * views) == 0:
        return f"accepted: a number from 1/{views}, one view of {views}, to 1"
    return _share(value, parameters)


def _view_count(value: int, parameters: Mapping[str, Any]) -> str:
    if value < 10 and not {"augmentations", "diffusion"}.isdisjoint(parameters):
        return "accepted: at least 10, of which a tenth is kept"
    return _between(2, math.inf)(value, parameters)


def _fractions(value: list, parameters: Mapping[str, Any]) -> str:
    counts = parameters.get("view_counts", [])
    views = max(counts) if counts and not _view_counts(counts, parameters) else 10
    accepted = f"numbers from 1/{views}, one view of {views}, to 1"
    return _list_of(_number_from(1 / views, 1), accepted)(value, parameters)


def _remembering(value: list, parameters: Mapping[str, Any]) -> str:
    from helpers.methods import memory

    return _some_of(value, [m for m in memory.ONLINE if m not in memory.OF_VIEWS])


def _view_sets(value: list, parameters: Mapping[str, Any]) -> str:
    known = _sets(parameters)
    fine = set(map(str, value)) <= set(known)
    return "" if fine else f"accepted: a list from {', '.join(known)}"


def _truth(value: bool, parameters: Mapping[str, Any]) -> str:
    if not value or all(name.startswith("picto") for name in _sets(parameters)):
        return ""
    return "accepted: false, where the scenes are not drawn by the study itself"


def _is_template(text: Any) -> bool:
    bare = str(text).replace("{}", "", 1)
    return isinstance(text, str) and bare != text and not set(bare) & set("{}")


def _true_wordings(value: list, parameters: Mapping[str, Any]) -> str:
    """Each text names a data set, as results call it, and what its images are."""
    from helpers import data

    root = parameters.get("data_root", "")
    own = [data.called(name, root) for name in _sets(parameters)]
    known = dict.fromkeys([*own, *(name for name in data.names() if name != "folder")])
    for text in value:
        name, _, wording = str(text).partition(": ")
        if not isinstance(text, str) or not _is_template(wording):
            example = f"{own[0]}: {text if _is_template(text) else 'a sketch of a {}.'}"
            command = shlex.quote(json.dumps([example], ensure_ascii=False))
            return (
                'accepted: a list of texts "DATASET: TEMPLATE", with one "{}" where '
                f"the class name goes, say -p true_wordings {command}"
            )
        if name not in known:
            return (
                f"{name!r} is no data set{closest(name, known)}; accepted: "
                f"{', '.join(known)}"
            )
    return "" if value else "accepted: at least one"


def _pretrained(embedded: str, file: str, what: str) -> Rule:
    """The embedded model, a page of the hub, or a folder that holds such a file."""
    return _passing(
        lambda value: (
            value == embedded
            or re.fullmatch(r"[\w.-]+/[\w.-]+", value)
            or os.path.isfile(from_root(value) / file)
        ),
        f"{embedded}, {what}, or a folder that holds one",
    )


_study = _passing(
    lambda value: re.fullmatch(r"\w[\w.-]*", value, re.ASCII),
    "a folder's name of letters, digits, '_', '-' and '.'",
)
_views_shown = _passing(lambda value: value in ("all", "adaptive"), "all, adaptive")
_images = _passing(lambda value: value == 0 or value > 1, "0 for all, or at least 2")
_noise_shares = _list_of(_number_from(0, 1), "numbers from 0 to 1")
_rates = _list_of(lambda x: _number_from(0)(x) and x > 0, "numbers above 0")
_shares = _list_of(lambda x: _number_from(0, 1)(x) and x > 0, "numbers in (0, 1]")
_counts = _list_of(_whole_from(2), "whole numbers of at least 2")
_step_counts = _list_of(_whole_from(1), "whole numbers from 1 on")
_share = _passing(lambda value: 0 < value <= 1, "a number in (0, 1]")
_view_counts = _list_of(_whole_from(10), "whole numbers from 10 on")
_doses = _passing(
    lambda v: len(v) > 1 and all(map(_number_from(0, 1), v)) and v == sorted({*v}),
    "two numbers or more from 0 to 1, ascending",
)
_severities = _passing(
    lambda v: len(v) > 1 and set(map(str, v)) <= {*"12345"} and v == sorted({*v}),
    "two whole numbers or more from 1 to 5, ascending",
)
_templates = _list_of(
    _is_template, 'texts with one "{}" each, where the class name goes'
)
_file_or_none = _passing(
    lambda value: not value or os.path.isfile(from_root(value)),
    'the path of a file that is there, or "" for none',
)
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

RULES: dict[str, tuple[type, Rule]] = {
    key: (kind, rule)
    for keys, kind, rule in (
        ("study", str, _study),
        # `parameters.layers` reads the file that include names, or refuses it.
        ("include data_root group embeddings", str, _anything),
        ("dataset", str, _dataset),
        ("shifts", list, _shifts),
        ("backbone", str, _backbone),
        ("second_backbone", str, _second_backbone),
        ("more_backbones", list, _more_backbones),
        ("weights", str, _weights),
        ("class_names", str, _class_names),
        (
            "images view_images other_images dev_images matched_images "
            "few_shot_images cocoop_images card_images caption_images part_images "
            "pool_images test_images episodic_images stream_images",
            int,
            _images,
        ),
        ("seed", int, _between(0, 2**32 - 1)),  # numpy's range
        ("device", str, _device),
        ("precision", str, _precision),
        ("wording", str, _wording),
        ("wordings", list, _templates),
        ("true_wordings", list, _true_wordings),
        ("prompt_sets", list, _prompt_sets),
        ("closer", str, _closer),
        ("texts", str, _texts),
        ("beta keep strength", float, _share),
        ("betas strengths", list, _shares),
        ("aggregation", str, _named_in("methods.autoclip", "AGGREGATIONS")),
        ("template_counts class_counts", list, _counts),
        ("draws to_label chunk text_steps orders", int, _between(1, math.inf)),
        ("view_recipe", str, _named_in("views", "VIEWS")),
        ("view_count", int, _view_count),
        ("view_share", float, _view_share),
        ("view_sets", list, _view_sets),
        ("views", str, _views_shown),
        (
            "repeats few_shot_views coop_epochs cocoop_epochs epochs batch "
            "long_epochs feature_epochs upl_epochs confidence_bins",
            int,
            _between(2, math.inf),
        ),
        ("focus", str, lambda value, p: _one_of(value, _sets(p))),
        ("augmentations", list, _named_in("views", "VIEWS", several=True)),
        ("memory", float, _passing(lambda value: value > 0, "a number above 0")),
        ("jacobian transductive everywhere", bool, _anything),
        ("dev", str, _same_classes_or_none),
        ("unlabelled", str, _pools),
        ("view_counts", list, _view_counts),
        ("fractions", list, _fractions),
        ("step_counts batch_sizes", list, _step_counts),
        ("learning_rates alphas", list, _rates),
        ("few_shot", str, _dataset_or_none),
        ("coop_file cocoop_file", str, _file_or_none),
        ("captioner", str, _captioner),
        ("beams", int, _between(1, 64)),
        ("caption_tokens", int, _between(3, math.inf)),
        ("truth", bool, _truth),
        (
            "style_set text_templates tap_templates",
            str,
            _named_in("prompts.templates", "TEMPLATES"),
        ),
        ("noise_shares shares", list, _noise_shares),
        ("diffusion", str, _diffusion),
        ("diffusion_steps", int, _between(1, 1000)),
        ("guidance max_minutes text_noise", float, _between(0, math.inf)),
        ("seeds upl_seeds view_seeds", int, _between(1, 100)),
        ("visual_prompts", int, _between(-1, math.inf)),
        ("prompt_counts", list, _list_of(_whole_from(0), "whole numbers from 0 on")),
        ("close_sets", list, lambda value, p: _view_sets(value or [""], p)),
        ("remembering", list, _remembering),
        ("tails", list, _list_of(_number_from(1), "numbers from 1 on")),
        ("scenes", str, _scenes),
        ("dose_images", int, _between(3, 2000)),  # picto has so many scenes
        ("dose_views", int, _between(10, math.inf)),  # a tenth is kept
        ("sizes offsets", list, _doses),
        ("severities", list, _severities),
    )
    for key in keys.split()
}
