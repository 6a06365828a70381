"""The parameters of each notebook, from a study's files and the command line.

Later wins: the notebook's own defaults, `params/STUDY.yaml`, `params/STUDY/NN.yaml`,
`-p key value`. The notebooks' parameters cells say which keys exist and of which type.

`include: shared/photographs.yaml` in a study's file puts another file and its folder
before the study's own: the study's values win. The path counts from the including
file's folder, or else from `params/`. The value `$dataset` is the study's data set.

A path on the command line counts from the current folder; one in a parameter file from
the repository that holds the file, or else from the file's own folder. Kernels run in
another folder and get absolute paths. Paths that count from this repository stay as
they are written, so that results say nothing about the machine.
"""

import ast
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from helpers import notebooks
from helpers.paths import ROOT, from_here, located, number_of, shown
from helpers.study.checks import COMMAND_LINE, NOUNS, check
from helpers.words import closest

if TYPE_CHECKING:
    from helpers.data.dataset import Dataset
    from helpers.data.naming import Classes

TYPES = {wanted.__name__: wanted for wanted in NOUNS}
INCLUDE, DATASET, LABELS = "include", "$dataset", "labels"
OWN = "folder"  # the data set of a user's own pictures
WORDINGS = "true_wordings"
PATHS = ("data_root", "coop_file", "cocoop_file")  # parameters that are paths
# Parameters that are names or paths; "model" is one of tools/generate.py.
NAMED = ("weights", "texts", "captioner", "diffusion", "embeddings", "model")
ENDINGS = (".json", ".safetensors", ".pt", ".pth", ".bin", ".ckpt")
LOCAL = "local-dir:"  # open_clip's mark of a folder


@dataclass(frozen=True)
class Layer:
    """Values of one origin, for the chapter `number`, or for all if it is ""."""

    origin: str  # a file, as messages show it, or the command line
    number: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A notebook and the parameters to run it with."""

    notebook: Path
    injected: dict[str, Any]  # what files and the command line set
    parameters: dict[str, Any]  # these on top of the notebook's defaults


def studies(params: Path) -> list[str]:
    """Names of the parameter files."""
    return sorted(path.stem for path in params.glob("*.yaml"))


def study_file(name: str, params: Path) -> Path:
    """`params/NAME.yaml`, or NAME itself where it is the path of a YAML file."""
    known = studies(params)
    is_path = name.endswith((".yaml", ".yml"))
    path = from_here(name) if is_path else params / f"{name}.yaml"
    # A name is one of the list's, never a way to a file elsewhere.
    if not (is_path or name in known) or not os.path.isfile(path):
        raise FileNotFoundError(
            f"no study {name!r}{closest(name, known)}: choose one of "
            f"{', '.join(known)}, or give the path of a .yaml file"
        )
    return path


def read(path: Path) -> dict[str, Any]:
    """The flat keys of a parameter file."""
    try:
        found = _yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{shown(path)} is not YAML: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ValueError(f"{shown(path)}: accepted: lines of the form `key: value`")
    return found


def layers(path: Path, params: Path, before: Sequence[Path] = ()) -> list[Layer]:
    """What a study's file, the files that it includes, and their folders say.

    The last layer wins. `before` are the files that led to this one. Raises ValueError,
    naming the including file, for an include that is no file or leads in a circle.
    """
    values, base, below = read(path), _base_of(path), []
    if (name := values.pop(INCLUDE, "")) != "":
        included = _included(name, path, params)
        way = [*before, path]
        if included in way:
            circle = ", ".join(map(shown, [*way[way.index(included) :], included]))
            raise ValueError(f"{shown(path)}: include leads in a circle: {circle}")
        below = layers(included, params, way)
    own = Layer(shown(path), "", resolve_all(values, base))
    files = sorted(path.with_suffix("").glob("*.yaml"))
    special = [Layer(shown(f), f.stem, resolve_all(read(f), base)) for f in files]
    return [*below, own, *special]


def merged(found: Iterable[Layer], number: str = "") -> dict[str, Any]:
    """The values of the layers for all chapters and for the one of this number."""
    values: dict[str, Any] = {}
    for layer in found:
        if layer.number in ("", number):
            values |= layer.values
    return values


def fill(
    namespace: dict[str, Any], number: str, keys: Collection[str], params: Path
) -> None:
    """Fill in the values of the file that the notebook's parameter `include` names.

    Plain papermill hands the key over as it stands in a study's file. Of the declared
    `keys`, those that papermill has not set get the values of the included files.
    """
    if namespace.get(INCLUDE):
        origin = params / f"{namespace['study']}.yaml"
        found = layers(_included(namespace[INCLUDE], origin, params), params)
        given = _injected(namespace.get("In", []))
        values = merged(found, number)
        namespace |= {k: v for k, v in values.items() if k in keys and k not in given}
    for key in keys:
        namespace[key] = _with_dataset(namespace[key], namespace.get("dataset"))


def declared(notebook: Path) -> dict[str, tuple[type, Any]]:
    """(type, default) of every key in the notebook's parameters cell."""
    from papermill import inspect_notebook

    keys = {}
    for key, found in inspect_notebook(str(notebook)).items():
        if found["inferred_type_name"] not in TYPES:
            raise ValueError(
                f"{shown(notebook)}: parameter {key} needs one of the annotations "
                f"{', '.join(TYPES)}"
            )
        try:
            default = ast.literal_eval(found["default"])
        except (ValueError, SyntaxError) as error:
            raise ValueError(
                f"{shown(notebook)}: the default of {key} must be a plain value, "
                f"not {found['default']}"
            ) from error
        keys[key] = (TYPES[found["inferred_type_name"]], default)
    if "study" not in keys:
        raise ValueError(
            f"{shown(notebook)}: the cell tagged `parameters` must declare study, "
            "the folder that results go to"
        )
    return keys


