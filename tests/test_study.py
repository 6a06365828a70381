import ast
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
import textwrap
import time
import types
from pathlib import Path

import lookalikes
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from nbformat import v4

from helpers import notebooks, paths
from helpers.chapters import notebook
from helpers.models import embedded, optional
from helpers.study import check, main, parameters
from helpers.study.checks import RULES
from picto import make

PICTO = yaml.safe_load((paths.PARAMS / "picto.yaml").read_text())
STUDIES = sorted(path.stem for path in paths.PARAMS.glob("*.yaml"))
CHAPTERS = notebooks.files(paths.NOTEBOOKS)
CPU = {"device": "cpu"}
CELL = 'study: str = "tiny"  # folder\nimages: int = 3  # per data set\n'


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Folders of parameter files and notebooks for a study `tiny`, taken by `main`."""
    world = types.SimpleNamespace(
        params=tmp_path / "params",
        notebooks=tmp_path / "notebooks",
        outputs=tmp_path / "outputs",
    )
    world.params.mkdir()
    world.notebooks.mkdir()
    monkeypatch.setattr(paths, "PARAMS", world.params)
    monkeypatch.setattr(paths, "NOTEBOOKS", world.notebooks)
    monkeypatch.setattr(paths, "OUTPUTS", world.outputs)
    write_params(world, "tiny.yaml", "study: tiny\n")
    return world


def write_params(world, name: str, text: str) -> None:
    path = world.params / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text))


def write_notebook(world, stem: str, *cells: str, declares: str = CELL) -> Path:
    book = v4.new_notebook()
    book.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    book.cells = [
        v4.new_markdown_cell("# A chapter"),
        v4.new_code_cell(declares, metadata={"tags": ["parameters"]}),
        *map(v4.new_code_cell, cells),
    ]
    path = world.notebooks / f"{stem}.ipynb"
    nbformat.write(book, path)
    return path


def plan(world, name: str = "tiny", *only: str, **overrides: str):
    return parameters.plan(name, world.params, world.notebooks, only, overrides)


def statuses(path: Path) -> list[str]:
    """What papermill says of each code cell."""
    cells = nbformat.read(path, as_version=4).cells
    return [c.metadata.papermill.status for c in cells if c.cell_type == "code"]


def printed(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    return "".join(out.text for out in outputs if out.output_type == "stream")


# The table of checks


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("study", "../elsewhere", "a folder's name"),
        ("study", False, "in quotes"),
        ("dataset", "imagnet-a", "imagenet-a, "),
        ("shifts", "picto-s, picto-r", r"a list, say shifts: \[picto-s, picto-r\]"),
        ("wordings", "a {}.", r"a list, say wordings: \[\"a {}\.\"\]"),
        ("shifts", ["picto-s", "picto-s"], "without repetition"),
        ("shifts", ["picto"], "picto-s"),
        ("shifts", ["picto-s", "digits"], "digits has other classes than picto"),
        ("dev", "digits", "digits has other classes than picto"),
        ("unlabelled", "imagenet", "imagenet has other classes than picto"),
        ("shifts", [["picto-s"]], "without repetition"),
        ("backbone", "ViT-B16", "ViT-B-16"),
        ("weights", "opena", "accepted for picto-rn: choose one of picto"),
        ("weights", "missing.safetensors", r"no weights file at /.*/missing.safete"),
        ("weights", "./folder", r"; no weights file at /.*/folder$"),
        ("weights", "here/there.pt", r"; no weights file at /.*/here/there.pt$"),
        ("images", -1, "at least 2"),
        ("images", 1, "at least 2"),
        ("wordings", ["a {} {x}"], "one"),
        ("wordings", ["a {} {0}"], "one"),
        ("images", True, "a whole number"),
        ("images", 12.5, "a whole number"),
        ("images", "1e3", "a whole number"),
        ("seed", 2**32, "0 to 4294967295"),
        ("device", "gpu", "auto, cpu, cuda, mps"),
        ("precision", "half", "float32, bfloat16, float16"),
        ("precision", None, "text"),
        ("wordings", ["a photo"], 'one "{}" each'),
        ("true_wordings", ["a sketch of a {}."], '"DATASET: TEMPLATE"'),
        ("true_wordings", ["picto-s: a sketch"], '"DATASET: TEMPLATE"'),
        ("true_wordings", ["a {}"], r"""-p true_wordings '\["picto: a {}"\]'$"""),
        (
            "true_wordings",
            ["pitco-s: a {}"],
            r"did you mean picto-s\?\); accepted: pic",
        ),
        ("true_wordings", ["folder: a {}"], "'folder' is no data set"),
    ],
)
def test_impossible_value_is_refused_with_what_is_accepted(key, value, accepted):
    with pytest.raises(ValueError, match=accepted) as caught:
        check({**PICTO, key: value}, "params/x.yaml")
    (problem,) = str(caught.value).splitlines()
    assert problem.startswith(f"params/x.yaml: {key} is {value!r}; ")


def test_shifts_of_other_classes_are_refused_by_name(tmp_path, capsys):
    given = {"dataset": "imagenet-a", "shifts": ["imagenet-r"]}
    with pytest.raises(ValueError, match="imagenet-r has other classes"):
        check(given, "x")
    check({"dataset": "imagenet", "shifts": ["imagenet-v2", "imagenet-sketch"]}, "x")
    root = lookalikes.photos(tmp_path / "pets", {"cat": 2, "dog": 2})
    given = ["-p", "data_root", str(root), "-p", "shifts", "[digits]"]
    for command in ("doctor", "run"):
        assert main([command, "my_images", *given]) == 2
        assert "digits has other classes than folder" in capsys.readouterr().err


def test_float16_is_refused_on_a_cpu():
    with pytest.raises(ValueError, match=r"precision is 'float16'.*bfloat16"):
        check({"precision": "float16", "device": "cpu"}, "x")


def test_device_that_is_not_there_is_refused():
    missing = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(ValueError, match=f"device is '{missing}'.*not available"):
        check({"device": missing}, "x")


def test_all_problems_are_named_at_once_each_with_its_source():
    bad = {"images": -1, "seed": -2, "device": "tpu", "precision": "float32"}
    sources = {"images": "a.yaml", "seed": "b.yaml", "device": "c", "precision": "d"}
    with pytest.raises(ValueError, match="images") as caught:
        check(bad, sources)
    starts = [line.partition(" is ")[0] for line in str(caught.value).splitlines()]
    assert starts == ["a.yaml: images", "b.yaml: seed", "c: device"]


def test_weights_may_be_a_file_and_must_fit_the_backbone():
    file = str(embedded.asset("picto-rn"))
    check({"backbone": "picto-rn", "weights": file}, "x")
    check({"backbone": "RN50", "weights": "random"}, "x")
    with pytest.raises(ValueError, match="picto-rn"):
        check({"backbone": "picto-vit", "weights": file}, "x")
    with pytest.raises(ValueError, match=r"accepted for RN50: .*cc12m"):
        check({"backbone": "RN50", "weights": "picto"}, "x")
    with pytest.raises(ValueError, match=r"\(did you mean openai\?\)$"):
        check({"backbone": "RN50", "weights": "opanai"}, "x")


@pytest.mark.parametrize(
    ("wanted", "value", "accepted"),
    [
        (float, "1e-3", r"write 1\.0e-3"),
        (float, "2.5E3", r"write 2\.5e\+3"),
        (float, "much", "a number"),
        (float, float("nan"), "finite"),
        (float, True, "a number"),
        (bool, 1, "true or false"),
        (int, "ten", "a whole number"),
    ],
)
def test_types_of_other_keys_are_the_declared_ones(wanted, value, accepted):
    with pytest.raises(ValueError, match=f"gain is {value!r}; accepted: .*{accepted}"):
        check({"gain": value}, "x", {"gain": wanted})


def test_a_whole_number_is_a_number():
    check({"gain": 1, "crops": 3}, "x", {"gain": float, "crops": int})


# Parameter files


def test_later_layers_win_and_each_notebook_gets_what_it_declares(world):
    more = (
        CELL + 'crops: int = 8\nlabel: str = "a"\nwords: list = []\ngain: float = 1\n'
    )
    write_notebook(world, "01_one")
    write_notebook(world, "02_two", declares=more)
    write_params(world, "tiny.yaml", "study: tiny\nimages: 5\ncrops: 16\n")
    write_params(world, "tiny/02.yaml", "crops: 32\nimages: 7\n")
    one, two = plan(world, images="9", label="12", words="[1, a]", gain="1e-3")
    assert one.injected == {"study": "tiny", "images": 9}
    assert two.injected == {
        "study": "tiny",
        "images": 9,
        "crops": 32,
        "label": "12",
        "words": [1, "a"],
        "gain": 0.001,
    }
    (two,) = plan(world, "tiny", "02")
    assert two.parameters == {
        "study": "tiny",
        "images": 7,
        "crops": 32,
        "label": "a",
        "words": [],
        "gain": 1,
    }


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            {"tiny.yaml": "study: tiny\nimage: 5"},
            {},
            r"tiny\.yaml: image is no .*images",
        ),
        ({"tiny/01.yaml": "imagse: 5"}, {}, r"tiny/01\.yaml: imagse is no .*images"),
        ({"tiny/01.yaml": "images: -5"}, {}, r"tiny/01\.yaml: images is -5; "),
        ({"tiny/07.yaml": "images: 5"}, {}, r"tiny/07\.yaml: no notebook .* 01, 02"),
        ({"tiny/02.yaml": "extra: x"}, {}, r"tiny/02\.yaml: extra is 'x'; .*number"),
        ({"tiny.yaml": "study: picto"}, {}, "study is 'picto'; accepted: tiny"),
        ({"tiny.yaml": "images: 1"}, {}, "study is None; accepted: tiny"),
        ({"tiny.yaml": "study: tiny\nstudy: b"}, {}, "study is given twice"),
        ({"tiny.yaml": "study: [tiny"}, {}, r"tiny\.yaml is not YAML"),
        ({"tiny.yaml": "- tiny"}, {}, "lines of the form"),
        ({"tiny.yaml": ""}, {}, "lines of the form"),
        ({}, {"images": "many"}, "the command line: images is 'many'"),
        ({}, {"imgaes": "4"}, "the command line: imgaes is no .*did you mean images"),
    ],
)
def test_wrong_parameter_files_are_refused(world, files, options, message):
    write_notebook(world, "01_one")
    write_notebook(world, "02_two", declares=CELL + "extra: float = 1.0")
    for name, text in files.items():
        write_params(world, name, text)
    with pytest.raises(ValueError, match=message):
        plan(world, **options)


def test_an_included_file_gives_what_the_including_one_does_not(world):
    more = (
        CELL
        + 'dataset: str = "picto"\ncrops: int = 8\nfocus: str = ""\nsets: list = []\n'
    )
    write_notebook(world, "02_two", declares=f'include: str = ""\n{more}')
    write_params(
        world, "tiny.yaml", "include: shared/b.yaml\nstudy: tiny\ndataset: picto-s\n"
    )
    write_params(world, "tiny/02.yaml", "crops: 3\n")
    write_params(
        world, "shared/b.yaml", "include: c.yaml\nimages: 5\ndataset: digits\n"
    )
    write_params(world, "shared/b/02.yaml", "crops: 2\nfocus: $dataset\n")
    write_params(world, "shared/c.yaml", "images: 4\nsets: [c]\n")
    write_params(world, "shared/c/02.yaml", "sets: [$dataset, e]\nfocus: f\n")
    expected = {"study": "tiny", "dataset": "picto-s", "images": 5, "crops": 3}
    (job,) = plan(world)
    expected |= {"focus": "picto-s", "sets": ["picto-s", "e"]}
    assert job.injected == job.parameters == expected
    assert parameters.studies(world.params) == ["tiny"]
    elsewhere = world.outputs.parent / "mine.yaml"
    elsewhere.write_text("include: shared/b.yaml\nstudy: mine\n")
    (job,) = plan(world, str(elsewhere), dataset="picto-a")
    assert (job.parameters["dataset"], job.parameters["focus"]) == ("picto-a",) * 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tiny.yaml": "include: tiny.yaml"}, r"circle: \S+tiny\.yaml, \S+tiny\.yaml"),
        (
            {"tiny.yaml": "include: b.yaml", "b.yaml": "include: ./tiny.yaml"},
            r"b\.yaml: include leads in a circle: \S+tiny\.yaml, \S+b\.yaml, \S+tiny",
        ),
        (
            {"tiny.yaml": "include: b.yaml"},
            r"tiny\.yaml: include is 'b\.yaml'; accepted",
        ),
        ({"tiny.yaml": "include: [b]"}, r"tiny\.yaml: include is \['b'\]; accepted"),
        ({"tiny.yaml": "include: tiny"}, r"accepted: the path of a \.yaml file"),
        (
            {"tiny.yaml": "include: b.yaml\nstudy: tiny", "b.yaml": "imgaes: 2"},
            r"^\S+b\.yaml: imgaes is no parameter \(did you mean images\?\)",
        ),
        (
            {"tiny.yaml": "include: b.yaml\nstudy: tiny", "b/01.yaml": "crops: 2"}
            | {"b.yaml": "images: 2"},
            r"^\S+b/01\.yaml: crops is no parameter",
        ),
        (
            {"tiny/01.yaml": "include: b.yaml"},
            r"tiny/01\.yaml: include is no parameter",
        ),
    ],
)
def test_wrong_includes_are_refused_by_file_and_key(world, files, message):
    write_notebook(world, "01_one", declares=CELL + 'include: str = ""\n')
    for name, text in files.items():
        write_params(world, name, text)
    with pytest.raises(ValueError, match=message):
        plan(world)


def test_key_of_another_notebook_is_refused_where_it_would_have_no_effect(world):
    write_notebook(world, "01_one")
    write_notebook(world, "02_two", declares=CELL + "crops: int = 8")
    assert plan(world, crops="4")[0].injected == {"study": "tiny"}
    whose = "crops is a parameter of chapter 02, not of chapter 01"
    with pytest.raises(ValueError, match=f"^the command line: {whose}$"):
        plan(world, "tiny", "01", crops="4")
    write_params(world, "tiny/01.yaml", "crops: 4")
    with pytest.raises(ValueError, match=f"tiny/01.yaml: {whose}$"):
        plan(world)


def test_a_chapter_that_does_not_fit_is_left_out_and_told(world, capsys):
    path = write_notebook(world, "01_one", declares=CELL + 'kind: str = "picto"')
    book = nbformat.read(path, as_version=4)
    book.metadata["study"] = {"needs": {"kind": "picto*"}}
    nbformat.write(book, path)
    write_notebook(world, "02_two")
    assert len(plan(world, kind="picto-a")) == 2
    told = []
    options = [world.params, world.notebooks, (), {"kind": "folder"}]
    (job,) = parameters.plan("tiny", *options, log=told.append)
    assert job.notebook.stem == "02_two"
    assert told == ["01_one is left out: meant for studies with kind picto*"]
    with pytest.raises(ValueError, match="01_one is left out"):
        plan(world, "tiny", "01", kind="folder")
    arguments = ["run", "tiny", "--only", "01", "-p", "kind", "x"]
    assert main([*arguments, "--outputs", str(world.outputs)]) == 2
    assert "01_one is left out" in capsys.readouterr().err


def test_copied_notebook_of_the_same_number_is_refused(world):
    write_notebook(world, "01_one")
    write_notebook(world, "01_one-Copy1")
    with pytest.raises(ValueError, match=r"01_one\.ipynb have the same number"):
        plan(world)


def test_study_may_be_a_file_anywhere(world, tmp_path):
    write_notebook(world, "01_one")
    elsewhere = tmp_path / "mine.yaml"
    elsewhere.write_text("study: mine\nimages: 4\n")
    (job,) = plan(world, str(elsewhere))
    assert job.parameters == {"study": "mine", "images": 4}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("images: int = 3", "must declare study"),
        (CELL + "crops = 3", "crops needs one of the annotations"),
        (CELL + "crops: int = 3 * 4", "default of crops must be a plain value"),
    ],
)
def test_parameters_cell_that_cannot_be_read_is_named(world, cell, message):
    write_notebook(world, "01_one", declares=cell)
    with pytest.raises(ValueError, match=rf"01_one\.ipynb: .*{message}"):
        plan(world)


# What the repository ships


@pytest.mark.parametrize(
    ("overrides", "fits"),
    [
        ({"shifts": "[]", "focus": "picto", "close_sets": "[picto]"}, True),
        ({"dataset": "folder", "data_root": "x", "truth": "false"}, False),
    ],
)
def test_chapter_00_is_for_picto(overrides, fits):
    given = {"view_sets": "[]", "focus": "folder", "close_sets": "[folder]"}
    options = [paths.PARAMS, paths.NOTEBOOKS, (), given | {"shifts": "[]"} | overrides]
    told = []
    jobs = parameters.plan("picto", *options, log=told.append)
    assert (jobs[0].notebook.stem == "00_picto_world") == fits
    assert bool(told) != fits


@pytest.mark.parametrize("name", STUDIES)
def test_shipped_study_fits_the_notebooks(name):
    jobs = parameters.plan(name, paths.PARAMS, paths.NOTEBOOKS)
    found = parameters.layers(paths.PARAMS / f"{name}.yaml", paths.PARAMS)
    general = parameters.merged(found)
    world = [] if general["weights"] == "picto" else ["00_picto_world"]
    assert [j.notebook for j in jobs] == [c for c in CHAPTERS if c.stem not in world]
    assert set(general) == set(PICTO)
    assert all(general.items() <= job.injected.items() for job in jobs if job.injected)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_parameters_cell_declares_the_shared_keys_with_pictos_values(chapter):
    keys = parameters.declared(chapter)
    assert {key: keys[key][1] for key in PICTO} == PICTO
    tagged = [c for c in v4.to_notebook_json(json.loads(chapter.read_text())).cells]
    (cell,) = [c for c in tagged if "parameters" in c.metadata.get("tags", [])]
    defined: dict = {}
    exec(cell.source, defined)
    assert {key: defined[key] for key in keys} == {k: v for k, (_, v) in keys.items()}
    assert keys.keys() == defined["__annotations__"].keys(), "papermill misses a key"
    assert {key: kind for key, (kind, _) in keys.items()} == {
        key: RULES[key][0] for key in keys
    }, "each parameter has a rule"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_says_in_its_metadata_what_its_title_says(path):
    chapter = notebooks.read(path)
    title = json.loads(path.read_text())["cells"][0]["source"][0].strip()
    assert title == f"# {chapter.number} {chapter.question}"
    assert path.stem.startswith(f"{chapter.number}_")
    assert 0 < chapter.minutes < 30
    assert chapter.optional.keys() <= set(optional.MODELS)
    of_images = {"labels"} if 0 < float(chapter.number[:2]) < 8 else set()
    assert chapter.needs.keys() - parameters.declared(path).keys() == of_images


def test_every_optional_model_is_some_chapters():
    assert [c.number for c in notebooks.chapters()] == [
        paths.number_of(path.stem) for path in CHAPTERS
    ]
    named = [key for chapter in notebooks.chapters() for key in chapter.optional]
    assert sorted(named) == sorted(optional.MODELS)


def test_smoke_study_runs_every_notebook(smoke_study, capsys):
    folder = smoke_study
    assert sorted(folder.glob("*.ipynb")) == [folder / c.name for c in CHAPTERS]
    for chapter in CHAPTERS:
        executed = folder / chapter.name
        assert set(statuses(executed)) == {"completed"}
        cells = nbformat.read(executed, as_version=4).cells
        outputs = [out for cell in cells for out in cell.get("outputs", [])]
        assert not [o.text for o in outputs if o.get("name") == "stderr"], executed
    figures = sorted(folder.glob("figures/*.png"))
    assert figures
    assert all(len(pd.read_csv(figure.with_suffix(".csv"))) for figure in figures)
    results = pd.read_csv(folder / "results.csv")
    assert set(results["dataset"]) == {"picto", "picto-s", "picto-a"}
    assert results["top1"].between(0, 1).all()
    assert results["n"].between(2, 128).all()  # later chapters look at fewer
    notes = json.loads((folder / "provenance.json").read_text())
    assert set(notes) <= {chapter.stem for chapter in CHAPTERS}
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix != ".png":
            content = file.read_bytes()
            for private in (str(paths.ROOT), str(folder.parent), str(Path.home())):
                assert private.encode() not in content, (file, private)
    capsys.readouterr()
    assert main(["run", "smoke", "--outputs", str(folder.parent)]) == 0
    assert capsys.readouterr().out.count("done before") == len(CHAPTERS)


# Parameters that are read


def read_keys(code: str) -> set[str]:
    """Keys that the code looks up in what it calls parameters, p or merged."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Subscript(value=place, slice=key):
                pass
            case ast.Call(func=ast.Attribute(value=place, attr="get"), args=[key, *_]):
                pass
            case ast.Compare(
                left=key, ops=[ast.In() | ast.NotIn()], comparators=[place]
            ):
                pass
            case _:
                continue
        name = getattr(place, "attr", "") or getattr(place, "id", "")
        if name in ("parameters", "p", "merged") and isinstance(key, ast.Constant):
            found.add(key.value)
    return found


