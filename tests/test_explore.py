"""The explorer without a browser: what a control changes, and who gets controls."""

import io
from datetime import datetime
from types import SimpleNamespace

import ipywidgets as widgets
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from PIL import Image

from helpers import data, figures, store
from helpers.chapters import explore
from helpers.chapters.explore import Exploration, Panel, Settings, Upload
from helpers.chapters.notebook import Run
from helpers.methods import autoclip, selection, tpt, vote
from helpers.models import clip
from helpers.models.prompts import PromptTower
from helpers.prompts.templates import TEMPLATES

CELL = """\
from pathlib import Path
import torch
from helpers import data
from helpers.chapters.explore import explore
from helpers.chapters.notebook import Run
from helpers.models import clip

run = Run("08_trial", "trial", Path("trial"), 0, torch.device("cpu"))
explore(run, clip.load("picto-rn", "picto", "cpu"), data.load("picto-a", "", 8))"""


@pytest.fixture(scope="module")
def backbone():
    return clip.load("picto-rn", "picto", device="cpu")


@pytest.fixture(scope="module")
def dataset():
    return data.load("picto-a", "", 8)


@pytest.fixture(scope="module")
def exploration(backbone, dataset):
    return Exploration(backbone, dataset, "preaugment", TEMPLATES["openai_7"], seed=3)


@pytest.fixture
def panel(exploration):
    return Panel(exploration)


def by_class(exploration, settings):
    """Probabilities: a row for each class, a column for each method."""
    table = exploration.facts(settings)["probabilities"]
    return table.pivot_table("probability", "class_name", "method")


def upload(panel, name, content):
    file = {"name": name, "type": "", "size": len(content), "content": content}
    panel.upload.value = ({**file, "last_modified": datetime.now()},)


def encoded(picture, kind):
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def test_every_control_changes_the_picture(panel):
    moves = {
        "beta": 0.4,
        "rho": 0.3,
        "steps": 4,
        "learning_rate": 0.02,
        "views": 16,
        "position": 2,
        "names": "cat, dog, cake",
        "tune": False,
    }
    seen = [panel.picture.value]
    assert Image.open(io.BytesIO(seen[0])).format == "PNG"
    for name, value in moves.items():
        getattr(panel, name).value = value
        assert panel.message.value.startswith("drawn in"), name
        assert panel.picture.value not in seen, name
        seen.append(panel.picture.value)
    assert panel.settings() == Settings(
        2, ("cat", "dog", "cake"), 16, 0.3, False, 4, 0.02, 0.4
    )


def test_the_numbers_are_those_of_the_methods(exploration, backbone, dataset):
    settings = Settings(5, rho=0.2, steps=2, learning_rate=0.01, beta=0.6)
    views = store.view_features(backbone, dataset, "preaugment", 32, seed=3)[5:6]
    tower, scale = PromptTower(backbone, dataset.class_names), backbone.logit_scale
    with torch.no_grad():
        classes = tower.features(tower.context)
    logits = scale * views.float() @ classes.T
    tuning = {"rho": 0.2, "steps": 2, "learning_rate": 0.01}
    expected = {
        "zero_shot": logits[:, 0],
        "vote_mean": vote.mean_vote(views, classes, scale),
        "vote": vote.confident_vote(views, classes, scale, rho=0.2),
        "tpt": tpt.tpt(views, tower.features, scale, tower.context, **tuning),
    }
    found = by_class(exploration, settings).loc[list(dataset.class_names)]
    assert set(found) == set(expected)
    for method, of_classes in expected.items():
        p = of_classes.softmax(dim=-1)[0]
        assert np.allclose(found[method], p, rtol=1e-4), method

    facts = exploration.facts(settings)
    assert np.allclose(facts["views"]["entropy"], selection.entropy(logits)[0])
    kept = facts["views"].query("kept").index
    assert set(kept) == set(selection.confident(logits, 6)[0].tolist())

    prompts = backbone.template_features(dataset.class_names, exploration.templates)
    weights = autoclip.weights(views[:, 0].float(), prompts, scale, beta=0.6)[0]
    assert list(facts["weights"]) == list(exploration.templates)
    assert list(facts["weights"].values()) == pytest.approx(weights.tolist())


