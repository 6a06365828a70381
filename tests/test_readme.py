"""What README and GUIDE say is so: links, commands, findings, code."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F

from helpers import notebooks
from helpers.data import digits
from helpers.paths import PARAMS, ROOT
from helpers.results import findings
from helpers.study import command, parameters
from picto.contexts import CONTEXTS
from picto.splits import CLASS_NAMES
from picto.styles import STYLES
from tools import front

README, GUIDE, CONTRIBUTING = (
    (ROOT / f"{name}.md").read_text("utf-8")
    for name in ("README", "GUIDE", "CONTRIBUTING")
)
REFERENCE = "outputs/reference/picto_full"
VARIABLES = ("`STUDY_OUTPUTS`", "`STUDY_CACHE`")


@pytest.mark.parametrize("page", [README, GUIDE], ids=["README", "GUIDE"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page)
    missing = [x for x in links if "://" not in x and not (ROOT / x).exists()]
    assert links
    assert not missing


def test_answer_and_table_of_chapters_are_the_reference_runs():
    found = findings.answers(ROOT / REFERENCE / "tables")
    block = front.chapters(found, REFERENCE)
    told = front.renewed(README, "chapters", block)
    told = front.renewed(told, "answer", findings.bullets(found["07"]))
    assert told == README, "renew it: make reference, or python tools/front.py"
    assert block.count(" points [") > 6  # answers with their intervals


def test_the_table_of_what_to_use_is_the_reference_runs_tree():
    block = front.leaves(ROOT / REFERENCE)
    told = front.renewed(README, "tree", block)
    assert told == README, "renew it: make reference, or python tools/front.py"
    assert "keep zero-shot" in block or block.count("] over ") > 1


def test_chapters_after_the_synthesis_answer_as_well(tmp_path):
    (tmp_path / "tables").mkdir()
    for number in ("07", "08"):
        path = tmp_path / "tables" / f"{number}_findings.csv"
        findings.answer(number, f"Answer {number}").to_csv(path, index=False)
    found = findings.answers(tmp_path / "tables")
    block = front.chapters(found, REFERENCE)
    assert [f"| Answer {n}. |" in block for n in ("06", "07", "08")] == [0, 0, 1]
    assert block.count("| See above. |") == 1  # chapter 07's is the page's
    assert f"({REFERENCE}/" in block
    assert "(nowhere/" not in front.chapters(found, "nowhere")


def test_the_table_leaves_out_means_and_what_a_test_would_have_seen():
    parts = "A gains 1.0 points [0.5, 1.5] on sketches (picto-s) over one prompt, and"
    parts += " shows no difference (a difference of 2.0 points would have been seen)"
    parts += " elsewhere (picto-rn, exploratory). Mean over 6 data"
    parts += " sets: +1.0 points (600 or more images each). B loses (ViT-B/16)."
    assert findings.bullets(parts).count("\n") == 2
    assert findings.short(parts) == (
        "A gains 1.0 points [0.5, 1.5] on sketches over one prompt, and shows no "
        "difference elsewhere (picto-rn, exploratory). B loses (ViT-B/16)."
    )


def test_a_run_without_synthesis_has_no_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="run chapter 07"):
        front.main(str(tmp_path))


def test_a_readme_without_marks_is_refused():
    with pytest.raises(ValueError, match="chapters: begin"):
        front.renewed("# Title", "chapters", "block")


def test_the_front_page_stays_short_and_begins_with_what_is_drawn():
    assert README.count("\n") <= 120
    assert re.match(r"# .*\s+<!-- drawn: begin -->\s+\*\*A program drew", README)


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
    told = set(re.findall(r"(?:^|`|/)study (\w+)", README + GUIDE, flags=re.MULTILINE))
    assert told
    assert told <= set(known)


def test_the_method_of_the_guide_runs():
    code = next(re.finditer(r"```python\n(.*?)```", CONTRIBUTING, re.DOTALL))[1]
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
        assert word in " ".join((README + GUIDE).split())


@pytest.mark.parametrize("page", [README, GUIDE], ids=["README", "GUIDE"])
def test_no_paragraph_ends_in_the_middle(page):
    prose = re.sub(r"```.*?```", "CODE", page, flags=re.DOTALL)
    parts = re.split(r"\n\s*\n", prose)
    for part, following in itertools.pairwise(parts):
        if part.rstrip().endswith((":", ",", ";")):
            assert not following.lstrip().startswith("#"), part
