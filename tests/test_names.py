"""Readers see names of data sets; parameters and files have their codes."""

from types import SimpleNamespace

import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib import pyplot as plt
from matplotlib.text import Text
from test_figures import comparison, results

from helpers import data, figures
from helpers.chapters import notebook
from helpers.figures import chapter_03, chapter_04
from helpers.paths import ROOT
from helpers.results.names import DRAWN, kind, named

CODES = ["picto-a", "picto-s"]
COMPARED = comparison(CODES, ["tpt", "vote-augmix"])
CURVE = COMPARED.assign(x=range(len(COMPARED)))
STEPS = COMPARED.assign(step="plain", top1=0.5)
BINS = pd.DataFrame({"low": [0.0, 0.5], "high": [0.5, 1.0], "count": 1})
BINS = BINS.assign(confidence=0.5, accuracy=0.5, ci_low=0.4, ci_high=0.6)
AXES = {"xlabel": "x", "ylabel": "y"}
DRAWINGS = {
    "accuracy": lambda: figures.accuracy_by_dataset(results(CODES, ["tpt"])),
    "forest": lambda: figures.paired_differences(COMPARED),
    "places": lambda: figures.paired_differences(
        COMPARED.assign(method=COMPARED["dataset"] + ", picto-vit")
    ),
    "map": lambda: figures.difference_map(COMPARED),
    "panels": lambda: figures.difference_panels(COMPARED, "method"),
    "panel each": lambda: figures.difference_panels(COMPARED, "dataset", "method"),
    "lines": lambda: figures.curves(CURVE, "x", "difference", "dataset", **AXES),
    "line each": lambda: figures.curves(
        CURVE, "x", "difference", "method", panel="dataset", **AXES
    ),
    "reliability": lambda: figures.reliability_diagram(dict.fromkeys(CODES, BINS)),
    "waterfall": lambda: chapter_03.waterfall(STEPS),
    "steps": lambda: chapter_04.one_step_for_all({key: [0.5] for key in CODES}, 0.8),
}


def test_every_data_set_has_a_name_of_its_own():
    known = [name for name in data.names() if name not in ("folder", "digits")]
    names = list(map(named, known))
    assert not set(names) & set(known)
    assert len(set(names)) == len(names)


def test_what_is_not_known_keeps_its_name():
    assert named("my holiday") == kind("my holiday") == "my holiday"
    assert named("picto-s folder") == "picto-s folder"  # a user's, see `data.called`
    assert named("picto-s, my holiday") == "sketches, my holiday"
    assert kind("imagenet-a") == "ImageNet-A"


def test_the_glossary_has_names_with_codes():
    text = " ".join((ROOT / "GLOSSARY.md").read_text("utf-8").split())
    for code in DRAWN.keys() - {"picto-few-shot"}:
        assert f"{named(code)} (`{code}`)" in text


@pytest.mark.parametrize("name", DRAWINGS)
def test_figures_show_names_and_keep_codes_in_their_numbers(name):
    fig, frame = DRAWINGS[name]()
    fig.canvas.draw()
    texts = " ".join(text.get_text() for text in fig.findobj(Text)).replace("\n", " ")
    assert "small or off-centre objects" in texts
    assert not [code for code in CODES if code in texts]
    plt.close(fig)
    if name != "places":
        assert frame.isin(CODES).any(axis=None)


def test_styled_tables_show_names_and_plain_ones_codes(monkeypatch):
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
    notebook.name_data_sets()
    table = pd.DataFrame({"dataset": ["picto-s"], "sets": ["picto-r, picto-c"]})
    table["said"] = kind("picto-s")
    shown, plain = (
        shell.display_formatter.format(each)[0]["text/html"]
        for each in (table.set_index("dataset").style, table)
    )
    for text in (">sketches<", ">data set<", ">other styles, damaged images<"):
        assert text in shown
        assert text not in plain
    assert ">sketches (picto-s)<" in shown
    assert ">picto-s<" in plain
