"""A study's pages: self-contained, whole, readable, and true to the run's files."""

import base64
import hashlib
import html
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat.v4 as v4
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from helpers.methods import registry
from helpers.paths import ROOT
from helpers.study import chapter_page, manual, site
from helpers.study.command import main

SCRIPT = (chapter_page.ASSETS / "site.js").read_text("utf-8")
STYLE = (chapter_page.ASSETS / "site.css").read_text("utf-8")
PAGES = ["01_zero_shot.html", "02b_more.html"]
PAGES += ["glossary.html", "index.html", "methods.html"]
REFERENCE = ROOT / "outputs" / "reference" / "picto_full"
HOSTILE = """<style>@import url(//x.org); #T_a {background: url(//x.org)}</style>
<table onclick="alert(1)"><tr><td style="position: fixed">kite</td></tr></table>
<iframe src="https://x.org"></iframe><img src="https://x.org" onerror="alert(1)">
<svg onload="alert(1)"></svg><form action="//x.org"></form><a href="javascript:x">y</a>
"""
EVIL = "<script>alert('kite')</script>"
WIDTHS = (390, 768, 1280)
TOO_WIDE = "https://example.org/" + "a" * 150
FIRST = r"""# 01 What can a kite & a crab do?

> It depends on *where*.

The weights are $w = \mathrm{softmax}(\gamma a)$, and one formula on its own:

$$\sum_i \frac{w_i}{2} \leq 1$$

$\nosuchcommand{1}$ cannot be drawn. It costs \$5 or \$6.
"""
SECOND = f"""## 1 Links

To [chapter 02b](02b_more.ipynb), [a section](#1-Links), [a file](../data/x.csv),
[another page](https://example.org/paper) and {TOO_WIDE}.

![a picture from afar](https://example.org/x.png) <img src="https://example.org/y.png">

| a | b |
|---|---|
| 1 | {"wide " * 60}|
"""


def png(path: Path, shade: int) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (960, 400), (shade, 90, 140)).save(path)
    return path.read_bytes()


def code(source: str, *outputs: dict, tags: tuple[str, ...] = ()) -> dict:
    metadata = {"tags": list(tags)}
    cell = v4.new_code_cell(source, outputs=list(outputs), metadata=metadata)
    return cell | {"execution_count": 1}


def shown(metadata: dict | None = None, **data: str) -> dict:
    data = {key.replace("_", "/"): value for key, value in data.items()}
    return v4.new_output("display_data", data, metadata=metadata or {})


def said(text: str) -> dict:
    return v4.new_output("stream", text=text)


