"""The table of photographs against what can be worked out by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.results import photographs

NAMES = ["cat", "fox", "Kuh; braun"]
IDS = ["2024/a.jpg", "b.jpg", "ü, c.png"]
SHARES = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1]])
OTHER = np.array([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]])
LOGITS = {"zero_shot": np.log(SHARES), "vote": torch.tensor(OTHER).log() + 3}


def test_a_row_by_hand():
    found = photographs.table(IDS, NAMES, LOGITS, labels=[0, -1, 2])
    assert found["path"].tolist() == IDS
    assert found["name"].tolist() == ["cat", "Kuh; braun", "fox"]
    np.testing.assert_allclose(found["confidence"], [0.7, 0.4, 0.8])
    assert found["runner_up"].tolist() == ["fox", "cat", "cat"]  # ties: the first
    np.testing.assert_allclose(found["runner_up_confidence"], [0.2, 0.3, 0.1])
    assert found["top_5"][0] == "cat 0.70; fox 0.20; Kuh; braun 0.10"
    assert found["agreement"].tolist() == [1, 1, 0.5]
    assert found["look_at_this_one"].tolist() == [False, True, True]
    assert found["label"].tolist() == ["cat", "", "Kuh; braun"]
    assert found["views_kept"].tolist() == [""] * 3


def test_the_flag_heeds_both_thresholds():
    def flags(**options: float) -> list[bool]:
        found = photographs.table(IDS, NAMES, LOGITS, **options)
        return found["look_at_this_one"].tolist()

    assert flags(lead=1.0) == [False, False, True]
    assert flags(agreeing=0.5) == [False, True, False]
    assert flags(lead=4.0, agreeing=0.5) == [True, True, False]
    three = {"a": LOGITS["vote"], "b": LOGITS["vote"], "c": LOGITS["zero_shot"]}
    found = photographs.table(IDS, NAMES, three)  # two of three suffice
    assert not found["look_at_this_one"].any()


def test_another_method_may_be_shown_and_views_named():
    kept = torch.tensor([[0, 3], [17, 2], [1, 0]])
    found = photographs.table(IDS, NAMES, LOGITS, chosen="vote", views_kept=kept)
    assert found["name"].tolist() == ["cat", "Kuh; braun", "cat"]
    np.testing.assert_allclose(found["confidence"], [0.6, 0.8, 0.9])
    assert found["views_kept"].tolist() == ["0 3", "17 2", "1 0"]


def test_five_of_many_classes_are_listed():
    logits = {"m": np.arange(8.0)[None]}
    found = photographs.table(["x"], [f"n{i}" for i in range(8)], logits)
    assert found["top_5"][0].split("; ")[-1].startswith("n3 ")
    assert found["top_5"][0].count(";") == 4


def test_the_file_comes_back(tmp_path):
    found = photographs.table(IDS, NAMES, LOGITS, labels=[0, -1, 2])
    path = photographs.write(tmp_path, found)
    assert path == tmp_path / "predictions.csv"
    again = pd.read_csv(path, keep_default_na=False)
    pd.testing.assert_frame_equal(again, found, rtol=1e-5)
    first = photographs.write(tmp_path, found).read_bytes()
    assert first == photographs.write(tmp_path, found).read_bytes()


@pytest.mark.parametrize(
    ("logits", "chosen", "message"),
    [
        ({}, "", "needs the logits"),
        (LOGITS, "tpt", "no logits of 'tpt': choose one of zero_shot, vote"),
        ({"m": np.zeros((3, 2))}, "", r"logits of m are \[3, 2\], .* 3 classes"),
        ({"m": np.zeros((2, 3))}, "", "3 images and"),
    ],
)
def test_what_does_not_fit_is_named(logits, chosen, message):
    with pytest.raises(ValueError, match=message):
        photographs.table(IDS, NAMES, logits, chosen)