def plan(
    name: str,
    params: Path,
    folder: Path,
    only: Sequence[str] = (),
    overrides: Mapping[str, str] | None = None,
    log: Callable[[str], object] = lambda line: None,
) -> list[Job]:
    """The jobs of a study, every value checked.

    Parameter files lie in `params`, notebooks in `folder`; `only` keeps the notebooks
    of these numbers ("01"); `overrides` are texts from the command line. A notebook
    that is not meant for the study is left out, and `log` is called with the reason.
    Raises one ValueError that lists all problems.
    """
    path = study_file(name, params)
    found = layers(path, params)
    chapters = {number_of(c.stem): _given(c) for c in notebooks.files(folder)}
    chosen, overrides = _choose(only, folder), dict(overrides or {})
    problems = _unfit(path, found, chapters)
    numbers = [number_of(chapter.stem) for chapter in chosen]
    problems += _unknown(COMMAND_LINE, overrides, numbers, chapters)
    jobs: list[Job] = []
    for chapter, number in zip(chosen, numbers, strict=True):
        keys = chapters[number]
        types = {key: kind for key, (kind, _) in keys.items()}
        typed = {k: _parse(v, types[k]) for k, v in overrides.items() if k in keys}
        job, sources = _job(chapter, keys, [*found, Layer(COMMAND_LINE, "", typed)])
        try:
            check(job.parameters, sources, types)
        except ValueError as error:
            problems += str(error).splitlines()
        jobs.append(job)
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))
    every = {key: value for job in jobs for key, value in job.parameters.items()}
    own = _own_images(merged(found) | overrides | every)
    judged = [(job, _unsuited(job, *own)) for job in jobs]
    suited = [job for job, reason in judged if not reason]
    problems = [line for job in suited for line in _too_long(job, *own)]
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))
    left_out = []
    for why in dict.fromkeys(reason for _, reason in judged if reason):
        stems = [job.notebook.stem for job, reason in judged if reason == why]
        verb = "is" if len(stems) == 1 else "are"
        left_out.append(f"{', '.join(stems)} {verb} left out: {why}")
    if not suited:
        raise ValueError("\n".join(left_out))
    for line in left_out:
        log(line)
    for line in _without_label(judged, *own):
        log(line)
    return suited


def _unsuited(job: Job, own: "Dataset | None", plain: "Dataset | None") -> str:
    """Why the notebook does not suit the study, "" if it does; see `_own_images`."""
    needed = dict(notebooks.read(job.notebook).needs)
    labels = needed.pop(LABELS, "")
    given = {key: str(job.parameters.get(key)) for key in needed}
    if not all(fnmatchcase(given[key], pattern) for key, pattern in needed.items()):
        patterns = [f"{key} {pattern}" for key, pattern in needed.items()]
        return f"meant for studies with {' and '.join(patterns)}"
    if not labels or own is None:
        return ""
    from helpers import data

    if (lacking := data.unlabelled(own)) or "class_names" in job.parameters:
        return lacking
    if plain is None or plain.class_names != own.class_names:
        return (
            "class names are read from class_names.txt in data_root there, not from "
            "the parameter class_names"
        )
    return data.unlabelled(plain)


def _without_label(
    judged: Iterable[tuple[Job, str]],
    own: "Dataset | None",
    plain: "Dataset | None",
) -> list[str]:
    """The images for whose lack of labels notebooks are left out, and the cure."""
    from helpers import data

    found = (images for images in (own, plain) if images is not None)
    lacking = {data.unlabelled(images): images for images in found}
    reasons = [reason for _, reason in judged if reason and reason in lacking]
    return data.without_label(lacking[reasons[0]]) if reasons else []


