"""The protocol: one test, one verdict, macro averages; against slow oracles."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from test_synthesis import ledger, names

from helpers import notebooks
from helpers.figures import chapter_07
from helpers.methods import registry
from helpers.results import compare, findings, protocol, synthesis, tree
from helpers.results.compare import corrected


def paired(wins: int, losses: int, n: int) -> dict[str, float]:
    """A row of `compare.paired_difference` with these counts."""
    a, b = np.zeros(n, bool), np.zeros(n, bool)
    a[:wins] = b[wins : wins + losses] = True
    return compare.paired_difference(a, b, resamples=200)


# The verdict


def test_the_correction_is_holms_and_the_verdict_follows_it():
    """Ten tests, one of them untested, against statsmodels and by hand."""
    counts = [(30, 2), (2, 30), (20, 8), (8, 20), (9, 0), (10, 10), (0, 0)]
    counts += [(1, 0), (40, 39), (9, 0)]  # ties
    table = pd.DataFrame([paired(*c, 200) for c in counts])
    table.loc[3, "p"] = np.nan
    found = corrected(table)
    known = table["p"].notna()
    expected = multipletests(table.loc[known, "p"], method="holm")[1]
    assert found.loc[known, "p_holm"].tolist() == pytest.approx(list(expected))
    p = sorted(table.loc[known, "p"])
    by_hand = [min(1.0, max((9 - i) * p[i] for i in range(j + 1))) for j in range(9)]
    assert sorted(expected) == pytest.approx(by_hand)
    assert (found["verdict"] == "gains").tolist() == [
        bool(v < 0.05) and w > lost
        for v, (w, lost) in zip(found["p_holm"], counts, strict=True)
    ]
    assert found["verdict"][1] == "loses"
    assert (found["verdict"][3], found["verdict"][6][:13]) == ("", "no detectable")
    assert np.isnan(found["p_holm"][3])
    assert np.isnan(found["detectable"][3])
    # Raw p of 20 : 8 is below 5 %; the corrected one is not.
    assert table["p"][2] < 0.05 < found["p_holm"][2]
    assert found["verdict"][2].startswith("no detectable difference (a difference of ")


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    rows = [paired(*rng.integers(0, 30, 2), 100) for _ in range(12)]
    table = corrected(pd.DataFrame(rows))
    mixed = corrected(pd.DataFrame(rows).sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(mixed.sort_index(), table)


def test_a_larger_family_is_harder_to_please():
    one = paired(12, 2, 100)
    assert corrected(pd.DataFrame([one]))["verdict"].tolist() == ["gains"]
    many = corrected(pd.DataFrame([one, *[paired(5, 5, 100)] * 19]))
    assert many["verdict"][0].startswith("no detectable")
    assert many["detectable"][0] > corrected(pd.DataFrame([one]))["detectable"][0]


def test_a_table_without_tests_has_no_verdict():
    table = pd.DataFrame([paired(9, 0, 50)]).assign(p=np.nan)
    assert corrected(table)["verdict"].tolist() == [""]
    empty = corrected(table.iloc[:0])
    assert list(empty.columns[-3:]) == ["p_holm", "detectable", "verdict"]


@pytest.mark.parametrize("level", [0.05, 0.0005])
def test_a_detectable_difference_is_found_four_times_in_five(level):
    n, rate = 1500, 0.12
    true = compare.detectable(math.sqrt(rate / n), n, level)
    shares = [(rate + true) / 2, (rate - true) / 2, 1 - rate]
    draws = np.random.default_rng(0).multinomial(n, shares, size=1000)
    found = np.mean([binomtest(w, w + lost).pvalue < level for w, lost, _ in draws])
    assert 0.76 < found < 0.9


@pytest.mark.parametrize("level", [0.05, 0.01, 0.0002])
def test_no_fewer_wins_are_detectable_than_the_exact_test_needs(level):
    enough = next(k for k in range(1, 99) if binomtest(k, k).pvalue < level)
    assert compare.detectable(0.0, 1000, level) == enough / 1000
    row = corrected(pd.DataFrame([paired(0, 0, 3)])).iloc[0]
    assert row["verdict"] == "no detectable difference (too few images to see any)"


def test_several_undecided_rows_are_told_by_their_ends():
    told = compare.undetected([0.02, 0.01, 0.025])
    assert "(differences of 1.0 to 2.5 points would" in told
    assert "(a difference of 1.0 points would" in compare.undetected([0.01, 0.01])


# The macro average


def literal(values, resamples, seed):
    """Resampled macro averages, by nested loops over everything drawn."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        checkpoints = rng.integers(len(values[0]), size=len(values[0]))
        means = []
        for dataset in rng.integers(len(values), size=len(values)):
            v = values[dataset]
            seeds = rng.integers(v.shape[1], size=v.shape[1])
            images = rng.integers(v.shape[2], size=v.shape[2])
            of_each = []  # checkpoint drawn, which counts once whatever it lacks
            for k in checkpoints:
                drawn = [v[k, s, i] for s in seeds for i in images]
                drawn = [value for value in drawn if not np.isnan(value)]
                of_each += [sum(drawn) / len(drawn)] if drawn else []
            if of_each:
                means.append(sum(of_each) / len(of_each))
        if means:
            found.append(sum(means) / len(means))
    return found


