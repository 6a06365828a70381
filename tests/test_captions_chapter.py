"""Chapter 03 where no truth is known of the images, and the figures that it draws."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from lookalikes import check_captions, photos

from helpers.figures import chapter_03
from helpers.study import check, main

SMALL = {"part_images": 2, "noise_shares": "[0, 1]"}
OURS = {"captioner": "picto-captioner", "embeddings": "clip"}


def run(outputs, chapters=("03",), **overrides) -> int:
    """Run chapters on a folder of photographs as a user would."""
    root = photos(outputs / "photos", {"hen": 3, "kite": 2, "sports_car": 1})
    given = {"device": "cpu", "data_root": root, "weights": "random", **SMALL}
    options = [
        part
        for key, value in {**given, **overrides}.items()
        for part in ("-p", key, str(value))
    ]
    command = ["run", "my_images", "--outputs", str(outputs), "--only", *chapters]
    return main([*command, *options])


@pytest.mark.soak
def test_a_full_size_clip_on_a_folder_of_photographs(tmp_path):
    """Random weights, since theirs are a download, and captions of the wrong world."""
    assert run(tmp_path, backbone="RN50-quickgelu", **OURS) == 0
    folder = tmp_path / "my_images"
    written = {path.stem for path in folder.glob("predictions/*/*/*.parquet")}
    assert {"zero_shot_sample", "caption", "caption_style"} <= written
    page = (folder / "03_caption_prompts.ipynb").read_text()
    assert page.count("stands here once") == 1  # in the code: the answer is there
    assert "**What to do.**" in page
    check_captions(folder, "photos", 6)


def test_what_needs_a_missing_model_is_left_out_and_the_rest_runs(tmp_path, capsys):
    """Neither diffusion nor sentence embeddings; then no captioner."""
    small = {"backbone": "picto-rn", "weights": "picto"}
    ours = {**small, "captioner": "picto-captioner"}
    assert run(tmp_path, chapters=["02b", "03"], **ours) == 0
    told = capsys.readouterr().out
    assert "02b_diffusion_views left out what needs a model: no diffusion" in told
    assert "`hf download stabilityai/sd-turbo`" in told
    assert "`hf download sentence-transformers/all-MiniLM-L6-v2` (about 90 MB)" in told
    folder = tmp_path / "my_images"
    page = (folder / "02b_diffusion_views.ipynb").read_text()
    assert "hf download stabilityai/sd-turbo" in page
    assert page.count("Left out: no variator") > 20
    ledgers = {path.stem for path in folder.glob("predictions/*/*/*.parquet")}
    assert ledgers == {f"{m}_sample" for m in ("zero_shot", "autoclip")} | {
        "caption_placed",
        "caption_style",
    }
    assert (folder / "figures" / "03_captions.png").is_file()
    blame = pd.read_csv(folder / "figures" / "03_blame.csv")
    assert blame["step"].tolist() == ["plain", "captioner"]
    assert run(tmp_path / "none", **small, embeddings="clip") == 0
    told = capsys.readouterr().out
    assert "hf download nlpconnect/vit-gpt2-image-captioning` (about 1 GB)" in told
    assert not list((tmp_path / "none").glob("my_images/predictions/*/*/*.parquet"))
    (page,) = (tmp_path / "none").glob("my_images/03_*.ipynb")
    told = page.read_text().count("this chapter has no answer")
    assert told == 3  # in the code, above and below


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("captioner", "nowhere", "picto-captioner, a model of the hub"),
        ("beams", 0, "1 to 64"),
        ("caption_tokens", 2, "at least 3"),
        ("truth", True, "false"),
        ("style_set", "openai_90", "openai_80"),
        ("caption_images", 1, "at least 2"),
        ("part_images", -1, "at least 2"),
        ("close_sets", ["imagenet-r"], "a list from imagenet-a"),
        ("close_sets", [], "a list from imagenet-a"),
        ("noise_shares", [0, 2], "from 0 to 1"),
    ],
)
def test_impossible_values_are_refused(key, value, accepted):
    with pytest.raises(ValueError, match=accepted):
        check({"dataset": "imagenet-a", "shifts": [], key: value}, "x")


def test_truth_is_for_drawn_scenes():
    check({"dataset": "picto", "shifts": ["picto-s"], "truth": True}, "x")


def test_cards_keep_their_text_beside_their_picture():
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 3
    texts = [["won", "a very long caption " * 5, "end"], ["b"], ["$c$", r"$\no$"]]
    fig, data = chapter_03.cards(pictures, texts)
    assert data["text"].tolist() == ["\n".join(card) for card in texts]
    fig.canvas.draw()
    width, height = fig.canvas.get_width_height()
    boxes = [text.get_window_extent() for text in fig.texts]
    lefts = sorted({round(box.x0) for box in boxes})
    assert len(lefts) == 2  # two columns
    for box in boxes:
        assert 0 <= box.y0 <= box.y1 <= height
        assert box.x1 <= (width / 2 if box.x0 < width / 2 else width)
    plt.close(fig)
    with pytest.raises(ValueError, match="1 texts for 3 images"):
        chapter_03.cards(pictures, texts[:1])


def test_waterfall_starts_where_the_step_before_ended():
    frame = pd.DataFrame(
        {
            "dataset": ["a"] * 3 + ["b"] * 3,
            "step": ["plain", "one", "two"] * 2,
            "top1": [0.5, 0.6, 0.4, 0.9, 0.8, 0.8],
            "difference": [np.nan, 0.1, -0.2, np.nan, -0.1, 0.0],
            "ci_low": [np.nan, 0.0, -0.3, np.nan, -0.2, -0.1],
            "ci_high": [np.nan, 0.2, -0.1, np.nan, 0.0, 0.1],
            "verdict": ["", "gains", "no", "", "loses", "no"],
        }
    )
    fig, data = chapter_03.waterfall(frame)
    assert data.equals(frame)
    bars = [patch.get_bbox() for patch in fig.axes[0].patches]
    assert [(round(b.x0), round(b.x1)) for b in bars] == [(0, 50), (50, 60), (60, 40)]
    inside = [patch.get_facecolor() for patch in fig.axes[0].patches[1:]]
    white = (1.0, 1.0, 1.0, 1.0)
    assert inside[0] != white  # it gains
    assert inside[1] == white  # the test decides nothing
    plt.close(fig)
    with pytest.raises(ValueError, match="top1"):
        chapter_03.waterfall(frame.drop(columns="top1"))
