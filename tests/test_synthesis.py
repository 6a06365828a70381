"""Chapter 07: small ledgers made here, against slow oracles."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import papermill
import pytest

from helpers import paths
from helpers.figures import chapter_07 as drawn
from helpers.methods import registry
from helpers.results import (
    findings,
    layouts,
    metrics,
    predictions,
    published,
    synthesis,
    tree,
)
from helpers.results.synthesis import Key

CLASSES = 4


def ledger(folder, method, ids, right, *, seconds=0.01, **place) -> None:
    """A ledger whose images named in `right` are right, the others wrong.

    An image's label is told by its id, its confidence by its place in the list.
    """
    ids = list(ids)
    labels = np.array([sum(map(ord, i)) % CLASSES for i in ids])
    hits = np.array([i in right for i in ids])
    said = np.where(hits, labels, (labels + 1) % CLASSES)
    logits = np.zeros((len(ids), CLASSES), np.float32)
    logits[np.arange(len(ids)), said] = 1 + np.arange(len(ids)) % 3
    about = {"dataset": "d", "backbone": "b", "seed": 0, "weights": "w"} | place
    predictions.write(
        folder,
        dataset=about["dataset"],
        backbone=about["backbone"],
        method=method,
        ids=ids,
        labels=labels,
        logits=logits,
        seconds_per_image=seconds,
        settings={"weights": about["weights"]},
        seed=about["seed"],
    )


def names(start: int, stop: int) -> list[str]:
    return [f"i{number:03d}" for number in range(start, stop)]


@pytest.fixture
def made(tmp_path):
    """Two data sets, methods on samples in another order, one nobody knows."""
    everything = names(0, 60)
    ledger(tmp_path, "zero_shot_photo", everything, names(0, 30))
    ledger(tmp_path, "ensemble_80", everything, names(0, 33))
    some = everything[10:50][::-1]
    ledger(tmp_path, "zero_shot", some, names(0, 30), seconds=0.02)
    ledger(tmp_path, "vote-crops", some, names(0, 47), seconds=0.1)
    ledger(tmp_path, "vote-mixed", some[:20], names(0, 40), seconds=0.1)
    ledger(tmp_path, "tpt-crops", some, names(0, 31), seconds=0.2)
    ledger(tmp_path, "mine", everything, names(0, 60), seconds=0.05)
    ledger(tmp_path, "lafter", some, names(20, 50), seed=1)
    ledger(tmp_path, "zero_shot_photo", everything, names(0, 50), dataset="e")
    ledger(tmp_path, "vote-crops", everything, names(0, 45), dataset="e")
    return tmp_path


# The board


def test_every_row_is_about_the_images_that_all_hold(made):
    """Against a slow oracle that reads the ledgers again, image by image."""
    board = synthesis.leaderboard(synthesis.load(made)).set_index(["dataset", "method"])
    assert ("d", "zero_shot") not in board.index  # the same as zero_shot_photo
    read = {}
    for frame in predictions.read_all(made):
        hits = zip(
            frame["image_id"], frame["prediction"] == frame["label"], strict=True
        )
        read[frame.attrs["dataset"], frame.attrs["method"]] = dict(hits)
    for (dataset, method), row in board.iterrows():
        mine, one = read[dataset, method], read[dataset, "zero_shot_photo"]
        many = read.get((dataset, "ensemble_80"))
        held = [i for i in mine if i in one and (many is None or i in many)]
        assert row["n"] == len(held)
        assert row["top1"] == pytest.approx(sum(mine[i] for i in held) / len(held))
        if method == "zero_shot_photo":
            assert np.isnan(row["gain"])
            continue
        wins = sum(mine[i] and not one[i] for i in held)
        losses = sum(one[i] and not mine[i] for i in held)
        assert (row["wins"], row["losses"]) == (wins, losses)
        assert row["gain"] == pytest.approx((wins - losses) / len(held))
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
        if many is None or method == "ensemble_80":
            assert np.isnan(row["over"])
        else:
            over = sum(mine[i] - many[i] for i in held) / len(held)
            assert row["over"] == pytest.approx(over)


def test_pairing_does_not_depend_on_the_order_of_images(made):
    scores = synthesis.load(made)
    board = synthesis.leaderboard(scores)
    mixed = {
        key: frame.sample(frac=1, random_state=3).pipe(_with_attrs, frame)
        for key, frame in scores.items()
    }
    pd.testing.assert_frame_equal(synthesis.leaderboard(mixed), board)


def _with_attrs(frame: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    frame.attrs = dict(like.attrs)
    return frame


def test_another_label_for_an_image_is_refused(made):
    scores = synthesis.load(made)
    scores[Key("d", "b", "mine")].loc["i003", "label"] += 1
    with pytest.raises(ValueError, match=r"1 images have other labels.*'i003'"):
        synthesis.leaderboard(scores)


def test_calibration_is_that_of_metrics():
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(500, 5)), rng.integers(0, 5, 500)
    found = synthesis.calibration(metrics.scores(logits, labels))
    summary = metrics.summary(logits, labels)
    assert found["ece"] == pytest.approx(summary["ece"])
    assert found["nll"] == pytest.approx(summary["nll"])


def test_the_baseline_that_shares_most_images_is_taken(tmp_path):
    ledger(tmp_path, "zero_shot_photo", names(0, 5), names(0, 5))
    ledger(tmp_path, "zero_shot_held_out", names(0, 20), names(0, 3))
    ledger(tmp_path, "zero_shot_held_out", names(0, 20), names(0, 4), seed=2)
    ledger(tmp_path, "drml", names(3, 20), names(0, 20), seed=2)
    ledger(tmp_path, "tap", names(40, 50), names(0, 3))
    scores = synthesis.load(tmp_path)
    one = registry.ledgers(registry.ONE)
    found = synthesis.baseline(scores, Key("d", "b", "drml", 2), one)
    assert found is scores[Key("d", "b", "zero_shot_held_out", 2)]
    assert synthesis.baseline(scores, Key("d", "b", "tap"), one) is None
    board = synthesis.leaderboard(scores).set_index("method")
    assert np.isnan(board.loc["tap", "gain"])
    assert board.loc["tap", "n"] == 10


def test_a_folder_without_ledgers_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="run chapter 01"):
        synthesis.load(tmp_path)


# What a method is


@pytest.mark.parametrize(
    ("method", "panel", "chapter"),
    [
        ("zero_shot_photo", "prompts", "01"),
        ("zero_shot_held_out", "prompts", "05"),
        ("zero_shot_true", "worded", "01"),
        ("zero_shot_chosen", "labelled", "01"),
        ("vote_random-crops", "episodic", "02"),
        ("ensemble_centred", "label-free", "05"),
        ("ensemble_styles", "prompts", "04"),
        ("vote_reference-augmix", "episodic", "02"),
        ("tpt-preaugment", "episodic", "02"),
        ("tpt_coop-preaugment", "labelled", "02"),
        ("coop", "labelled", "02"),
        ("caption_placed", "captioner", "03"),
        ("autoclip_80", "episodic", "04"),
        ("autoclip_sample", "episodic", "03"),
        ("clip_adapter", "label-free", "05b"),
        ("tent_online", "online", "05b"),
        ("tent_marginal", "episodic", "05b"),
        ("two_models", "second model", "05b"),
        ("tda_80", "online", "06"),
        ("em_priors", "online", "06"),
        ("tptx", "own", ""),
        ("my method", "own", ""),
    ],
)
def test_panels(method, panel, chapter):
    entry = registry.find(method)
    assert (entry.panel, entry.chapter) == (panel, chapter)


def test_the_ledgers_of_the_committed_run_are_all_known():
    table = pd.read_csv(
        paths.ROOT / "outputs" / "reference" / "picto_full" / "results.csv"
    )
    assert not [m for m in table["method"] if registry.find(m).panel == "own"]


def test_an_entry_needs_and_resembles_what_others_do():
    entries = registry.entries().values()
    assert {entry.needs for entry in entries} | {"unknown"} == registry.NEEDS.keys()
    assert {entry.family for entry in entries} | {"own"} == registry.FAMILIES.keys()
    coloured = registry.colours()
    shown = {family.colour_of for family in registry.FAMILIES.values()}
    assert shown - {""} <= coloured.keys()


def test_an_unknown_method_is_not_lost(made):
    scores = synthesis.load(made)
    board = synthesis.leaderboard(scores)
    row = board.set_index(["dataset", "method"]).loc[("d", "mine")]
    assert (row["panel"], row["name"]) == ("own", "mine")
    assert "mine" in set(synthesis.shown(board)["name"])
    decided = findings.decisions(scores, board).set_index(["dataset", "have"])
    assert decided.loc[("d", "your own method"), "use"] == "mine"


def test_figures_show_the_main_recipe_and_one_backbone(tmp_path):
    for backbone, dataset in product("bc", "de"):
        place = {"backbone": backbone, "dataset": dataset}
        ledger(tmp_path, "zero_shot_photo", names(0, 9), names(0, 3), **place)
        ledger(tmp_path, "vote-crops", names(0, 9), names(0, 4), **place)
    ledger(tmp_path, "vote-mixed", names(0, 9), names(0, 5))
    ledger(tmp_path, "lafter", names(0, 9), names(0, 5), backbone="c")
    scores = synthesis.load(tmp_path)
    assert synthesis.main_recipe(scores) == "crops"
    rows = synthesis.shown(synthesis.leaderboard(scores), ["c", "b"])
    assert set(rows["method"]) == {"vote-crops", "lafter"}
    assert set(rows["backbone"]) == {"c"}
    rows = synthesis.shown(synthesis.leaderboard(scores), ["b", "c"])
    assert rows.set_index("name")["backbone"]["LaFTer"] == "c"
    assert set(rows.loc[rows["name"] == "vote of views", "backbone"]) == {"b"}


def test_of_several_seeds_figures_and_sentences_take_the_lowest(tmp_path):
    ids = names(0, 40)
    ledger(tmp_path, "zero_shot_photo", ids, names(0, 10))
    for seed, right in ((2, 15), (1, 25), (3, 35)):
        ledger(tmp_path, "lafter", ids, names(0, right), seed=seed)
    scores = synthesis.load(tmp_path)
    rows = synthesis.shown(synthesis.leaderboard(scores))
    assert rows.set_index("name").loc["LaFTer", ["seed", "top1"]].tolist() == [1, 0.625]
    table = findings.by_dataset(scores, "b", "lafter", ["zero_shot_photo"])
    assert table["difference"].tolist() == pytest.approx([0.375])


def test_the_first_of_equal_baselines_is_taken(tmp_path):
    for name, right in (("zero_shot_sample", 3), ("zero_shot", 4), ("caption", 5)):
        ledger(tmp_path, name, names(0, 10), names(0, right))
    scores, one = synthesis.load(tmp_path), registry.ledgers(registry.ONE)
    assert one.index("zero_shot") < one.index("zero_shot_sample")
    place = Key("d", "b", "caption")
    first = Key("d", "b", "zero_shot")
    assert synthesis.baseline(scores, place, one) is scores[first]
    assert synthesis.widest(scores, place, one) == first


def test_the_data_set_that_is_hardest_is_told(tmp_path):
    for dataset, right in (("d", 8), ("e", 2), ("f", 5)):
        ledger(
            tmp_path, "zero_shot_photo", names(0, 10), names(0, right), dataset=dataset
        )
        ledger(tmp_path, "ensemble_80", names(0, 10), names(0, right), dataset=dataset)
    scores = synthesis.load(tmp_path)
    board = synthesis.leaderboard(scores)
    leaves = tree.leaves(findings.decisions(scores, board), ["b"])
    found = findings.findings(scores, board, leaves, "d", ["b"], {})
    answer = found["answer"].iloc[0]
    assert answer.startswith("One prompt is right on 80.0% [")
    assert "] of d and 20.0% [" in answer
    assert "] of e. " in answer


def test_missing_chapters_are_named(made):
    assert synthesis.missing(synthesis.load(made)) == [
        "02b",
        "03",
        "04",
        "05b",
        "06",
        "06c",
    ]


# Prices, agreement, ranks


def test_no_method_is_priced_below_one_prompt_of_its_backbone(made):
    everything = names(0, 60)
    ledger(made, "autoclip_80", everything, names(0, 40), seconds=0.001)
    ledger(made, "zero_shot_photo", everything, names(0, 9), backbone="c", seconds=0.3)
    ledger(made, "upl", everything, names(0, 40), backbone="c", seconds=0.02)
    board = synthesis.leaderboard(synthesis.load(made))
    found = synthesis.priced(board, "b")
    assert found[["autoclip_80", "vote-crops"]].tolist() == [0.01, pytest.approx(0.055)]
    assert synthesis.priced(board, "c")["upl"] == 0.3


def test_a_panel_of_prices_is_about_the_same_images(tmp_path):
    """A labelled method that would leave too few images is left out, and said so."""
    everything = names(0, 400)
    ledger(tmp_path, "zero_shot_photo", everything, names(0, 200))
    ledger(tmp_path, "ensemble_80", everything, names(0, 210))
    ledger(tmp_path, "vote-crops", names(100, 300), names(0, 250), seconds=0.1)
    ledger(tmp_path, "autoclip_80", everything, names(0, 220))
    ledger(tmp_path, "lafter", names(250, 400), names(0, 400))
    ledger(tmp_path, "zero-crops", names(0, 200), names(0, 100))
    scores = synthesis.load(tmp_path)
    board = synthesis.leaderboard(scores)
    rows = synthesis.on_equal_images(scores, board, "d", "b").set_index("name")
    assert set(rows.index) == {"80 prompts", "vote of views", "AutoCLIP"}
    assert set(rows["n"]) == {200}  # i100 to i299
    assert rows.loc["vote of views", "difference"] == pytest.approx(50 / 200)
    assert rows.loc["80 prompts", "difference"] == pytest.approx(10 / 200)
    assert rows["labelled"].to_dict()["AutoCLIP"]
    assert not rows["labelled"].to_dict()["80 prompts"]
    few = synthesis.on_equal_images(scores, board, "d", "b", ["80 prompts"])
    assert few["labelled"].tolist() == few["name"].eq("80 prompts").tolist()
    assert set(few["n"]) == {400}  # no vote asks for its images
    fig, data = drawn.frontier(rows.reset_index())
    assert len(data) == 3
    (vote,) = (line for line in fig.axes[0].lines if line.get_ydata()[0] == 25)
    assert vote.get_markerfacecolor() == registry.colours()["vote"]
    plt.close(fig)


def test_a_chapter_is_overruled_where_its_verdict_is_another(tmp_path):
    ids = names(0, 400)
    ledger(tmp_path, "zero_shot_photo", ids, names(0, 200))
    ledger(tmp_path, "autoclip_80", ids, names(0, 260))
    ledger(tmp_path, "zero-crops", ids, names(0, 201))
    board = synthesis.leaderboard(synthesis.load(tmp_path))
    said = ["gains", "gains", "loses", "loses"]
    table = pd.DataFrame({"method": ["autoclip_80", "zero", "zero", "zero"]})
    table = table.assign(dataset="d", backbone="b", n=9, verdict=said)
    table["views"] = [None, "crops", "others", "crops"]
    table["baseline"] = ["zero_shot", "zero_shot", "zero_shot", "vote"]
    (tmp_path / "tables").mkdir()
    none = pd.DataFrame()
    assert synthesis.overruled(tmp_path, board, none).empty
    table.to_csv(tmp_path / "tables" / "02_paired.csv")
    (row,) = synthesis.overruled(tmp_path, board, none).to_dict("records")
    assert (row["chapter"], row["name"], row["verdict"]) == ("02", "ZERO", "gains")
    assert row["here_verdict"] == "no detectable difference"
    assert (row["n"], row["here_n"]) == (9, 400)


def test_a_chapter_is_overruled_by_the_test_of_its_claim_too(tmp_path):
    ids = names(0, 400)
    for method, right in (("zero_shot_photo", 200), ("text_classifier", 210)):
        ledger(tmp_path, method, ids, names(0, right))
    ledger(tmp_path, "lafter", ids, names(0, 212))
    board = synthesis.leaderboard(scores := synthesis.load(tmp_path))
    claimed = findings.claims(scores, board, ["b"])
    table = pd.DataFrame({"seed": [0, 1], "verdict": ["gains", "loses"]})
    table = table.assign(dataset="d", backbone="b", n=9, method="lafter")
    (tmp_path / "tables").mkdir()
    table.assign(baseline="text_classifier").to_csv(
        tmp_path / "tables" / "05_added.csv"
    )
    (row,) = synthesis.overruled(tmp_path, board, claimed).to_dict("records")
    assert (row["chapter"], row["name"], row["verdict"]) == ("05", "LaFTer", "gains")
    assert row["here_verdict"] == "no detectable difference"
    assert (row["baseline"], row["here_n"]) == ("text_classifier", 400)


def test_agreement_pairs_by_id(made):
    scores = synthesis.load(made)
    keys = {m: Key("d", "b", m) for m in ("zero_shot_photo", "vote-crops", "mine")}
    table = synthesis.agreement(scores, keys)
    assert (table.to_numpy() == table.to_numpy().T).all()
    a = scores[keys["zero_shot_photo"]]["prediction"]
    b = scores[keys["vote-crops"]]["prediction"]
    same = [a[i] == b[i] for i in b.index]
    assert table.loc["zero_shot_photo", "vote-crops"] == np.mean(same)
    fig, data = drawn.who_agrees(synthesis.clustered(table), printed=1)
    assert set(data["method"]) == set(keys)
    printed = sorted(float(text.get_text()) for text in fig.axes[0].texts)
    shares = 100 * table.to_numpy()[np.triu_indices(3, 1)]
    assert printed == [round(shares.min()), round(shares.max())]
    plt.close(fig)


def test_methods_that_agree_stand_side_by_side():
    names = list("abcd")
    shares = pd.DataFrame(np.eye(4), names, names).replace(0.0, 0.2)
    for one, other in ("ac", "bd"):
        shares.loc[one, other] = shares.loc[other, one] = 0.9
    order = "".join(synthesis.clustered(shares))
    assert {frozenset(order[:2]), frozenset(order[2:])} == {
        frozenset("ac"),
        frozenset("bd"),
    }


def test_rescued_and_broken_are_shares_of_the_images_seen(made):
    board = synthesis.leaderboard(synthesis.load(made))
    rows = synthesis.tested(synthesis.shown(board, ["b"])).query("dataset == 'd'")
    fig, data = drawn.rescued_and_broken(rows)
    widths = [patch.get_width() for patch in fig.axes[0].patches]
    vote = data["name"].tolist().index("vote of views")
    assert widths[vote] == pytest.approx(100 * 17 / 40)  # i030 to i046 of 40 images
    assert data["gain"].is_monotonic_decreasing
    plt.close(fig)


def test_images_rescued_and_broken(made):
    scores = synthesis.load(made)
    keys = [Key("d", "b", m) for m in ("vote-crops", "tpt-crops", "mine")]
    table = synthesis.rescued_and_broken(scores, keys, Key("d", "b", "zero_shot_photo"))
    assert table.loc["i040"].tolist() == [2, 0, 3]  # the vote and mine
    assert table.loc["i055"].tolist() == [1, 0, 1]  # only mine holds it
    assert table.loc["i000"].tolist() == [0, 0, 1]
    found = synthesis.extremes(table, 2)
    assert found["told"].tolist() == ["3 of 3 rescue it", "2 of 3 rescue it"]
    table.loc["i010", "broken"] = 2
    both = synthesis.extremes(table, 2)
    assert both["told"].tolist() == ["3 of 3 rescue it", "2 of 3 break it"]


def test_rank_correlation_by_counting_pairs():
    rng = np.random.default_rng(2)
    a = pd.Series(rng.normal(size=9), list("abcdefghi"))
    b = pd.Series(rng.normal(size=8), list("cabdefgz"))
    both = list("abcdefg")
    pairs = [(x, y) for x in both for y in both if x < y]
    signs = [np.sign((a[x] - a[y]) * (b[x] - b[y])) for x, y in pairs]
    found = synthesis.rank_correlation(a, b)
    assert found["tau"] == pytest.approx(sum(signs) / len(pairs))
    assert found["methods"] == 7
    few = synthesis.rank_correlation(a[:3], b)
    assert np.isnan(few["tau"])
    assert few["methods"] == 3
    assert found["low"] < found["tau"] < found["high"]


# Decisions and sentences


def decided_world(folder, better: int) -> pd.DataFrame:
    """400 images, a vote that is right on `better` more of them than the ensemble."""
    ids = names(0, 400)
    ledger(folder, "zero_shot_photo", ids, names(0, 200))
    ledger(folder, "ensemble_80", ids, names(0, 202))
    ledger(folder, "vote-crops", ids, names(0, 202 + better), seconds=0.1)
    ledger(folder, "lafter", ids, names(100, 302))
    scores = synthesis.load(folder)
    return findings.decisions(scores, synthesis.leaderboard(scores)).set_index("have")


def test_a_decision_is_made_on_one_half_and_measured_on_the_other(tmp_path):
    table = decided_world(tmp_path, better=80)
    row = table.loc["the image alone"]
    assert (row["use"], row["over"]) == ("vote-crops", "ensemble_80")
    frame = synthesis.load(tmp_path)
    halves = [
        findings.halved(frame[Key("d", "b", m)]) for m in ("vote-crops", "ensemble_80")
    ]
    assert not set(halves[0][0].index) & set(halves[0][1].index)
    assert halves[0][1].index.equals(halves[1][1].index)
    measured = halves[0][1]["hit"].mean() - halves[1][1]["hit"].mean()
    assert row["expect"] == pytest.approx(measured)
    assert row["n"] == len(halves[0][1])
    assert table.loc["unlabelled images like them", "use"] == "nothing more"
    assert "labelled images" not in table.index  # no such method was run


def test_the_half_that_chose_has_no_say_in_what_to_expect(tmp_path):
    """A vote that is always right on the one half, half the time on the other."""
    ids = names(0, 400)
    first, second = map(
        list, (h.index for h in findings.halved(pd.DataFrame(index=ids)))
    )
    ledger(tmp_path, "zero_shot_photo", ids, ids[::4])
    ledger(tmp_path, "ensemble_80", ids, ids[::4])
    ledger(tmp_path, "vote-crops", ids, [*first, *second[::2]], seconds=0.1)
    scores = synthesis.load(tmp_path)
    table = findings.decisions(scores, synthesis.leaderboard(scores))
    row = table.set_index("have").loc["the image alone"]
    assert (row["use"], row["n"]) == ("vote-crops", len(second))
    gained = (len(second[::2]) - len(set(second) & set(ids[::4]))) / len(second)
    assert row["expect"] == pytest.approx(gained)
    assert gained < 0.4


def test_what_needs_all_images_at_once_is_not_advised_for_a_stream(tmp_path):
    ids = names(0, 400)
    ledger(tmp_path, "zero_shot_photo", ids, ids[:200])
    ledger(tmp_path, "ensemble_80", ids, ids[:200])
    ledger(tmp_path, "onzeta", ids, ids[:280])
    ledger(tmp_path, "zlap", ids, ids[:300])
    scores = synthesis.load(tmp_path)
    decided = findings.decisions(scores, synthesis.leaderboard(scores))
    found = tree.leaves(decided, ["b"]).set_index("have")["use"]
    assert found["all test images at once"] == "ZLaP"
    assert found["a stream of test images"] == "OnZeta"


def test_a_price_in_the_tree_is_the_median_over_data_sets(tmp_path):
    ids = names(0, 400)
    for dataset, seconds in (("picto", 0.1), ("picto-s", 0.2), ("picto-a", 0.9)):
        about = {"dataset": dataset}
        ledger(tmp_path, "zero_shot_photo", ids, ids[:200], **about)
        ledger(tmp_path, "vote-crops", ids, ids[:300], seconds=seconds, **about)
    scores = synthesis.load(tmp_path)
    board = synthesis.leaderboard(scores)
    leaves = tree.leaves(findings.decisions(scores, board), ["b"])
    assert leaves["seconds_per_image"].tolist() == [0.2] * 3
    assert leaves["plain_seconds_per_image"].tolist() == [0.01] * 3


def test_without_a_gain_the_plain_prompt_is_advised(tmp_path):
    row = decided_world(tmp_path, better=2).loc["the image alone"]
    assert row["use"] == "zero_shot_photo"
    assert np.isnan(row["expect"])


def test_a_decision_tells_harm_and_calibration_of_the_other_half(tmp_path):
    row = decided_world(tmp_path, better=80).loc["the image alone"]
    scores = synthesis.load(tmp_path)
    vote, many = (
        findings.halved(scores[Key("d", "b", m)])[1]
        for m in ("vote-crops", "ensemble_80")
    )
    assert row["broken"] == np.mean(many["hit"] & ~vote["hit"])
    assert row["ece"] == pytest.approx(synthesis.calibration(vote)["ece"])
    assert row["surer"] == pytest.approx((vote["confidence"] - vote["hit"]).mean())
    one = scores[Key("d", "b", "zero_shot_photo")].loc[vote.index]
    assert row["ece_one"] == pytest.approx(synthesis.calibration(one)["ece"])


def test_the_direction_of_an_error_is_told_where_it_has_one():
    leaf = {"ece": 0.5, "ece_one": 0.031, "surer": -0.5}
    assert tree.calibrated(leaf) == "50.0% too unsure (3.1%)"
    assert tree.calibrated(leaf | {"surer": 0.3}) == "50.0% too sure (3.1%)"
    assert tree.calibrated(leaf | {"surer": 0.2}) == "50.0% (3.1%)"
    assert tree.calibrated(leaf | {"ece_one": np.nan}) == "50.0% too unsure"


# The tree


def a_world(folder) -> pd.DataFrame:
    """Sketches on which a vote and a stream gain, plain images on which none does."""
    ids = names(0, 400)
    for dataset, better in (("picto", 2), ("picto-s", 90)):
        about = {"dataset": dataset}
        ledger(folder, "zero_shot_photo", ids, names(0, 200), **about)
        ledger(folder, "ensemble_80", ids, names(0, 202), **about)
        ledger(folder, "vote-crops", ids, names(0, 202 + better), seconds=0.1, **about)
        ledger(folder, "onzeta", ids, names(0, 210 + better), **about)
        ledger(folder, "caption", ids, names(0, 150), **about)
    scores = synthesis.load(folder)
    return findings.decisions(scores, synthesis.leaderboard(scores))


def test_a_leaf_gains_only_where_the_corrected_test_does(tmp_path):
    """And has the numbers of its row, whatever the uncorrected interval says."""
    decided = a_world(tmp_path)
    found = tree.leaves(decided, ["b"])
    rows = decided.set_index(["dataset", "have"])
    assert found["datasets"].tolist() == ["picto-s", "picto-s", "picto"]
    for leaf in found[found["use"] != tree.KEEP].to_dict("records"):
        row = rows.loc[(leaf["datasets"], leaf["have"])]
        assert row["verdict"] == leaf["verdict"] == "gains"
        numbers = ["expect", "expect_low", "expect_high", "n", "broken", "ece"]
        assert [leaf[k] for k in numbers] == row[numbers].tolist()
        assert leaf["over"] == registry.ENSEMBLE
    assert found["use"].tolist() == ["OnZeta", "vote of views", tree.KEEP]
    assert found["without"].tolist() == ["", "a captioner", "a stream, a captioner"]
    assert tree.gained(found.iloc[2]) == "no gain found"
    spoiled = decided.assign(verdict="no detectable difference", expect_low=0.01)
    kept = tree.leaves(spoiled, ["b"])
    assert kept["use"].tolist() == [tree.KEEP]
    assert kept["datasets"].tolist() == ["picto, picto-s"]
    one = kept.iloc[0][["ece", "seconds_per_image"]]  # whatever was tried there
    assert (
        one.tolist() == rows.iloc[0][["plain_ece", "plain_seconds_per_image"]].tolist()
    )
    assert tree.readable(kept)["ms an image"].tolist() == ["10"]


def test_the_first_backbone_that_tells_of_a_leaf_counts(tmp_path):
    decided = a_world(tmp_path)
    other = decided.assign(backbone="c", expect=0.5)
    pool = other[other["have"].eq("a stream of test images")]
    pool = pool.assign(have="unlabelled images like them")
    both = pd.concat([other, pool, decided])
    found = tree.leaves(both, ["b", "c"])
    told = found[found["datasets"].eq("picto-s")].set_index("have")["backbone"]
    assert told.to_dict() == {
        "unlabelled images like them": "c",
        "a stream of test images": "b",
        "the image alone": "b",
    }


def test_the_tree_is_drawn_with_its_intervals_and_read_as_a_table(tmp_path):
    found = tree.leaves(a_world(tmp_path), ["b"])
    fig, _ = drawn.decision_tree(found)
    words, gains, _ = fig.axes
    texts = [text.get_text() for text in words.texts]
    assert {"OnZeta", "vote of views", "keep zero-shot", "Otherwise"} <= set(texts)
    filled = [line for line in gains.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in filled] == pytest.approx(
        (100 * found["expect"].dropna()).tolist()
    )
    assert {line.get_markerfacecolor() for line in filled} == {drawn.BLUE}
    assert "no gain found" in {text.get_text() for text in gains.texts}
    table = tree.readable(found)
    assert table["and"].tolist() == [
        "Do they come one after the other?",
        "Otherwise",
        "",
    ]
    assert table["points gained"].str.startswith("+2").tolist() == [True, True, False]
    assert table["your images"].tolist()[1:] == ["", tree.LAST]
    plt.close(fig)


def test_the_synthesis_says_what_to_do_and_what_it_costs(tmp_path):
    decided = a_world(tmp_path)
    scores = synthesis.load(tmp_path)
    board = synthesis.leaderboard(scores)

    def told(decided):
        leaves = tree.leaves(decided, ["b"])
        found = findings.findings(scores, board, leaves, "picto", ["b"], {})
        return found.set_index("chapter").loc["07", "answer"]

    said = told(decided)
    assert "On sketches (picto-s), with a stream of test images, OnZeta gains " in said
    assert said.count(" over the prompt ensemble") == 1  # of both methods, said once
    kept = "On ordinary pictures (picto), keep zero-shot: no tested method is shown to "
    assert f"{kept}gain." in said
    slow = "The vote of views takes 100 ms for an image, against 10 ms with one prompt"
    rest = "the others named here take less than twice as long as one prompt"
    assert f" {slow}; {rest}. " in said
    assert said.endswith("None is worse calibrated than one prompt by a point or more.")
    harmed = decided.assign(ece=0.5, ece_one=0.1, surer=-0.5)
    calibrated = (
        " calibrated than one prompt by a point or more: OnZeta and the vote of "
    )
    assert f" Worse{calibrated}views on sketches. " in told(harmed)
    assert "Better" not in told(harmed)
    better = told(decided.assign(ece=0.1, ece_one=0.5))
    assert f" Better{calibrated}views on sketches. None is worse " in better
    worst = "The worst calibration is that of OnZeta: confidence {} accuracy, and the "
    worst += "calibration error is 50%, against 10% with one prompt."
    assert worst.format("is below") in told(harmed)
    assert worst.format("exceeds") in told(harmed.assign(surer=0.5))
    none = decided.assign(verdict="no detectable difference")
    assert told(none) == (
        "On ordinary pictures (picto) and sketches (picto-s), keep zero-shot: no "
        "tested method is shown to gain."
    )


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("ZERO", "ZERO gains"),
        ("80 prompts", "80 prompts gain"),
        ("captions", "captions gain"),
        ("random views", "random views gain"),
        ("vote of views", "the vote of views gains"),
        ("prompt chosen on labels", "the prompt chosen on labels gains"),
        ("the style's name in the prompt", "the style's name in the prompt gains"),
        ("AutoCLIP, 80 templates", "AutoCLIP, 80 templates gains"),
    ],
)
def test_the_verb_agrees_with_the_method(method, said):
    assert findings.acting(method, "gain") == said


def test_findings_answer_only_for_chapters_that_were_run(made):
    scores = synthesis.load(made)
    board = synthesis.leaderboard(scores)
    leaves = tree.leaves(findings.decisions(scores, board), ["b"])
    found = findings.findings(scores, board, leaves, "d", ["b"], {})
    assert list(found) == ["chapter", "question", "answer"]
    assert found["chapter"].tolist() == ["01", "02", "07"]
    assert found["question"].str.endswith("?").all()
    assert found["answer"].str.endswith(".").all()


# Published tables


def test_every_row_quotes_what_the_csv_holds():
    known = published.table().set_index(["method", "backbone", "dataset"]).index
    rows = layouts.rows()
    quoted = {(r.published, r.backbone, r.dataset) for r in rows if r.published}
    assert quoted <= set(known)
    tables = {row.table for row in rows}
    assert tables == {
        "methods",
        "augmentations",
        "captions",
        "LaFTer ablation",
        "TPT paper",
    }


def test_ours_is_filled_from_any_study_and_blank_where_nothing_was_run(tmp_path):
    place = {"dataset": "imagenet-a", "backbone": "RN50-quickgelu", "weights": "openai"}
    other = tmp_path / "imagenet_a_rn50"
    ledger(other, "zero_shot_photo", names(0, 20), names(0, 8), **place)
    ledger(other, "caption", names(5, 15), names(0, 8), **place)
    ledger(
        other,
        "vote_reference-augmix",
        names(0, 9),
        names(0, 8),
        **place | {"weights": "random"},
    )
    picto = {"dataset": "picto-a", "backbone": "picto-rn", "weights": "picto"}
    ledger(
        tmp_path / "picto", "vote_reference-augmix", names(0, 4), names(0, 3), **picto
    )
    laid = layouts.laid_out(tmp_path, "picto")
    assert len(laid) == len(layouts.rows())
    rows = laid.set_index(["table", "row", "backbone", "dataset"])
    plain = rows.loc[("captions", "Baseline", "RN50", "ImageNet-A")]
    assert plain["theirs"] == 0.2183
    assert (plain["n"], plain["ours"]) == (10, 0.3)  # of the ten that captions saw
    assert plain["study"] == "imagenet_a_rn50"
    assert rows.loc[("captions", "Our Method", "RN50", "ImageNet-A"), "ours"] == 0.3
    first = rows.loc[("methods", "CLIP-RN50 (zero-shot)", "RN50", "ImageNet-A")]
    assert (first["n"], first["ours"]) == (20, 0.4)
    assert first["their_loss"] == pytest.approx(2.32929)
    vote = rows.loc[("methods", "TPT (handcrafted prompts)", "RN50", "ImageNet-A")]
    assert np.isnan(vote["ours"])  # random weights do not count
    assert (vote["counterpart"], vote["its_top1"]) == ("picto-a, picto-rn", 0.75)
    diffusion = rows.loc[("augmentations", "DiffusionAugment", "RN50", "ImageNet-A")]
    assert np.isnan(diffusion["theirs"])
    rest = laid[laid["table"].isin(["LaFTer ablation", "TPT paper"])]
    assert set(rest.loc[rest["ours"].notna(), "dataset"]) == {"ImageNet-A"}
    assert rest.loc[rest["dataset"] == "CIFAR-10", "counterpart"].eq("").all()
    wide = layouts.wide(laid, "LaFTer ablation")
    assert wide.index.names == ["backbone", "dataset", "whose"]
    assert wide.xs("ours", level="whose").isna().all(axis=None)
    assert wide.loc[("ViT-B/32", "CIFAR-10", "theirs"), "LaFTer"] == 0.958


# Temperatures


def test_a_temperature_is_fitted_on_the_first_data_set_alone(made):
    board = synthesis.leaderboard(synthesis.load(made))
    rows = synthesis.shown(board, ["b"])
    table = synthesis.tempered(made, rows, "d")
    (row,) = table.to_dict("records")  # no other method is on both data sets
    assert (row["dataset"], row["method"]) == ("e", "vote-crops")
    fitted = predictions.read(predictions.ledger_path(made, "d", "b", "vote-crops"))
    t = metrics.fit_temperature(predictions.logits(fitted), fitted["label"])
    tested = predictions.read(predictions.ledger_path(made, "e", "b", "vote-crops"))
    x, labels = predictions.logits(tested), tested["label"]
    assert row["temperature"] == t
    assert row["ece_low"] <= row["ece"] <= row["ece_high"]
    fig, _ = drawn.temperatures(pd.DataFrame([row]))
    lines = [line.get_ydata() for line in fig.axes[0].lines if len(line.get_xdata())]
    assert [100 * row["ece"], 100 * row["ece_t"]] in [list(y) for y in lines]
    plt.close(fig)
    assert row["nll"] == pytest.approx(metrics.negative_log_likelihood(x, labels))
    assert row["nll_t"] == pytest.approx(
        metrics.negative_log_likelihood(x.astype(float) / t, labels)
    )
    assert synthesis.tempered(made, rows[rows["dataset"] == "d"], "d").empty


# Figures


def test_labels_of_the_frontier_keep_their_order_and_distance():
    rng = np.random.default_rng(4)
    wanted = np.sort(rng.random(9) ** 3)
    places = drawn.spread(wanted, 0.1, 0.0, 1.0)
    assert np.diff(places).min() >= 0.1 - 1e-12
    assert places.min() >= 0
    assert places.max() <= 1 + 1e-12
    loose = np.array([0.1, 0.5, 0.9])
    assert drawn.spread(loose, 0.1, 0.0, 1.0).tolist() == pytest.approx(loose.tolist())
    assert drawn.spread(np.array([]), 0.1, 0.0, 1.0).size == 0


def test_gains_are_drawn_in_their_panels(made):
    rows = synthesis.shown(synthesis.leaderboard(synthesis.load(made)), ["b"])
    fig, data = drawn.gains(rows, "gain", synthesis.ONE, "b")
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles[0] == "nothing adapts"
    assert "needs the image alone" in titles
    assert data["name"].tolist() == rows["name"].tolist()
    plt.close(fig)


# The chapter


def test_the_chapter_runs_where_only_the_first_has_been_run(tmp_path):
    """On ledgers alone: it says what is missing, and leaves what other pages show."""
    folder = paths.OUTPUTS / "alone"
    for dataset, right in (("picto", 50), ("picto-s", 30)):
        ids = [f"{dataset}/{number:05d}" for number in range(60)]
        place = {"dataset": dataset, "backbone": "picto-rn", "weights": "picto"}
        ledger(folder, "zero_shot_photo", ids, ids[:right], **place)
        ledger(folder, "ensemble_80", ids, ids[: right + 5], **place)
    (chapter,) = paths.NOTEBOOKS.glob("07_*.ipynb")
    output, choices = tmp_path / "out.ipynb", {"study": "alone", "device": "cpu"}
    papermill.execute_notebook(chapter, output, choices, progress_bar=False)
    said = output.read_text(encoding="utf-8")
    assert all(f"chapter {n} is missing" in said for n in ("02", "03", "04", "05"))
    found = pd.read_csv(folder / "tables" / "07_findings.csv", dtype=str)
    assert found["chapter"].tolist() == ["00", "01", "07"]
    board = pd.read_csv(folder / "tables" / "07_leaderboard.csv")
    assert set(board["n"]) == {60}
    decided = pd.read_csv(folder / "tables" / "07_decisions.csv")
    assert decided["dataset"].tolist() == ["picto", "picto-s"]
    assert (folder / "figures" / "07_frontier.png").stat().st_size > 10_000