def gains(rng, shape, mean, missing=0.0):
    """Values -1, 0, 1 of a data set [K, S, N], each checkpoint and seed with its own
    mean."""
    k, s, n = shape
    centre = mean + 0.1 * rng.normal(size=(k, 1, 1)) + 0.05 * rng.normal(size=(1, s, 1))
    values = np.clip(np.round(centre + 0.5 * rng.normal(size=(k, s, n))), -1, 1)
    values[rng.random(values.shape) < missing] = np.nan
    return values


@pytest.mark.parametrize(
    ("shapes", "missing"),
    [
        ([(2, 3, 12), (2, 1, 8), (2, 2, 5)], 0.0),
        ([(3, 2, 10), (3, 2, 6)], 0.3),
        ([(1, 1, 20)], 0.0),  # one data set, checkpoint and seed: images alone
        ([(1, 4, 6)], 0.0),
        ([(1, 1, 3), (1, 1, 9)], 0.0),
    ],
)
def test_the_hierarchical_bootstrap_is_nested_loops(shapes, missing):
    rng = np.random.default_rng(2)
    means = rng.normal(0.1, 0.3, len(shapes))
    values = [gains(rng, s, m, missing) for s, m in zip(shapes, means, strict=True)]
    found = protocol.macro(values, resamples=20_000)
    slow = literal(values, 3000, 5)
    run = [[x for x in v if not np.isnan(x).all()] for v in values]
    expected = np.mean([np.mean([np.nanmean(x) for x in v]) for v in run])
    assert found["difference"] == pytest.approx(expected)
    width = np.std(slow)
    low, high = np.quantile(slow, [0.025, 0.975])
    assert found["ci_low"] == pytest.approx(low, abs=0.25 * width)
    assert found["ci_high"] == pytest.approx(high, abs=0.25 * width)
    assert protocol.macro(values) == protocol.macro(values)


def test_a_checkpoint_counts_once_however_many_seeds_it_has():
    values = np.full((2, 3, 40), np.nan)
    values[0], values[1, 0] = 1.0, 0.0
    found = protocol.macro([values])
    assert found["difference"] == pytest.approx(0.5)
    assert (found["ci_low"], found["ci_high"]) == (0.0, 1.0)


def test_of_many_data_sets_the_interval_is_the_normal_one():
    """With many images and normal means of data sets, se is their sd / sqrt(D)."""
    rng = np.random.default_rng(3)
    means = rng.normal(0.0, 0.2, 40)
    values = [np.full((1, 1, 50), m) for m in means]
    found = protocol.macro(values, resamples=4000)
    half = 1.96 * means.std() / math.sqrt(len(means))
    assert found["ci_high"] - found["ci_low"] == pytest.approx(2 * half, rel=0.06)