def test_no_parameter_is_read_that_no_notebook_declares():
    code = 'parameters.get("a", 1), job.parameters["b"], "c" in p, other["d"], p[0]'
    assert read_keys(code) == {"a", "b", "c", 0}
    known = {key for chapter in CHAPTERS for key in parameters.declared(chapter)}
    helpers = sorted((paths.ROOT / "src" / "helpers").rglob("*.py"))
    unknown = {
        f"{file.name}: {key}"
        for file in helpers
        for key in read_keys(file.read_text("utf-8"))
        if isinstance(key, str) and key not in known
    }
    assert not unknown
    assert known == RULES.keys()


# Running notebooks


def test_run_uses_this_interpreter_whatever_is_installed(world, monkeypatch, capsys):
    kernels = world.params / "jupyter/kernels/python3"
    kernels.mkdir(parents=True)
    poisoned = {"argv": ["false"], "display_name": "x", "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(poisoned))
    monkeypatch.setenv("JUPYTER_PATH", str(kernels.parents[1]))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(kernels.parents[1]))
    write_notebook(
        world,
        "01_one",
        "import os, sys\nprint(sys.executable, os.getcwd(), images)",
        "from helpers import progress\nfor _ in progress.track('abc', label='x'): pass",
        "progress.EVERY = 0\nfor _ in progress.track('abc', label='x'): pass",
        "from helpers import paths\nprint(paths.OUTPUTS)",
        "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])",
    )
    assert main(["run", "tiny", "-p", "images", "4"]) == 0
    folder = world.outputs / "tiny"
    assert [path.name for path in folder.glob("*.ipynb")] == ["01_one.ipynb"]
    assert printed(folder / "01_one.ipynb").splitlines() == [
        f"{sys.executable} {world.notebooks} 4",
        str(world.outputs),
    ]
    cells = nbformat.read(folder / "01_one.ipynb", as_version=4).cells
    assert cells[4].outputs == []
    ((line,), (picture,)) = cells[5].outputs, cells[7].outputs
    assert re.fullmatch(r"x: 3 in \d\.\d s", line.data["text/plain"])
    assert "image/png" in picture.data
    written = (folder / "01_one.ipynb").read_text()
    assert str(folder) not in written
    assert "input_path" not in written
    assert re.search(r"01_one +\d+\.\d s", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("{}['missing']", "KeyError: 'missing'"),
        ("import os\nos._exit(1)", "the kernel died"),
    ],
)
def test_failed_cell_is_named_and_what_ran_is_kept(world, capsys, code, cause):
    write_notebook(world, "01_one", "print(1)", code, "print(2)")
    write_notebook(world, "02_two", "print('goes on')")
    write_notebook(world, "07_reads", "print('never')")
    folder = world.outputs / "tiny"
    folder.mkdir(parents=True)
    (folder / "01_one.ipynb").write_text("an earlier run")
    assert main(["run", "tiny"]) == 1
    output, error = capsys.readouterr()
    assert re.search(r"01_one +did not run\n02_two +\d", output)
    assert "2 of 3 chapters did not run" in error
    assert f"01_one.ipynb, cell 4: {cause}" in error
    assert "01_one.partial.ipynb" in error
    assert "07_reads.ipynb: not started, since no chapter" in error
    assert printed(folder / "02_two.ipynb") == "goes on\n"
    assert (folder / "01_one.ipynb").read_text() == "an earlier run"
    assert not (folder / "07_reads.ipynb").exists()
    expected = ["completed"] * 3 + ["failed", "pending"]
    assert statuses(folder / "01_one.partial.ipynb") == expected
    assert "input_path" not in (folder / "01_one.partial.ipynb").read_text()