def _own_images(values: Mapping[str, Any]) -> "tuple[Dataset | None, Dataset | None]":
    """The user's folder with the classes that the study names, and without.

    None for another data set, and where the run will fail to read the folder.
    """
    from helpers import data
    from helpers.data.naming import parse

    def read(classes: "Classes") -> "Dataset | None":
        try:
            with warnings.catch_warnings(action="ignore"):
                return data.read(OWN, values.get("data_root", ""), classes)
        except (ValueError, OSError):
            return None

    if not any(OWN in v if isinstance(v, list) else v == OWN for v in values.values()):
        return None, None
    given = values.get("class_names", "")
    own = read(parse(given) if given else ())
    return own, read(()) if given else own


def _too_long(
    job: Job, own: "Dataset | None", plain: "Dataset | None"
) -> Iterable[str]:
    """A line for each class name that a chapter's CLIPs cannot read whole."""
    images = own if "class_names" in job.parameters else plain
    if images is None:
        return
    from helpers.prompts.names import too_long

    given = [job.parameters.get(key) for key in ("backbone", "second_backbone")]
    for model in (*given, *job.parameters.get("more_backbones", [])):
        if model:
            yield from too_long(model, images.every_name[0])


def meaning(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, alike where their spellings mean the same: names, and paths."""
    return {key: _meaning(key, value) for key, value in parameters.items()}


def _meaning(key: str, value: Any) -> Any:
    from helpers.data.naming import parse

    if not value:
        return value
    if key == "class_names":
        try:
            return parse(value)
        except (ValueError, OSError):  # a file of names that is gone
            return value
    is_path = key in PATHS or (key in NAMED and _is_path(str(value), ROOT))
    return os.path.normpath(located(str(value), ROOT)) if is_path else value


def resolve_all(parameters: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The parameters, with relative paths made absolute; they count from `base`."""
    if base == ROOT:
        return dict(parameters)
    return {
        key: resolve(key, value, base) if isinstance(value, str) and value else value
        for key, value in parameters.items()
    }


def resolve(key: str, value: str, base: Path) -> str:
    """The value of a parameter; a relative path is made absolute from `base`.

    Names of models, texts and data sets stay as they are.
    """
    if value.startswith(LOCAL):
        return LOCAL + str(located(value.removeprefix(LOCAL), base))
    if key == "class_names":
        is_path = value.lower().endswith((".txt", ".csv"))
    else:
        is_path = key in PATHS or (key in NAMED and _is_path(value, base))
    return str(located(value, base)) if is_path else value


def _base_of(file: Path) -> Path:
    """The folder that relative paths in a parameter file count from."""
    file = file.absolute()
    if file.is_relative_to(ROOT):
        return ROOT
    repositories = (f for f in file.parents if (f / ".git").exists())
    return next(repositories, file.parent)


def _is_path(value: str, base: Path) -> bool:
    """Whether a text is a path and no name, of a tag or of a page `owner/model`."""
    if value.startswith((".", "/", "~")) or value.endswith((*ENDINGS, "/")):
        return True
    return value.count("/") > 1 or (
        "/" in value and os.path.exists(located(value, base))
    )


def _given(notebook: Path) -> dict[str, tuple[type, Any]]:
    """The parameters that a notebook declares, without `include`."""
    return {k: found for k, found in declared(notebook).items() if k != INCLUDE}


def _included(name: Any, origin: Path, params: Path) -> Path:
    """The path of the file that another file includes by this name."""
    is_yaml = isinstance(name, str) and name.endswith((".yaml", ".yml"))
    choices = [located(name, f) for f in (origin.parent, params)] if is_yaml else []
    for path in choices:
        if os.path.isfile(path):
            return Path(os.path.normpath(path.absolute()))
    raise ValueError(
        f"{shown(origin)}: include is {name!r}; accepted: the path of a .yaml file, "
        f"from {shown(origin.parent)} or {shown(params)}"
    )


def _injected(cells: Iterable[str]) -> set[str]:
    """The names that papermill's injected cell assigns."""
    bodies = [ast.parse(c).body for c in cells if c.startswith("# Parameters\n")]
    return {
        target.id
        for statement in chain.from_iterable(bodies)
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def _with_dataset(value: Any, dataset: Any) -> Any:
    """The value, with the data set's name for `$dataset`."""
    if isinstance(value, list):
        return [_with_dataset(part, dataset) for part in value]
    return dataset if value == DATASET else value


def _with_data_set(wordings: Any, given: Mapping[str, Any]) -> Any:
    """`true_wordings` as a list of "DATASET: WORDING", of what is surely meant.

    That is one text for a list of one, a table for a list of its rows and, where the
    study has one data set alone, a wording for that of this set.
    """
    if isinstance(wordings, str):  # [a sketch of a {}.] is no YAML, and stays a text
        wordings = [wordings.strip().removeprefix("[").removesuffix("]").strip(" \"'")]
    if isinstance(wordings, dict):
        wordings = [wordings]
    if not isinstance(wordings, list):
        return wordings
    from helpers import data

    alone = "" if given.get("shifts") else str(given.get("dataset"))
    texts = []
    for one in wordings:
        rows = one.items() if isinstance(one, dict) else [one]
        texts += [": ".join(map(str, r)) if isinstance(r, tuple) else r for r in rows]
    return [
        f"{data.called(alone, given.get('data_root', ''))}: {text}"
        if alone and isinstance(text, str) and ": " not in text
        else text
        for text in texts
    ]


def _unfit(
    path: Path, found: Iterable[Layer], chapters: Mapping[str, Mapping]
) -> list[str]:
    """Keys and files that no notebook takes, and a study that is not its file."""
    problems, study = [], merged(found).get("study")
    if study != path.stem:
        problems.append(
            f"{shown(path)}: study is {study!r}; accepted: {path.stem}, the file's own "
            "name, which names the outputs folder too"
        )
    for layer in found:
        if layer.number and layer.number not in chapters:
            problems.append(
                f"{layer.origin}: no notebook has this number; accepted: "
                f"{', '.join(chapters)}"
            )
        else:
            numbers = [layer.number] if layer.number else chapters
            problems += _unknown(layer.origin, layer.values, numbers, chapters)
    return problems


def _job(
    chapter: Path, keys: Mapping[str, tuple[type, Any]], found: Iterable[Layer]
) -> tuple[Job, dict[str, str]]:
    """The job of a chapter and, key by key, where its values stand."""
    injected: dict[str, Any] = {}
    values = {key: default for key, (_, default) in keys.items()}
    sources = dict.fromkeys(keys, shown(chapter))
    for layer in found:
        if layer.number in ("", number_of(chapter.stem)):
            fitting = {k: v for k, v in layer.values.items() if k in keys}
            injected |= fitting
            sources |= dict.fromkeys(fitting, layer.origin)
    dataset = (values | injected).get("dataset")
    injected = {key: _with_dataset(value, dataset) for key, value in injected.items()}
    if WORDINGS in injected:
        injected[WORDINGS] = _with_data_set(injected[WORDINGS], values | injected)
    return Job(chapter, injected, values | injected), sources


def _choose(only: Sequence[str], folder: Path) -> list[Path]:
    found = {number_of(path.stem): path for path in notebooks.files(folder)}
    if not found:
        raise FileNotFoundError(f"no notebooks NN_name.ipynb in {shown(folder)}")
    missing = [number for number in only if number not in found]
    if missing:
        raise ValueError(
            f"--only: no notebook {', '.join(missing)}; accepted: {', '.join(found)}"
        )
    return [path for number, path in found.items() if not only or number in only]


def _unknown(
    where: str,
    keys: Iterable[str],
    chosen: Iterable[str],
    chapters: Mapping[str, Iterable[str]],
) -> list[str]:
    """Report the keys that none of the chosen chapters takes, a line each.

    `chapters`: number -> the keys it declares.
    """
    chosen = list(chosen)
    known = sorted({key for number in chosen for key in chapters[number]})
    every = {key for own in chapters.values() for key in own}
    problems = []
    for key in (key for key in keys if key not in known):
        owners = [number for number, own in chapters.items() if key in own]
        if owners:
            problems.append(
                f"{where}: {key} is a parameter of {_chapters(owners)}, "
                f"not of {_chapters(chosen)}"
            )
        else:
            problems.append(
                f"{where}: {key} is no parameter{closest(key, every)}; "
                f"accepted: {', '.join(known)}"
            )
    return problems


def _chapters(numbers: Sequence[str]) -> str:
    return f"chapter{'s' * (len(numbers) > 1)} {', '.join(numbers)}"


def _parse(text: str, wanted: type) -> Any:
    """A command line's text as the wanted type; unchanged where it cannot be read."""
    try:
        if wanted in (str, int, float):
            return wanted(text)
        return _yaml(text)
    except ValueError:
        return text


def _yaml(text: str) -> Any:
    """The value of a YAML text; ValueError for any fault in it."""
    try:
        return yaml.load(text, _PlainLoader)
    except RecursionError as error:
        raise ValueError("its lists are nested too deeply") from error
    except Exception as error:  # a tag before a text that it does not fit: any kind
        raise ValueError(str(error)) from error


class _PlainLoader(yaml.SafeLoader):
    """YAML's plain values; refuses a key given twice, of which YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key) for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(
                problem=f"{twice[0]} is given twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)