def save(path: Path, *cells: dict) -> None:
    metadata = {"papermill": {"start_time": "2026-01-02T03:04:05", "duration": 61.2}}
    # Ids are drawn at random; the same study must be made twice.
    cells = [cell | {"id": f"cell-{number}"} for number, cell in enumerate(cells)]
    notebook = v4.new_notebook(cells=cells, metadata=metadata)
    path.write_text(json.dumps(notebook), encoding="utf-8")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Outputs of two chapters, with everything in them that is awkward."""
    folder = tmp_path / "mini"
    picture = png(folder / "figures" / "01_accuracy.png", 10)
    names = pd.DataFrame({"name": [EVIL, "kite <b>"], "top1": [0.5, 0.25]})
    wide = pd.DataFrame({f"column {i}": range(30) for i in range(30)})
    image = {"image_png": base64.b64encode(picture).decode()}
    save(
        folder / "01_zero_shot.ipynb",
        v4.new_markdown_cell(FIRST),
        code('study = "mini"', tags=("parameters",)),
        code("silent = True"),
        code("print(1)", said("a line " * 40), said("one      two\n1          2")),
        code('run.figure("accuracy", *drawn)', shown(**image)),
        v4.new_markdown_cell("*Accuracy of a **kite**.* More words."),
        code("loop()", shown({"progress": True}, text_plain="loop: 9 in 1 s")),
        code("names.style", shown(text_html=names.style.bar("top1").to_html())),
    )
    attached = {"a.png": {"image/png": image["image_png"]}}
    save(
        folder / "02b_more.ipynb",
        v4.new_markdown_cell("# 02b More?\n\n> Yes."),
        v4.new_markdown_cell("![attached](attachment:a.png)", attachments=attached),
        v4.new_markdown_cell(SECOND),
        code("wide", shown(text_html=wide.to_html(), text_plain="wide")),
        code("x = '" + "x" * 300 + "'"),
        code("hostile", shown(text_html=HOSTILE), said(EVIL)),
        code("hostile", shown(application_javascript="alert(1)", text_plain=EVIL)),
        code("hostile", shown(text_html=HOSTILE.partition("</style>")[2])),
    )
    rows = [("digits", "rn", m, "{}", 0, 200, 0.5 + i / 16) for i, m in enumerate("ab")]
    rows.append(("digits", "rn", "<i>few</i>", "{}", 0, 20, 0.99))
    columns = ["dataset", "backbone", "method", "settings", "seed", "n", "top1"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "results.csv", index=False)
    facts = {"commit": "0123abc", "device": "cpu", "machine": "Linux, 2 cores"}
    facts["versions"] = {"torch": "2.0"}
    provenance = {"01_zero_shot": facts, "02b_more": facts}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder


def synthesis(folder: Path) -> bytes:
    """Add what chapter 07 leaves; returns its main figure."""
    picture = png(folder / "figures" / "07_frontier.png", 200)
    (folder / "tables").mkdir()
    none = "no detectable difference (a difference of 2.0 points would have been seen)"
    rows = [
        ("digits", "rn", "episodic", "vote", "vote", True, 0.0225, "gains", 0.2),
        ("sketch", "rn", "episodic", "vote", "vote", True, -0.01, none, 0.4),
        ("digits", "rn", "episodic", "mta-augmix", "", False, 0.5, None, 0.2),
        ("digits", "rn", "episodic", "zero", "ZERO", True, 0.03, none, 0.2),
        ("digits", "rn", "prompts", EVIL, EVIL, True, 0.0, none, 0.002),
        ("digits", "vit", "prompts", EVIL, EVIL, True, 0.7, "gains", 0.002),
        ("digits", "vit", "label-free", "upl", "UPL", False, 0.11, None, None),
        ("digits", "rn", "prompts", "one", "one prompt", False, None, None, 0.002),
    ]
    columns = ["dataset", "backbone", "panel", "method", "name", "headline", "gain"]
    columns += ["gain_verdict", "seconds_per_image"]
    board = pd.DataFrame(rows, columns=columns).assign(seed=0, n=1200, top1=0.5)
    board = board.assign(gain_low=board["gain"] - 0.01, gain_high=board["gain"] + 0.01)
    board = board.assign(over=board["gain"], over_low=-0.2, over_high=0.8, ece=0.125)
    board.to_csv(folder / "tables" / "07_leaderboard.csv", index=False)
    found = pd.DataFrame(
        {"chapter": ["01", "02b"], "question": "?", "answer": ["A & <b>", "B"]}
    )
    found.to_csv(folder / "tables" / "07_findings.csv", index=False)
    title = v4.new_markdown_cell("# 07 All together\n\n> Side by side.")
    image = {"image_png": base64.b64encode(picture).decode()}
    figure = code('run.figure(\n    "frontier", *f)', shown(**image))
    save(
        folder / "07_synthesis.ipynb",
        title,
        figure,
        v4.new_markdown_cell("*The price.*"),
    )
    return picture


def pages(folder: Path) -> dict[str, BeautifulSoup]:
    site.build(folder)
    return {
        path.name: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted((folder / "site").iterdir())
    }


def assert_self_contained(found: dict[str, BeautifulSoup]) -> None:
    """No request leaves a page, and every link within the site has its end."""
    for name, page in found.items():
        policy = page.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
        assert policy.startswith("default-src 'none'")
        assert "http" not in policy
        assert not page.select("iframe, object, embed, base, form")
        scripts = [(tag.get_text(), tag.attrs) for tag in page.select("script")]
        assert scripts == [(SCRIPT, {})]
        digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}';" in policy
        assert not [
            a for tag in page.find_all(True) for a in tag.attrs if a[:2] == "on"
        ]
        ids = [tag["id"] for tag in page.select("[id]")]
        assert len(ids) == len(set(ids)), name
        for tag in page.find_all(src=True):
            assert tag["src"].startswith("data:image/"), tag["src"]
        assert not page.select("[srcset], [poster], [background], [data]")
        for tag in page.select("link"):
            assert tag["href"] == "data:,"
        styles = [tag.get_text() for tag in page.select("style")]
        styles += [tag["style"] for tag in page.select("[style]")]
        assert not re.search(r"url\(|@import|//", "".join(styles))
        for tag in page.select("a"):
            file, _, place = tag["href"].partition("#")
            if not file.startswith("https://"):
                target = found[file or name]
                assert not place or target.find(id=place), tag["href"]


def test_pages_are_self_contained(study: Path) -> None:
    found = pages(study)
    assert list(found) == PAGES
    assert_self_contained(found)
    links = {a.get_text(): a["href"] for a in found["02b_more.html"].main.select("a")}
    assert links["chapter 02b"] == "02b_more.html"
    assert links["a section"] == "#1-Links"
    assert links["another page"] == "https://example.org/paper"
    assert "a file" not in links
    attached = found["02b_more.html"].main.select_one("img[alt=attached]")
    assert attached["src"].startswith("data:image/png")
    assert "a picture from afar" in found["02b_more.html"].main.get_text()
    following = found["01_zero_shot.html"].select_one("a[rel=next]")
    assert following["href"] == "02b_more.html"
    assert " ".join(following.get_text().split()) == "Chapter 02b More?"


def test_formulas_are_mathml(study: Path) -> None:
    main = pages(study)["01_zero_shot.html"].main
    shown = {math["alttext"]: math for math in main.select("math")}
    assert set(shown) == {
        r"w = \mathrm{softmax}(\gamma a)",
        r"\sum_i \frac{w_i}{2} \leq 1",
    }
    alone = shown[r"\sum_i \frac{w_i}{2} \leq 1"]
    assert alone["display"] == "block"
    assert [mi.get_text() for mi in alone.mfrac.msub.find_all("mi")] == ["w", "i"]
    assert r"\nosuchcommand{1}" in [tag.get_text() for tag in main.select("code")]
    assert "costs $5 or $6" in main.get_text()


@pytest.mark.parametrize(
    "tex", [r"\text{<script>x</script>}", r"\text{&lt;script&gt;}", r"\frac{", "x_{"]
)
def test_a_formula_brings_no_markup(tex: str) -> None:
    page = BeautifulSoup(str(chapter_page.formula(tex)), "html.parser")
    assert not page.select("script")
    linked = chapter_page.formula(r"\href{javascript:alert(1)}{x}")
    assert not [tag for tag in linked.find_all(True) if "href" in tag.attrs]
    assert linked.get_text() == "x"


def test_names_are_text_whatever_they_hold(study: Path) -> None:
    synthesis(study)
    found = pages(study)
    table = found["01_zero_shot.html"].select_one(".tinted")
    assert EVIL in table.get_text()
    assert "kite <b>" in table.get_text()
    bar = table.select("tbody td")[1]["id"]
    sheet = found["01_zero_shot.html"].main.style.get_text()
    assert re.search(rf"#{bar}\b[^}}]*\{{background: linear-gradient", sheet)
    index = found["index.html"]
    assert EVIL in index.select_one(".box").get_text()
    assert "A & <b>" in index.select_one(".chapters").get_text()
    assert_self_contained(found)


def test_a_study_may_have_an_awkward_name(study: Path) -> None:
    folder = study.rename(study.with_name("a&b<i>"))
    found = pages(folder)
    assert found["index.html"].select_one(".home").get_text() == "a&b<i>"
    assert not found["index.html"].select("i")


def test_code_waits_to_be_opened(study: Path) -> None:
    main = pages(study)["01_zero_shot.html"].main
    folds = main.select("details.code")
    assert not any(fold.has_attr("open") for fold in folds)
    cells = [fold.pre.get_text().split() for fold in folds]
    assert cells[0] == ["study", "=", '"mini"', "silent", "=", "True", "print(1)"]
    assert cells[-1] == ["loop()", "names.style"]  # progress is nothing to see
    assert "9 in 1 s" not in main.get_text()
    printed = main.select(".output_text pre")
    assert [pre["class"] for pre in printed] == [["lines"], ["columns"]]
    assert main.select_one(".output_png img")["alt"] == "Accuracy of a kite."


def test_wide_tables_have_a_box(study: Path) -> None:
    main = pages(study)["02b_more.html"].main
    boxes = main.select(".box")
    assert [len(box.select("tbody tr")) for box in boxes[:2]] == [1, 30]
    heading, cell = (
        boxes[1].select_one("thead th:last-child"),
        boxes[1].select_one("tbody td"),
    )
    assert heading["class"] == cell["class"] == ["number"]


def test_the_index_says_that_the_synthesis_is_missing(study: Path) -> None:
    index = pages(study)["index.html"]
    note = index.select_one(".note").get_text()
    assert "Chapter 07" in note
    assert "study run mini" in note
    assert index.select_one("figure") is None
    facts = {div.dt.get_text(): div.dd.get_text() for div in index.select(".facts div")}
    assert facts["images"] == "200"
    assert facts["methods and variants"] == "3"
    answers = [p.decode_contents() for p in index.select(".chapters p")]
    assert answers == ["It depends on <em>where</em>.", "Yes."]
    (study / "predictions.csv").write_text("image_id\n" + "photo.jpg\n" * 300)
    facts = pages(study)["index.html"].select(".facts div")
    assert "300" in {div.dd.get_text() for div in facts}  # most have no label


def test_the_index_begins_with_the_synthesis_answer(study: Path) -> None:
    synthesis(study)
    with (study / "tables" / "07_findings.csv").open("a") as found:
        found.write('06,?,of streams\n07,?,Vote. Of "all" 5.5.\n')
    index = pages(study)["index.html"]
    leads = [lead.get_text() for lead in index.select("header ul.lead li")]
    assert leads == ["Vote.", 'Of "all" 5.5.']
    # In the list, the synthesis has its own words, so that nothing is said twice.
    assert index.select(".chapters p")[-1].get_text() == "Side by side."


def test_where_papers_have_numbers_the_index_shows_ours_beside_them(
    study: Path,
) -> None:
    synthesis(study)
    picture = png(study / "figures" / "07_literature.png", 90)
    index = pages(study)["index.html"]
    assert base64.b64encode(picture).decode() in index.select_one("figure img")["src"]


def test_the_index_begins_with_what_to_use(study: Path) -> None:
    synthesis(study)
    assert "What to use" not in pages(study)["index.html"].main.get_text()
    tree = png(study / "figures" / "07_tree.png", 60)
    index = pages(study)["index.html"]
    heads = [head.get_text() for head in index.select("main h2")]
    assert heads == ["What to use", "What was found", "Every method"]
    first = index.select_one("main h2 + figure img")
    assert base64.b64encode(tree).decode() in first["src"]
    assert first["alt"]


def test_the_index_shows_the_synthesis(study: Path) -> None:
    picture = synthesis(study)
    index = pages(study)["index.html"]
    assert index.select_one(".note") is None
    assert base64.b64encode(picture).decode() in index.select_one("figure img")["src"]
    assert index.figcaption.get_text() == "The price."
    rows = [
        [c.get_text() for c in row.select("th, td")]
        for row in index.select("main .board tbody tr")
    ]
    assert rows == [
        [EVIL, "nothing adapts", "+0.0", "–", "2"],
        ["ZERO", "the image alone", "+3.0", "–", "200"],
        ["vote", "the image alone", "+2.2", "-1.0", "300"],
        ["UPL (vit)°", "unlabelled images or texts", "+11.0", "–", "–"],
    ]
    links = {a.get_text(): a["href"] for a in index.select("main .board a")}
    assert links["ZERO"] == "methods.html#zero"
    assert EVIL not in links
    bold = [c.get_text() for c in index.select("main td strong")]
    assert bold == ["+2.2"]
    answers = [p.get_text() for p in index.select(".chapters p")]
    assert answers == ["A & <b>", "B", "Side by side."]


def test_a_chapter_alone_is_enough(study: Path) -> None:
    for path in [*study.glob("02b*"), *study.glob("*.csv"), study / "provenance.json"]:
        path.unlink()
    shutil.rmtree(study / "figures")
    found = pages(study)
    assert "Chapter 07" in found["index.html"].select_one(".note").get_text()
    assert_self_contained(found)


def test_a_partial_chapter_is_unfinished(study: Path) -> None:
    cells = [code("a = 1"), code("b = 2") | {"execution_count": None}]
    save(study / "00_caption_prompts.partial.ipynb", *cells)
    save(study / "02b_more.partial.ipynb", *cells)
    (study / "04_autoclip.partial.ipynb").write_text('{"cells": [')
    found = pages(study)
    assert list(found) == PAGES
    items = found["index.html"].select(".chapters > li")
    assert [bool(item.a) for item in items] == [False, True, True, False]
    assert "Unfinished: 1 of 2 cells" in items[0].get_text()
    assert "study run mini --only 00" in items[0].get_text()
    assert "newer run" in items[2].get_text()
    assert "unfinished" in found["02b_more.html"].header.get_text()
    assert_self_contained(found)


def test_the_same_outputs_give_the_same_bytes(study: Path) -> None:
    site.build(study)
    first = {path.name: path.read_bytes() for path in (study / "site").iterdir()}
    site.build(study)
    assert first == {
        path.name: path.read_bytes() for path in (study / "site").iterdir()
    }


def test_a_new_site_keeps_no_page_of_the_old_one(study: Path) -> None:
    old = site.build(study).with_name("05_gone.html")
    old.write_text("old")
    site.build(study)
    assert not old.exists()
    assert [path.suffix for path in old.parent.iterdir()] == [".html"] * len(PAGES)


def test_a_damaged_file_is_named_and_the_old_site_stays(study: Path) -> None:
    before = site.build(study).read_bytes()
    files = ["02b_more.ipynb", "results.csv", "provenance.json"]
    for name in files:
        path = study / name
        kept = path.read_bytes()
        path.write_bytes(b"\xff\x00{")
        with pytest.raises(ValueError, match=rf"{name}.* again"):
            site.build(study)
        path.write_bytes(kept)
        assert (study / "site" / "index.html").read_bytes() == before


def test_the_command(study: Path, capsys: pytest.CaptureFixture) -> None:
    outputs = ["--outputs", str(study.parent)]
    assert main(["site", "mini", *outputs]) == 0
    assert str(study / "site" / "index.html") in capsys.readouterr().out
    assert main(["site", "maxi", *outputs]) == 2
    assert "study run maxi" in capsys.readouterr().err
    for path in study.glob("*.ipynb"):
        path.rename(path.with_suffix(".partial.ipynb"))
    assert main(["site", "mini", *outputs]) == 2
    assert "study run mini" in capsys.readouterr().err


def test_the_reference_run_as_pages(tmp_path: Path) -> None:
    folder = tmp_path / "picto"
    shutil.copytree(REFERENCE, folder)
    found = pages(folder)
    assert_self_contained(found)
    chapters = sorted(path.stem for path in folder.glob("*.ipynb"))
    others = ["board", "glossary", "index", "methods"]
    assert [name.removesuffix(".html") for name in found] == [*chapters, *others]
    assert_readable(found)
    assert not [
        p for p in found.values() if "A program drew" not in p.header.get_text()
    ]
    for name in chapters:
        page = found[f"{name}.html"]
        cells = json.loads((folder / f"{name}.ipynb").read_text())["cells"]
        outputs = [o.get("data", {}) for c in cells for o in c.get("outputs", [])]
        pictures = sum("image/png" in o or "image/jpeg" in o for o in outputs)
        tables = sum("text/html" in o and "image/png" not in o for o in outputs)
        assert len(page.select(":is(.output_png, .output_jpeg) img")) == pictures
        assert not page.select("img[alt='']")
        assert len(page.select(".output_html .box")) == tables
    assert len(found["04_autoclip.html"].select("math")) >= 20
    assert not [
        p for p in found.values() if re.search(r"\$\\|\\frac", p.main.get_text())
    ]


def test_the_board_has_every_row(study: Path) -> None:
    synthesis(study)
    found = pages(study)
    assert_self_contained(found)
    rows = [
        [cell.get_text() for cell in row.select("td")]
        for row in found["board.html"].select("tbody tr")
    ]
    assert len(rows) == 8
    assert rows[1][:6] == [
        "vote",
        "sketch",
        "rn",
        "-1.0 [-2.0, +0.0]",
        "no detectable difference",
        "-1.0 [-20.0, +80.0]",
    ]
    assert rows[2][0] == "MTA, AugMix"  # a variant has no name in the synthesis
    assert rows[2][4] == ""
    assert rows[4][0] == EVIL
    assert rows[6][6:] == ["50.0", "12.5", "–", "1,200", "unlabelled images or texts"]


def test_methods_come_from_their_files(study: Path) -> None:
    synthesis(study)
    page = pages(study)["methods.html"]
    modules = {e.module.rpartition(".")[2] for e in registry.entries().values()}
    assert {section["id"] for section in page.select("section")} == modules
    zero = page.select_one("#zero")
    assert zero.h3.get_text() == "ZERO: confident views vote at temperature zero"
    assert zero.select_one(".traits a")["href"] == "https://arxiv.org/abs/2405.18330"
    assert "n_c = #{v in S" in zero.pre.get_text()
    assert "rho 0.3" in zero.select_one(".settings").get_text()
    cells = [cell.get_text(" ") for cell in zero.select("td")]
    assert cells[:3] == ["ZERO", "the image alone", "+3.0 1 of 2"]
    assert page.select_one("#vote td small").get_text() == "2 of 2"
    assert page.select_one("#lafter .traits").get_text().count("LaFTer") == 2


def test_a_terms_first_use_leads_to_the_glossary(study: Path) -> None:
    text = "picto-vit: the views' entropy, a `pool`, ENTROPY.\n\n## A pool\n\nViewsing."
    title = v4.new_markdown_cell("# 03 Views\n\n> More *views*.")
    save(study / "03_views.ipynb", title, v4.new_markdown_cell(text))
    found = pages(study)
    assert_self_contained(found)
    links = found["03_views.html"].main.select("a.term")
    assert [(a.get_text(), a["href"]) for a in links] == [
        ("views", "glossary.html#View"),
        ("picto-vit", "glossary.html#Embedded-CLIPs"),
        ("entropy", "glossary.html#Entropy"),
    ]


def test_terms_are_in_order_and_have_one_meaning() -> None:
    text, terms = manual.glossary()
    headings = BeautifulSoup(text, "html.parser").select("h2")
    titles = [chapter_page.text_of(heading).lower() for heading in headings]
    assert titles == sorted(titles)
    source = manual.GLOSSARY.read_text("utf-8")
    spellings = [
        s
        for line in re.findall(r"\n\n\*Also ([^*]+)\.\*", source)
        for s in line.split(",")
    ]
    assert len(terms) == len(titles) + len(spellings)


@pytest.mark.parametrize("dataset", ["picto-s", "digits"])
def test_drawn_pictures_are_owned_up_to_first(study: Path, dataset: str) -> None:
    table = pd.read_csv(study / "results.csv").assign(dataset=dataset)
    table.to_csv(study / "results.csv", index=False)
    for page in pages(study).values():
        first = page.main.get_text(" ", strip=True)
        assert first.startswith("A program drew") == (dataset == "picto-s")
        assert ("study run imagenet_a_rn50" in first[:300]) == (dataset == "picto-s")


def assert_readable(found: dict[str, BeautifulSoup]) -> None:
    """What those who see or steer otherwise need, as far as markup tells."""
    for name, page in found.items():
        assert page.html["lang"] == "en"
        assert len(page.select("h1")) == len(page.select("main")) == 1, name
        levels = [int(tag.name[1]) for tag in page.select("h1, h2, h3, h4, h5")]
        assert levels[0] == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), name
        assert not page.select("img:not([alt]), img[alt=''], a:not([href])")
        assert not [
            tag for tag in page.select("a, th, summary") if not tag.get_text(strip=True)
        ]
        labels = [tag.get("aria-label") for tag in page.select("nav, .box")]
        assert all(labels), name
        assert not page.select("table:not(.box table)"), name
        landmarks = [tag["aria-label"] for tag in page.select("nav")]
        assert len(landmarks) == len(set(landmarks)), name


def test_pages_are_readable_without_eyes_or_mouse(study: Path) -> None:
    synthesis(study)
    assert_readable(pages(study))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of "#abc" or "#aabbcc"."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * d for d in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def test_the_palette_has_contrast() -> None:
    """4.5 between text and paper, as WCAG 2 asks, in either scheme and in print."""
    palettes = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    light, dark, on_paper = (
        dict(re.findall(r"--([\w-]+): (#\w+);", palette)) for palette in palettes
    )
    for colours in (light, light | dark, light | on_paper):
        for ink in ("ink", "soft", "accent", "keyword", "string", "number"):
            for paper in ("paper", "wash"):
                assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)


def test_coloured_cells_have_contrast() -> None:
    frame = pd.DataFrame({"gain": [x / 20 for x in range(21)]})
    styled = frame.style.background_gradient("RdBu").to_html()
    rules = chapter_page._clean(styled).partition("</style>")[0]
    found = re.findall(r"background-color: (#\w+);[^}]*color: (#\w+);\}", rules)
    assert len(found) == 21
    assert min(contrast(*colours) for colours in found) >= 4.5


MEASURE = """
window.onload = () => {
  const seen = [...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentWindow, root = page.document.documentElement;
    const all = selector => [...page.document.querySelectorAll(selector)];
    all('.over button').forEach(button => button.click());
    all('.board th.number:nth-child(4) button').forEach(button => button.click());
    all('[type=search]').forEach(search => {
      search.value = 'DIGITS';
      search.dispatchEvent(new page.Event('input', {bubbles: true}));
    });
    const style = page.getComputedStyle(page.document.body);
    return [frame.title, root.scrollWidth - root.clientWidth, page.innerWidth,
      style.color, style.backgroundColor,
      page.performance.getEntriesByType('resource').length,
      all('details.code:not([open])').length,
      all('.board tbody tr:not([hidden])').map(row => row.cells[0].textContent)];
  });
  document.body.textContent = JSON.stringify(seen);
};
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(study: Path, scheme: str) -> None:
    """Nothing is wider than the screen or fetched, both schemes are legible, and the
    script opens all code and sorts."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    synthesis(study)
    site.build(study)
    (study / "site" / "wide.html").write_text("<p style='width: 3000px'>too wide")
    frames = "".join(
        f'<iframe title="{path.name}" src="site/{path.name}" width="{width}"></iframe>'
        for path in sorted((study / "site").iterdir())
        for width in WIDTHS
    )
    frames += f"<script>{MEASURE}</script>"
    style = "<style>:root { color-scheme: light dark } iframe { border: 0 }</style>"
    (study / "frames.html").write_text(f"<!doctype html>{style}<body>{frames}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    options += [
        "--allow-file-access-from-files",
        f"--user-data-dir={study / 'profile'}",
    ]
    options += [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"]
    done = subprocess.run(
        [browser, *options, (study / "frames.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=600,
    )
    body = re.search(r"<body>(.*)</body>", done.stdout, re.S)
    assert body, done.stderr
    seen = json.loads(html.unescape(body[1]))
    assert len(seen) == len(WIDTHS) * (len(PAGES) + 3)
    for name, beyond, window, ink, paper, fetched, folded, rows in seen:
        if name == "wide.html":
            assert beyond > 0  # or the measure measures nothing
            continue
        assert window in WIDTHS
        assert beyond == 0, (name, window)
        assert fetched == folded == 0
        if name == "board.html":  # sorted by gain, without the row of another data set
            best = [EVIL, "MTA, AugMix", "UPL", "ZERO", "vote", EVIL, "one prompt"]
            assert rows == best
        ink, paper = (sum(map(int, re.findall(r"\d+", c)[:3])) for c in (ink, paper))
        assert (
            (ink < 300 < 600 < paper)
            if scheme == "light"
            else (paper < 150 < 500 < ink)
        )