def test_data_that_a_later_chapter_lacks_are_told_before_any_work(world, capsys):
    write_notebook(world, "01_one")
    more = 'dataset: str = "digits"\nunlabelled: str = "cifar10"\n'
    more += f"data_root: str = {str(world.params)!r}\n"
    write_notebook(world, "02_two", declares=CELL + more)
    assert main(["run", "tiny"]) == 2
    assert "cifar" in capsys.readouterr().err
    assert not list((world.outputs / "tiny").glob("*.ipynb"))


def read_until(terminal: int, pattern: str, seconds: float = 600) -> str:
    shown, deadline = "", time.monotonic() + seconds
    while not re.search(pattern, shown) and time.monotonic() < deadline:
        shown += os.read(terminal, 4096).decode()
    return shown


def heed_interrupts() -> None:
    """What runs in a shell's background has been told to ignore them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_terminal_shows_progress_and_an_interrupt_keeps_what_ran(world):
    write_notebook(
        world,
        "01_one",
        "import time\nfrom helpers.progress import track",
        "for _ in track(range(60), label='dozing'): time.sleep(0.5)",
        "print('never')",
    )
    code = f"""
        import sys
        from pathlib import Path
        from helpers import notebooks, paths
        paths.PARAMS = Path({str(world.params)!r})
        paths.NOTEBOOKS = Path({str(world.notebooks)!r})
        from helpers.study import main
        sys.exit(main(["run", "tiny", "--outputs", {str(world.outputs)!r}]))
    """
    terminal, ours = pty.openpty()
    termios.tcsetwinsize(ours, (24, 90))
    command = [sys.executable, "-c", textwrap.dedent(code)]
    streams = {"stderr": ours, "stdout": ours}
    with subprocess.Popen(command, preexec_fn=heed_interrupts, **streams) as process:
        os.close(ours)
        shown = read_until(terminal, "dozing: [0-9]+ of 60")
        process.send_signal(signal.SIGINT)
        shown += read_until(terminal, "chapters that are finished are")
    os.close(terminal)
    assert process.returncode == 130
    assert "01_one: cell 4 of 5" in shown
    assert "01_one.ipynb, cell 4: interrupted" in shown
    assert "The same command goes on from there: " in shown
    partial = world.outputs / "tiny" / "01_one.partial.ipynb"
    assert statuses(partial) == ["completed"] * 3 + ["failed", "pending"]


# The command


def test_messages_show_paths_that_hold_where_the_user_stands(monkeypatch, tmp_path):
    file = paths.ROOT / "outputs" / "mine" / "01_one.ipynb"
    monkeypatch.chdir(paths.ROOT)
    assert paths.shown(file) == "outputs/mine/01_one.ipynb"
    monkeypatch.chdir(paths.NOTEBOOKS)
    assert paths.shown(file) == str(file)
    monkeypatch.chdir(tmp_path)
    assert paths.shown(file) == str(file)
    assert paths.shown(tmp_path / "x" / "01_one.ipynb") == "x/01_one.ipynb"
    assert paths.in_repository(file) == "outputs/mine/01_one.ipynb"  # for results


def test_list_names_every_study_and_loads_nothing_heavy():
    code = (
        "import sys; from helpers.study import main; main(['list']); "
        "sys.exit(bool({'torch', 'papermill', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    rows = done.stdout.splitlines()
    assert [row.split()[0] for row in rows[1:]] == STUDIES
    assert re.search(
        r"imagenet_a_rn50 +imagenet-a +RN50-quickgelu +ImageNet-A", rows[1]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "tinny"], r"no study 'tinny' \(did you mean tiny\?\)"),
        (["run", "gone.yaml"], "no study 'gone.yaml'"),
        (["run", "tiny", "--only", "09"], "no notebook 09; accepted: 01"),
        (["run", "tiny", "-p", "images", "-3"], "images is -3; accepted: 0 for all"),
        (["doctor", "tinny"], "did you mean tiny"),
    ],
)
def test_wrong_input_ends_with_status_2(world, capsys, arguments, message):
    write_notebook(world, "01_one")
    assert main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not world.outputs.exists()


def test_a_folder_on_the_command_line_counts_from_here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "my_images", "-p", "data_root", "photos"]) == 1
    assert str(tmp_path / "photos") in capsys.readouterr().out


def test_one_image_is_no_data_set(capsys):
    assert main(["run", "smoke", "-p", "images", "1"]) == 2
    assert "0 for all, or at least 2" in capsys.readouterr().err


def test_doctor_passes_the_embedded_study_and_names_missing_data(capsys):
    assert main(["doctor", "smoke"]) == 0
    assert "ready to run" in capsys.readouterr().out
    assert main(["doctor", "imagenet_a_rn50"]) == 1
    assert "natural-adv-examples" in capsys.readouterr().out


def test_train_hands_its_options_on(monkeypatch):
    calls = []
    monkeypatch.setattr(make, "main", lambda *given: calls.append(given) or 7)
    assert main(["train", "picto-rn", "--steps", "5", "--help"]) == 7
    assert calls == [("picto-rn", ["--steps", "5", "--help"])]


# What notebooks call


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`start` of a chapter whose parameters cell declares these values."""
    monkeypatch.setattr(notebook, "OUTPUTS", tmp_path)

    def call(chapter="01_one", **values):
        values = {"study": "tiny", "seed": 3, "device": "cpu", **values}
        return notebook.start(chapter, declaring(values))

    return call