def test_of_one_data_set_images_make_the_interval():
    rng = np.random.default_rng(4)
    values = rng.choice([-1.0, 0.0, 1.0], size=(1, 1, 900), p=[0.1, 0.7, 0.2])
    found = protocol.macro([values], resamples=4000)
    half = 1.96 * values.std() / 30
    assert found["ci_high"] - found["ci_low"] == pytest.approx(2 * half, rel=0.06)
    pair = compare.paired_difference(values[0, 0] > 0, values[0, 0] < 0)
    ends = pair["ci_low"], pair["ci_high"]
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(ends, abs=0.004)


def test_checkpoints_that_differ_widen_the_interval_as_their_number_says():
    """All images of a checkpoint alike: se is the checkpoints' sd / sqrt(K)."""
    values = np.zeros((4, 1, 200))
    values[:2] = 1.0
    found = [protocol.macro([values] * d, resamples=4000) for d in (1, 9)]
    for each in found:  # the same checkpoints see all data sets: no 9 fresh draws
        assert (each["ci_low"], each["ci_high"]) == (0.0, 1.0)


def test_two_images_or_an_empty_data_set_tell_no_average():
    found = protocol.macro([np.ones((1, 1, 50)), np.ones((1, 1, 2))])
    assert (found["ci_low"], found["ci_high"], found["n"]) == (-1, 1, 2)
    for wrong in ([], [np.full((1, 1, 4), np.nan)]):
        with pytest.raises(ValueError, match="needs data sets"):
            protocol.macro(wrong)


def test_a_number_tells_a_checkpoint_only_beside_its_architecture():
    found = protocol.architectures(["picto-rn-2", "picto-rn", "ViT-B-16", "ViT-B-32"])
    assert found == {
        "picto-rn": ["picto-rn-2", "picto-rn"],
        "ViT-B-16": ["ViT-B-16"],
        "ViT-B-32": ["ViT-B-32"],
    }


def test_trainings_of_one_architecture_are_held_against_each_other(tmp_path):
    ids, wins = names(0, 40), {"b": 30, "b-2": 0, "other": 30}
    for backbone, right in wins.items():
        ledger(tmp_path, "zero_shot_photo", ids, names(0, 5), backbone=backbone)
        ledger(tmp_path, "vote-crops", ids, names(0, 5 + right), backbone=backbone)
        ledger(tmp_path, "vote_reference-crops", ids, ids, backbone=backbone)
    board = synthesis.leaderboard(synthesis.load(tmp_path))
    found = protocol.trainings(board)
    chapter_07.trainings(found)
    (row,) = found.to_dict("records")
    assert (row["backbone"], row["other"], row["method"]) == ("b", "b-2", "vote-crops")
    assert (row["gain"], row["gain_other"]) == (0.75, 0)
    assert row["gain_verdict"] == "gains" != row["gain_verdict_other"]
    assert protocol.trainings(board[board["backbone"] != "b-2"]).empty


@pytest.mark.parametrize(
    ("one", "other", "shade", "face"),
    [
        ("gains", "gains", "BLUE", "BLUE"),
        ("gains", "loses", "VERMILION", "VERMILION"),
        ("gains", "no detectable difference", "OTHERS", "white"),
    ],
)
def test_the_figure_of_trainings_is_filled_where_both_are_decided(
    one, other, shade, face
):
    row = {"backbone": "b", "other": "b-2", "dataset": "d", "name": "vote of views"}
    for end, verdict in {"": one, "_other": other}.items():
        row |= {f"gain{end}": 0.1, f"gain_low{end}": 0.05, f"gain_high{end}": 0.2}
        row |= {f"gain_verdict{end}": verdict}
    fig, _ = chapter_07.trainings(pd.DataFrame([row]))
    (mark,) = (m for m in fig.axes[0].get_lines() if m.get_marker() in ("o", "X"))
    colours = {"white": "white"} | vars(chapter_07)
    assert mark.get_markeredgecolor() == colours[shade]
    assert mark.get_markerfacecolor() == colours[face]
    assert mark.get_marker() == ("X" if other == "loses" else "o")


