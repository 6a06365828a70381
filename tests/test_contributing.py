"""What CONTRIBUTING.md names is there, and its code runs; hooks and workflow fit."""

import json
import re
import sys
import threading

import numpy as np
import yaml

import helpers
from helpers import data, keys
from helpers.chapters import adaptation, notebook
from helpers.methods.vote import confident_vote
from helpers.models import clip
from helpers.paths import NOTEBOOKS, ROOT
from helpers.study import command

GUIDE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()}


def yaml_of(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def test_files_exist():
    links = {x for x in re.findall(r"\]\(([^)#]+)", GUIDE) if "://" not in x}
    words = set(re.findall(r"[\w./-]+/[\w./-]*\w", re.sub(r"\]\(.*?\)", "]", GUIDE)))
    paths = {word for word in words if word.split("/")[0] in FOLDERS}
    wanted = {x for x in links | paths if "NN" not in x and "outputs/smoke" not in x}
    assert len(wanted) > 10
    assert [x for x in sorted(wanted) if not (ROOT / x).exists()] == []


def test_commands_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    made = set(re.findall(r"(?:`|^)make (\w+)", GUIDE, re.MULTILINE))
    assert made
    assert made <= targets
    known = next(a for a in command._parser()._actions if a.dest != "help").choices
    told = set(re.findall(r"(?:`|^)study (\w+)", GUIDE, re.MULTILINE))
    assert told
    assert told <= set(known)


def test_the_data_set_of_the_guide_is_read():
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    place: dict = {}
    exec(next(block for block in blocks if "def read" in block), place)
    dataset = place["read"]("stripes", "")
    info = place["INFO"]["stripes"]
    assert (len(dataset), len(dataset.class_names)) == (info.images, info.classes)
    first, last = (np.asarray(dataset.image(i)) for i in (0, len(dataset) - 1))
    assert np.array_equal(first.swapaxes(0, 1), last)


def test_hooks_and_workflow_do_what_make_test_does():
    pins = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    (local,) = yaml_of(".pre-commit-config.yaml")["repos"]
    hooks = {hook["id"]: hook for hook in local["hooks"]}
    for name in ("ruff-check", "ruff-format"):
        assert set(hooks[name]["additional_dependencies"]) <= set(pins)
    chapters = re.compile(hooks["nbstripout"]["files"])
    assert chapters.search("notebooks/01_zero_shot.ipynb")
    assert not chapters.search("outputs/reference/picto_full/01_zero_shot.ipynb")
    job = yaml_of(".github/workflows/test.yml")["jobs"]["test"]
    systems = {row["os"].split("-")[0] for row in job["strategy"]["matrix"]["include"]}
    assert systems == {"ubuntu", "macos"}
    assert any(step.get("run", "").startswith("make test") for step in job["steps"])
    actions = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"[\w/-]+@v\d+\.\d+\.\d+", action) for action in actions)


def walk(run: notebook.Run, given: dict) -> None:
    """Chapter 02 from its started run to a ledger of a few images."""
    size = given["data_root"], 4, given["seed"]
    dataset = data.load(given["dataset"], *size)
    model = clip.load(given["backbone"], given["weights"], given["device"])
    text = adaptation.prepare(model, dataset.class_names)
    methods = {"vote": adaptation.in_feature_space(confident_vote)}
    adaptation.evaluate(run, model, dataset, text, methods, "preaugment", 10)


def test_one_image_takes_the_way_that_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    monkeypatch.setattr(notebook, "OUTPUTS", tmp_path)
    content = (NOTEBOOKS / "02_tpt_augmentations.ipynb").read_text("utf-8")
    cells = json.loads(content)["cells"]
    tagged = (c for c in cells if "parameters" in c["metadata"].get("tags", []))
    given: dict = {}
    exec("".join(next(tagged)["source"]), given)
    given["include"] = "picto.yaml"
    source, called = helpers.__path__[0], []

    def look(frame, event, _) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(source):
            return
        name = frame.f_code.co_filename.removeprefix(f"{source}/")
        while frame and frame.f_code.co_name != "<module>":  # of an import
            frame = frame.f_back
        if not (frame and frame.f_code.co_filename.startswith(source)):
            called.append(name)

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        run = notebook.start("02_tpt_augmentations", given)
        started = len(called)
        walk(run, given)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    told = re.search(r"follows it\.\n\n(.*?)\n\n.*?,\n\n(.*?)\n\n", GUIDE, re.DOTALL)
    stations, tools = (
        [f"{name}.py" for line in block.splitlines() for name in line[22:].split(", ")]
        for block in told.groups()
    )
    assert {*stations, *tools} == {*called}
    start, way = stations[:2], stations[2:]
    later = [name for name in called[started:] if name not in tools + start]
    assert list(dict.fromkeys(later)) == way