def declaring(values: dict) -> dict:
    """The globals of a notebook with these parameters."""
    return {**values, "__annotations__": {k: type(v) for k, v in values.items()}}


def test_start_seeds_every_generator(start):
    draws = []
    for _ in range(2):
        start()
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert draws[0] == draws[1]
    start(seed=4)
    assert random.random() != draws[0][0]


def test_start_refuses_impossible_values(start):
    with pytest.raises(ValueError, match="01_one: images is -1; accepted: 0 for all"):
        start(images=-1)


def test_start_reads_what_is_declared_and_no_more(start, tmp_path):
    notebook.start("01_one", {**declaring({"study": "tiny", "seed": 3} | CPU), "x": 1})
    notes = json.loads((tmp_path / "tiny/provenance.json").read_text())["01_one"]
    assert notes["parameters"] == {"study": "tiny", "seed": 3, **CPU}
    namespace = declaring({"study": "tiny", "seed": 3, "gain": 0.5, **CPU})
    with pytest.raises(ValueError, match="01_one: gain is 'x'; accepted: a number"):
        notebook.start("01_one", {**namespace, "gain": "x"})


def test_start_heeds_an_include_that_papermill_hands_over(
    start, tmp_path, monkeypatch, world
):
    monkeypatch.setattr(notebook, "PARAMS", world.params)
    write_params(world, "b.yaml", "images: 5\nseed: 4\nwordings: ['a {}']\n")
    write_params(world, "b/01.yaml", "focus: $dataset\n")
    write_params(world, "b/02.yaml", "focus: picto\n")
    declared = {"study": "tiny", "include": "b.yaml", "dataset": "picto-s", "images": 0}
    namespace = declaring({**declared, "seed": 0, "focus": "", **CPU})
    namespace["In"] = ["", "images: int = 0", "# Parameters\nseed = 0\nstudy = 'tiny'"]
    run = notebook.start("01_one", namespace)
    assert run.seed == namespace["seed"] == 0, "papermill has set it"
    assert (namespace["images"], namespace["focus"]) == (5, "picto-s")
    assert "wordings" not in namespace, "which this notebook does not declare"
    notes = json.loads((tmp_path / "tiny/provenance.json").read_text())["01_one"]
    assert notes["parameters"]["images"] == 5
    assert "include" not in notes["parameters"]