def test_values_are_laid_out_by_checkpoint_and_seed(tmp_path):
    ids = names(0, 10)
    for backbone in ("b", "b-2"):
        ledger(tmp_path, "zero_shot_photo", ids, names(0, 4), backbone=backbone)
    ledger(tmp_path, "vote-crops", ids, names(0, 5), seed=0)
    ledger(tmp_path, "vote-crops", ids[::-1], names(1, 4), seed=3)
    ledger(tmp_path, "vote-crops", ids[2:6], names(0, 9), backbone="b-2", seed=3)
    scores = synthesis.load(tmp_path)
    one = registry.ledgers(registry.ONE)
    (found,) = protocol.gained(scores, ["b", "b-2"], "vote-crops", one).values()
    expected = np.full((2, 2, 10), np.nan)
    expected[0] = 0
    expected[0, 0, 4] = 1
    expected[0, 1, 0] = -1
    expected[1, 1, 2:6] = [0, 0, 1, 1]
    assert np.array_equal(found, expected, equal_nan=True)


# The board and the sentences


@pytest.fixture
def opposed(tmp_path):
    """A vote that wins on one large data set and loses on two small ones."""
    for dataset, n, right in (("d", 900, 700), ("e", 90, 20), ("f", 90, 20)):
        ids = names(0, n)
        ledger(tmp_path, "zero_shot_photo", ids, names(0, n // 2), dataset=dataset)
        ledger(tmp_path, "vote-crops", ids, names(0, right), dataset=dataset)
        for tuned in ("tpt-crops", "tpt_revote-crops"):
            ledger(tmp_path, tuned, ids, names(0, right), dataset=dataset)
        ledger(tmp_path, "vote_reference-crops", ids, names(0, n), dataset=dataset)
    return tmp_path


def test_findings_tell_the_macro_average_and_never_the_pooled_one(opposed):
    """On this case the two have opposite signs."""
    scores = synthesis.load(opposed)
    board = synthesis.leaderboard(scores)
    pairs = findings.by_dataset(
        scores, "b", "vote-crops", registry.ledgers(registry.ONE)
    )
    pooled = (pairs["difference"] * pairs["n"]).sum() / pairs["n"].sum()
    macro = pairs["difference"].mean()
    assert pooled > 0.1
    assert macro < -0.05
    leaves = tree.leaves(findings.decisions(scores, board), ["b"])
    told = findings.findings(scores, board, leaves, "d", ["b"], {})
    answer = told.set_index("chapter").loc["02", "answer"]
    mean = "Mean over 3 data sets: "
    assert f"{mean}{100 * macro:+.1f} points [" in answer
    assert "] (90 or more images each). TPT gains 27.8 points [" in answer
    assert f"{100 * pooled:+.1f}" not in answer
    assert re.search(r"gains 27\.8 points \[[\d., ]+\] on d over one prompt, ", answer)
    assert re.search(r", and loses 27\.8 points \[[\d., ]+\] on e and ", answer)
    row = protocol.summary(scores, board).set_index(["outcome", "method"])
    row = row.loc[(registry.ONE, "vote-crops")]
    assert row["difference"] == pytest.approx(macro)
    assert row[["gains", "loses", "undecided"]].tolist() == [1, 2, 0]


def test_every_verdict_in_a_sentence_is_the_corrected_tests(opposed):
    """The words of each claim, recomputed from p values of one family by statsmodels.

    The vote on g: 12 wins and 3 losses, p = 0.035, which the correction for the family
    raises above 5 %.
    """
    ids = names(0, 100)
    ledger(opposed, "zero_shot_photo", ids, names(0, 30), dataset="g")
    ledger(opposed, "vote-crops", ids, names(3, 42), dataset="g")
    for number, method in enumerate(("zero-crops", "mta-crops", "tps-crops")):
        ledger(opposed, method, ids, names(number, 30), dataset="g")
    scores = synthesis.load(opposed)
    board = synthesis.leaderboard(scores)
    rows = board[board["headline"] & board["gain"].notna()]
    assert "vote_reference-crops" not in set(rows["method"])
    p = [
        binomtest(int(w), int(w + lost)).pvalue if w + lost else 1.0
        for w, lost in rows[["wins", "losses"]].to_numpy()
    ]
    assert min(p[i] for i in range(len(p)) if rows["dataset"].iloc[i] == "g") < 0.05
    adjusted = multipletests(p, method="holm")[1]
    assert rows["gain_p_holm"].tolist() == pytest.approx(list(adjusted))
    expected = np.select(
        [adjusted >= 0.05, rows["gain"] > 0],
        ["no detectable difference", "gains"],
        "loses",
    )
    assert rows["gain_verdict"].str.partition(" (")[0].tolist() == list(expected)
    claims = findings.claims(scores, board, ["b"])
    vote = claims[claims["subject"] == "A vote of confident views"]
    assert not vote["exploratory"].any()
    known = rows[rows["method"] == "vote-crops"].set_index("dataset")["gain_verdict"]
    assert vote.set_index("dataset")["verdict"].to_dict() == known.to_dict()
    text = findings.sentence(vote, protocol.macro([np.zeros((1, 1, 9))]))
    told = text.removeprefix("A vote of confident views ").split(", and ")
    clauses = {clause.partition(" ")[0]: clause for clause in told}
    for dataset, verdict in known.items():
        named = {word for word in clauses if re.search(rf" {dataset}\b", clauses[word])}
        word = verdict.partition(" ")[0].replace("no", "shows")
        assert named == {word} or (word == "shows" and not named)
    assert "elsewhere" in clauses["shows"]
    assert "no detectable difference" in text
    tuning = claims[claims["over"] == "the vote of the same views"]
    assert tuning["exploratory"].all()
    assert set(tuning["verdict"].str.partition(" (")[0]) == {"no detectable difference"}


def test_other_rows_than_the_protocols_have_no_verdict(opposed):
    ids = names(0, 900)
    ledger(opposed, "vote-crops", ids, names(0, 900), seed=4)
    board = synthesis.leaderboard(synthesis.load(opposed))
    seeds = board[board["method"].eq("vote-crops") & board["dataset"].eq("d")]
    assert seeds.set_index("seed")["headline"].to_dict() == {0: True, 4: False}
    rest = board[~board["headline"]]
    assert {"vote_reference-crops", "tpt_revote-crops"} <= set(rest["method"])
    assert rest["gain_verdict"].eq("").all()
    assert rest[["gain_p_holm", "gain_detectable"]].isna().all(axis=None)
    assert board["over_verdict"].eq("").all()  # no ensemble was run


def test_about_twenty_headline_methods_with_one_variant_each():
    entries = [entry for entry in registry.entries().values() if entry.headline]
    assert 18 <= len(entries) <= 24
    for entry in entries:
        assert entry.speaker, entry.key
        assert entry.chapter, entry.key
    assert len({entry.speaker for entry in entries}) == len(entries)


def test_no_chapter_decides_by_itself():
    """Cells and modules ask `verdict`, and nobody is sure."""
    forbidden = ('p_holm"] <', 'ci_low"] > 0', "low > 0", "may be nothing", "surely")
    root = notebooks.paths.ROOT
    places = [*notebooks.paths.NOTEBOOKS.glob("*.ipynb")]
    places += [*(root / "src" / "helpers" / "figures").glob("*.py")]
    places += [*(root / "src" / "helpers" / "results").glob("*.py")]
    for path in places:
        text = path.read_text(encoding="utf-8").replace('\\"', '"')
        found = [word for word in forbidden if word in text]
        assert not found or path.name == "compare.py", (path.name, found)
