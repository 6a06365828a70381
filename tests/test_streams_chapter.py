"""Chapter 06: what it leaves, on a folder of any size, and what it refuses."""

import json
import re

import nbformat
import pandas as pd
import pytest
from lookalikes import photos

from helpers.methods import memory, registry
from helpers.results import predictions
from helpers.study import check, main

SMALL = {"orders": 2, "alphas": "[0.1]", "tails": "[1.0, 5.0]", "batch_sizes": "[2]"}
SMALL |= {"view_count": 10, "view_images": 4, "stream_images": 0, "device": "cpu"}
NAMES = registry.names()
FOLLOWED = set(memory.ONLINE) - memory.OF_VIEWS
LEDGERS = {
    f"{k}{mark}" for k in FOLLOWED | set(memory.TRANSDUCTIVE) for mark in ("", "_80")
}


def test_every_method_leaves_ledgers_for_all_sets_and_both_backbones(smoke_study):
    for dataset in ("picto", "picto-s", "picto-a"):
        for backbone in ("picto-rn", "picto-vit"):
            there = smoke_study / "predictions" / dataset / backbone
            assert {p.stem for p in there.glob("*.parquet")} >= LEDGERS
    of_views = smoke_study / "predictions" / "picto-s" / "picto-rn"
    for name in memory.OF_VIEWS:
        assert len(predictions.read(of_views / f"{name}.parquet")) == 16
    told = predictions.read(of_views / "tda_80.parquet", with_logits=False).attrs
    assert told["settings"]["order"] == "shuffled"
    assert len(told["settings"]["templates"]) == 80


def test_the_synthesis_has_its_panel_of_streams(smoke_study):
    board = pd.read_csv(smoke_study / "tables" / "07_leaderboard.csv")
    online = board[board["panel"] == "online"]
    places = online[online["method"] == "tda"][["dataset", "backbone"]]
    assert len(places.drop_duplicates()) == 6
    assert set(online["method"]) >= LEDGERS
    assert online.loc[online["method"].isin(LEDGERS), "gain"].notna().all()
    found = pd.read_csv(smoke_study / "tables" / "07_findings.csv", dtype=str)
    answer = found.set_index("chapter")["answer"]["06"]
    assert re.match(r"TDA on one shuffled stream (gains|loses|shows no det)", answer)
    decided = pd.read_csv(smoke_study / "tables" / "07_decisions.csv")
    assert (decided["have"] == "a stream of test images").sum() == 6


def test_tables_have_intervals_over_orders_and_images(smoke_study):
    tables = smoke_study / "tables"
    found = pd.read_csv(tables / "06_gains.csv")
    moving = found[found["orders"] > 1]
    assert set(moving["method"]) == {NAMES[k] for k in FOLLOWED}
    assert set(moving["orders"]) == {3}
    assert (found["ci_low"] <= found["difference"] + 1e-9).all()
    assert (found["difference"] <= found["ci_high"] + 1e-9).all()
    kinds = pd.read_csv(tables / "06_kinds.csv").set_index("stream")
    assert kinds["classes among 50"].idxmin() == "one class after the other"
    assert kinds["images"]["long tail, 1 : 10"] < kinds["images"]["shuffled"]
    visits = pd.read_csv(tables / "06_visits.csv")
    assert set(zip(visits["dataset"], visits["part"], strict=True)) == {
        ("picto-s", "after ordinary pictures"),
        ("picto", "when it is back"),
        ("picto", "after sketches"),
        ("picto-s", "when it is back"),
    }
    cost = pd.read_csv(tables / "06_cost.csv").set_index("method")
    assert (cost.loc[[NAMES[k] for k in FOLLOWED], "kB"] > 0).all()


@pytest.mark.soak
@pytest.mark.parametrize(
    "classes", [{"hen": 1, "kite": 30}, dict.fromkeys("abcdefghijkl", 5)]
)
def test_a_folder_of_few_photographs_is_one_data_set_with_short_streams(
    classes, tmp_path
):
    root, out = photos(tmp_path / "photos", classes), tmp_path / "out"
    given = {**SMALL, "data_root": root, "backbone": "picto-rn", "weights": "picto"}
    options = [part for k, v in given.items() for part in ("-p", k, str(v))]
    command = ["run", "my_images", "--only", "06", "--outputs", str(out), *options]
    assert main(command) == 0
    folder = out / "my_images"
    results = pd.read_csv(folder / "results.csv").set_index("method")
    assert set(results.index) == LEDGERS | memory.OF_VIEWS
    assert (results.loc[sorted(LEDGERS), "n"] == sum(classes.values())).all()
    assert not (folder / "figures" / "06_visits.png").exists()  # nowhere to go
    executed = nbformat.read(folder / "06_streams.ipynb", as_version=4)
    said = json.dumps(executed)
    assert "one data set: no other domain to go to" in said


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("orders", 0, "at least 1"),
        ("remembering", [], "a list without repetition from tda, dmn"),
        ("remembering", ["boost_adapter"], "a list without repetition from tda"),
        ("alphas", [], "numbers above 0"),
        ("alphas", [0.1, 0.0], "numbers above 0"),
        ("tails", [0.5], "numbers from 1 on"),
        ("tails", [], "numbers from 1 on"),
        ("batch_sizes", [0], "whole numbers from 1 on"),
        ("batch_sizes", [1.5], "whole numbers from 1 on"),
        ("stream_images", -1, "0"),
        ("focus", "digits", "picto"),
        ("view_sets", ["digits"], "a list from picto"),
    ],
)
def test_impossible_values_are_refused(key, value, accepted):
    good = {"dataset": "picto", "shifts": []}
    with pytest.raises(ValueError, match=accepted) as caught:
        check({**good, key: value}, "x")
    assert str(caught.value).startswith(f"x: {key} is ")
