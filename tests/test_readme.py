"""What the README says is so: links, commands, findings, code."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F

from helpers import notebooks
from helpers.data import digits
from helpers.paths import PARAMS, ROOT
from helpers.study import command, parameters
from picto.contexts import CONTEXTS
from picto.splits import CLASS_NAMES
from picto.styles import STYLES
from tools import front

README = (ROOT / "README.md").read_text("utf-8")
REFERENCE = "outputs/reference/picto"
VARIABLES = ("`STUDY_OUTPUTS`", "`STUDY_CACHE`")


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    missing = [x for x in links if "://" not in x and not (ROOT / x).exists()]
    assert links
    assert not missing


def test_findings_are_those_of_the_reference_run():
    block = front.findings(ROOT / REFERENCE, REFERENCE)
    assert front.renewed(README, "findings", block) == README, "renew: make reference"
    assert block.count("\n") > 6


def test_chapters_are_those_that_the_notebooks_say():
    told = front.renewed(README, "chapters", front.chapters())
    assert told == README, "renew it: python tools/front.py"


def test_a_readme_without_marks_is_refused():
    with pytest.raises(ValueError, match="findings: begin"):
        front.renewed("# Title", "findings", "block")


def test_the_embedded_world_is_counted():
    text = " ".join(README.split())
    counts = f"{len(CLASS_NAMES)} kinds of things in {len(CONTEXTS)} places"
    assert f"{counts} and {len(STYLES)} styles" in text


def test_every_study_and_chapter_is_named():
    for study in parameters.studies(PARAMS):
        assert f"`{study}`" in README
    for notebook in notebooks.files(ROOT / "notebooks"):
        assert f"(notebooks/{notebook.name})" in README


def test_commands_are_those_that_there_are():
    parser = command._parser()
    known = next(a for a in parser._actions if a.dest != "help").choices
    told = set(re.findall(r"(?:^|`|/)study (\w+)", README, flags=re.MULTILINE))
    assert told
    assert told <= set(known)


def test_the_method_of_the_readme_runs():
    code = next(b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    place: dict = {}
    exec(code, place)
    torch.manual_seed(0)
    views = F.normalize(torch.randn(3, 8, 6), dim=-1)
    classes = F.normalize(torch.randn(4, 6), dim=-1)
    shares = place["majority"](views, classes, 100.0).exp()
    votes = (views @ classes.T).argmax(dim=-1)
    for row, image in zip(shares, votes, strict=True):
        counts = torch.bincount(image, minlength=4) / 8
        assert torch.allclose(row, counts, atol=1e-5)


def test_the_model_of_a_data_set_has_what_is_promised():
    assert digits.INFO
    assert digits.read("digits", "").image(0)


def test_systems_and_variables_are_named():
    for word in ("Linux", "macOS on Apple silicon", "WSL 2", *VARIABLES):
        assert word in README


def test_no_paragraph_ends_in_the_middle():
    prose = re.sub(r"```.*?```", "CODE", README, flags=re.DOTALL)
    parts = re.split(r"\n\s*\n", prose)
    for part, following in itertools.pairwise(parts):
        if part.rstrip().endswith((":", ",", ";")):
            assert not following.lstrip().startswith("#"), part