def test_provenance_is_printed_and_kept_by_chapter(start, tmp_path, capsys):
    start("01_one", images=5)
    start("02_two")
    run = start("01_one", images=6)
    shown = capsys.readouterr().out
    assert "01_one, study tiny, commit " in shown
    assert f"torch {torch.__version__.partition('+')[0]}" in shown
    notes = json.loads((tmp_path / "tiny/provenance.json").read_text())
    assert list(notes) == ["01_one", "02_two"]
    assert notes["01_one"]["parameters"]["images"] == 6
    assert notes["01_one"]["device"] == "cpu"
    assert run.device == torch.device("cpu")


def test_run_saves_figures_tables_and_ledgers(start, tmp_path):
    run = start()
    frame = pd.DataFrame({"x": [1.0, 2.0]})
    fig, ax = plt.subplots()
    ax.plot(frame["x"])
    run.figure("line", fig, frame)
    assert run.table("numbers", frame) is frame
    folder = tmp_path / "tiny"
    assert (folder / "figures/01_line.png").is_file()
    assert len(pd.read_csv(folder / "figures/01_line.csv")) == 2
    assert len(pd.read_csv(folder / "tables/01_numbers.csv")) == 2

    data = types.SimpleNamespace(
        name="toy", ids=("a", "b"), labels=np.array([0, 1]), fingerprint="d1"
    )
    clip = types.SimpleNamespace(
        name="RN50", weights="random", fingerprint="w1", precision="float32"
    )
    run.predictions("zero_shot", data, clip, np.eye(2), 0.1, {"templates": "photo"})
    (row,) = run.collect().to_dict("records")
    assert row["top1"] == 1
    assert row["seed"] == 3
    assert json.loads(row["settings"]) == {
        "data_hash": "d1",
        "precision": "float32",
        "templates": "photo",
        "weights": "random",
        "weights_hash": "w1",
    }
    notes = json.loads((folder / "provenance.json").read_text())["01_one"]
    assert notes["data"] == {"toy": "d1"}
    assert notes["weights"] == {"RN50": "w1"}


def test_commit_names_a_changed_checkout(tmp_path):
    assert notebook.commit(tmp_path) == "unknown"
    for command in (
        "init -q",
        "-c user.name=a -c user.email=a@b commit -q --allow-empty -m x",
    ):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    clean = notebook.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "file").touch()
    subprocess.run(["git", "add", "file"], cwd=tmp_path, check=True)
    assert notebook.commit(tmp_path) == f"{clean}-dirty"