def test_what_a_move_leaves_alone_is_not_computed_again(panel, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(tpt, "tune", refuse)
    panel.beta.value = 0.5
    monkeypatch.undo()
    monkeypatch.setattr(explore, "encode", refuse)
    panel.rho.value = 0.5
    panel.names.value = "owl, pear"
    with pytest.raises(AssertionError, match="computed again"):
        panel.views.value = 31


def test_the_order_of_names_does_not_matter(exploration):
    names = ("cat", "owl", "pear", "ice cream")
    one = by_class(exploration, Settings(names=names))
    other = by_class(exploration, Settings(names=names[::-1]))
    assert one.shape == (len(names), 4)
    assert np.allclose(one, other, atol=1e-6)


def test_names_are_read_from_a_list_with_commas(panel):
    panel.names.value = " cat,, hot dog ,cat, "
    assert panel.settings().names == ("cat", "hot dog")
    before = panel.picture.value
    panel.names.value = "cat"
    assert "two or more" in panel.message.value
    panel.names.value = "cat, " + "very " * 90 + "long dog"
    assert "shorten" in panel.message.value
    assert panel.picture.value == before
    panel.names.value = ""
    assert panel.message.value.startswith("drawn in")


def test_one_view_is_enough_where_all_are_kept(panel):
    before = panel.picture.value
    panel.views.value = 1
    assert "keeps none of 1 views" in panel.message.value
    assert panel.picture.value == before
    panel.rho.value = 1
    assert panel.message.value.startswith("drawn in")
    assert panel.picture.value != before


def test_a_label_is_told_where_it_is_known(exploration, backbone, dataset):
    truth = dataset.class_names[dataset.labels[1]]
    assert exploration.facts(Settings(1))["title"] == f"{dataset.ids[1]}\ntrue: {truth}"
    unlabelled = SimpleNamespace(
        ids=("a.jpg",), labels=np.array([-1]), class_names=("cat", "dog")
    )
    unlabelled.image = lambda _: dataset.image(1)
    other = Exploration(backbone, unlabelled, "augmix", TEMPLATES["photo"], seed=0)
    assert other.facts(Settings())["title"] == "a.jpg"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_of_many_formats_can_be_brought(kind, exploration):
    picture = Image.fromarray(np.tile(np.arange(90, dtype=np.uint8), (70, 1)))
    settings = Settings(Upload("mine", encoded(picture, kind)), ("cat", "dog"), 10)
    facts = exploration.facts(settings)
    assert facts["views"]["entropy"].notna().all()
    assert facts["title"] == "mine"


def test_an_uploaded_picture_is_seen_as_in_a_data_set(panel, exploration, dataset):
    picture = encoded(dataset.image(4), "PNG")
    upload(panel, dataset.ids[4], memoryview(picture))
    assert panel.message.value.startswith("drawn in")
    assert isinstance(panel.settings().image, Upload)
    brought, own = (by_class(exploration, s) for s in (panel.settings(), Settings(4)))
    assert brought.equals(own)
    panel.position.value = 1
    assert panel.settings().image == 1
    assert panel.position in panel.box.children[0].children


def test_of_one_image_there_is_no_choice(backbone, dataset):
    alone = Exploration(
        backbone, dataset.subset([3]), "preaugment", TEMPLATES["photo"], 0
    )
    panel = Panel(alone)
    assert panel.message.value.startswith("drawn in")
    assert panel.position not in panel.box.children[0].children


@pytest.mark.parametrize(
    "content", [b"", b"no <b>picture</b>", encoded(Image.new("RGB", (64, 64)), "JPEG")]
)
def test_a_broken_upload_gives_a_sentence(content, panel):
    before = panel.picture.value
    upload(panel, "<i>.jpg", content[: len(content) // 2])
    assert "&lt;i&gt;.jpg cannot be read as a picture" in panel.message.value
    assert panel.picture.value == before
    panel.position.value = 1
    assert panel.message.value.startswith("drawn in")
    assert panel.picture.value != before


def test_a_notebook_that_can_answer_input_is_interactive():
    manager, client = start_new_kernel(startup_timeout=600)
    said = []

    def hear(message):
        if message["msg_type"] == "execute_result":
            said.append(message["content"]["data"]["text/plain"])

    try:
        client.execute_interactive(
            "from helpers.chapters.explore import is_interactive"
        )
        for allowed in (True, False):
            client.execute_interactive(
                "is_interactive()", allow_stdin=allowed, output_hook=hear, timeout=600
            )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert said == ["True", "False"]
    assert not explore.is_interactive()  # no kernel at all


def test_a_figure_follows_its_controls_where_one_can_play(tmp_path, monkeypatch):
    asked = []

    def draw(share):
        asked.append(share)
        return figures.curves(line, "x", "y", "what", xlabel="x", ylabel="y")

    line = pd.DataFrame({"x": [0, 1], "y": [0, 1], "what": "line"})
    run = Run("05_trial", "trial", tmp_path, 0, torch.device("cpu"))
    slider = widgets.FloatSlider(0.5, max=1.0)
    explore.vary(run, "moved", draw, share=slider)
    assert asked == [0.5]
    assert (tmp_path / "figures" / "05_moved.png").is_file()
    monkeypatch.setattr(explore, "is_interactive", lambda: True)
    explore.vary(run, "played", draw, share=slider)
    slider.value = 0.7
    assert asked == [0.5, 0.5, 0.7]
    assert not (tmp_path / "figures" / "05_played.png").exists()


def test_papermill_gets_one_picture_and_no_widget(tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND")  # a kernel's own choice draws into the notebook
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "trial.ipynb")
    executed = papermill.execute_notebook(
        tmp_path / "trial.ipynb",
        tmp_path / "out.ipynb",
        cwd=tmp_path,
        progress_bar=False,
    )
    (cell,) = executed.cells
    kinds = [set(out.data) for out in cell.outputs if out.output_type != "stream"]
    assert kinds.count({"image/png", "text/plain"}) == 1
    # On a busy machine there is a line of progress beside it.
    assert set().union(*kinds) == {"image/png", "text/plain"}
    assert "widgets" not in executed.metadata
    figure = tmp_path / "trial" / "figures" / "08_explore.png"
    assert {figure, figure.with_suffix(".csv")} == set(figure.parent.iterdir())
