"""Chapter 04 where nothing is known of the images, and the figures that it draws."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from lookalikes import imagenet_layout, photos

from helpers import data, figures
from helpers.figures import chapter_04
from helpers.study import check, main

SMALL = {"view_count": 4, "view_images": 4, "repeats": 2, "draws": 1}


def run(study: str, outputs, **overrides) -> pd.DataFrame:
    """Run chapter 04 of a study as a user would; which ledgers it wrote."""
    options = [
        part
        for key, value in {"device": "cpu", **SMALL, **overrides}.items()
        for part in ("-p", key, str(value))
    ]
    command = ["run", study, "--only", "04", "--outputs", str(outputs), *options]
    assert main(command) == 0
    paths = sorted((outputs / study / "predictions").glob("*/*/*.parquet"))
    return pd.DataFrame(
        [(path.parts[-3], path.parts[-2], path.stem) for path in paths],
        columns=["dataset", "backbone", "method"],
    )


@pytest.mark.soak
def test_a_full_size_clip_on_a_folder_of_photographs(tmp_path):
    """Random weights, since theirs are a download; the 80 templates and the others."""
    root = photos(tmp_path / "photos", {"hen": 3, "kite": 2, "sports_car": 1})
    written = run(
        "my_images",
        tmp_path / "out",
        data_root=root,
        backbone="ViT-B-16-quickgelu",
        weights="random",
        template_counts=[4, 200],
    )
    assert set(written["backbone"]) == {"ViT-B-16-quickgelu"}
    assert {"mean_80", "autoclip_80", "autoclip_waffle"} <= set(written["method"])
    assert not {"dclip", "cupl", "autoclip_pooled"} & set(written["method"])
    (page,) = (tmp_path / "out" / "my_images").glob("04_*.ipynb")
    assert page.read_text().count("stands here once") == 1  # in the code alone
    tables = tmp_path / "out" / "my_images" / "tables"
    gains = pd.read_csv(tables / "04_gains.csv")
    assert (gains["n"] == 6).all()
    assert set(gains["method"]) == {f"autoclip_{n}" for n in ("7", "80", "styles")} | {
        "autoclip_waffle"
    }
    drawn = pd.read_csv(tables.parent / "figures" / "04_templates.csv")
    assert set(drawn["templates"]) == {4}  # there are not 200 to draw from


def test_the_layout_of_imagenet_a_and_texts_of_another_file(tmp_path):
    imagenet_layout(tmp_path, "imagenet-a", every=20)
    with pytest.warns(UserWarning, match="partial"):
        names = data.read("imagenet-a", str(tmp_path)).class_names
    texts = tmp_path / "texts.json"
    pd.Series({name: [f"A {name}.", "It is big."] for name in names}).to_json(texts)
    written = run(
        "imagenet_a_vit_b16",
        tmp_path / "out",
        data_root=tmp_path,
        backbone="picto-rn",
        weights="picto",
        texts=texts,
        prompt_sets="[openai_80]",
        closer="openai_80",
    )
    # The file has sentences alone: no descriptors, so that nothing can be pooled.
    assert {"cupl", "autoclip_80"} <= set(written["method"])
    assert "dclip" not in set(written["method"])


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("prompt_sets", ["openai_80", "openai_80"], "without repetition"),
        ("prompt_sets", ["pooled"], "pooled needs texts"),
        ("prompt_sets", [], "openai_7"),
        ("closer", "styles", "accepted: openai_80"),
        ("texts", "nowhere.json", "no file of texts"),
        ("beta", 0.0, r"in \(0, 1\]"),
        ("betas", [0.5, 2], r"in \(0, 1\]"),
        ("aggregation", "sum", "logsumexp, mean, max, entropy"),
        ("template_counts", [1], "at least 2"),
        ("template_counts", [], "at least 2"),
        ("draws", 0, "at least 1"),
        ("view_recipe", "zoom", "preaugment"),
        ("view_sets", ["digits"], "a list from picto"),
        ("repeats", 1, "at least 2"),
    ],
)
def test_impossible_values_are_refused(key, value, accepted):
    good = {"dataset": "picto", "shifts": [], "prompt_sets": ["openai_80"], "texts": ""}
    with pytest.raises(ValueError, match=accepted) as caught:
        check({**good, key: value}, "x")
    assert str(caught.value).startswith(f"x: {key} is ")


def test_curves_draw_percent_in_panels_with_bands():
    frame = pd.DataFrame(
        {
            "k": [1, 10, 100] * 2,
            "gain": [0.0, 0.1, 0.2] * 2,
            "ci_low": -0.1,
            "ci_high": 0.3,
            "on": ["a"] * 3 + ["b"] * 3,
        }
    )
    labels = {"xlabel": "K", "ylabel": "points"}
    fig, drawn = figures.curves(
        frame, "k", "gain", "on", panel="on", log=True, across=0.05, at=2, **labels
    )
    left, right = fig.axes
    assert left.get_ylabel() == "points"
    assert right.get_title(loc="left") == "b"
    assert left.lines[0].get_ydata() == pytest.approx([0, 10, 20])
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["1", "10", "100"]
    band = left.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((-10, 30))
    assert len(drawn) == 6
    plt.close(fig)


def test_template_weights_rank_and_say_what_is_left_out(tmp_path):
    weights = {f"{i} {{}}": w for i, w in enumerate([0.1, 0.6, 0.3])}
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    fig, drawn = chapter_04.template_weights(image, weights, "a set: hen", top=2)
    bars = fig.axes[1]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([60, 30])
    assert bars.get_ylabel() == "heaviest 2 of 3"
    assert drawn["template"].tolist() == ["1 {}", "2 {}", "0 {}"]
    plt.close(fig)
    with pytest.raises(ValueError, match="no templates"):
        chapter_04.template_weights(image, {})


def test_one_step_for_all_shows_how_far_images_are_from_the_entropy_asked_for():
    fig, drawn = chapter_04.one_step_for_all(
        {"a": np.linspace(0, 1, 101), "b": [0.5]}, 0.85
    )
    (ax,) = fig.axes
    assert drawn["quantile_0.05"].tolist() == pytest.approx([0.05, 0.5])
    assert ax.lines[0].get_xdata()[0] == 85
    thin, thick = (c.get_segments()[0][:, 0] for c in ax.collections)
    assert thin.tolist() == pytest.approx([5, 95])
    assert thick.tolist() == pytest.approx([25, 75])
    assert ax.lines[1].get_xdata().tolist() == pytest.approx([50, 50])
    plt.close(fig)
    with pytest.raises(ValueError, match="no data sets"):
        chapter_04.one_step_for_all({}, 0.85)


def test_weight_map_counts_in_uniform_weights_and_frames_the_heaviest():
    table = pd.DataFrame(
        [[0.5, 0.25, 0.25], [0.0, 0.1, 0.9]],
        columns=["x {}", "y {}", "z {}"],
        index=["photo", "sketch"],
    )
    fig, drawn = chapter_04.weight_map(table)
    (ax,) = fig.axes
    assert [text.get_text() for text in ax.texts] == ["1.5", "2.7"]
    frames = [patch.get_xy() for patch in ax.patches]
    assert frames == [(-0.5, -0.5), (0.5, 1.5)]
    assert drawn["weight"].sum() == pytest.approx(2)
    plt.close(fig)
    fig, _ = chapter_04.weight_map(table, top=1)  # the template heaviest anywhere
    assert [tick.get_text() for tick in fig.axes[0].get_yticklabels()] == ["z {}"]
    plt.close(fig)
