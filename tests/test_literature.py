"""Published gains beside ours: slow literal oracles, a stated rule, planted cases."""

import csv
import math
import re
from collections import defaultdict
from importlib.resources import files
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers.figures import chapter_07 as drawn
from helpers.methods import registry
from helpers.methods.registry import ENSEMBLE, ONE
from helpers.results import compare, literature, metrics, synthesis
from helpers.results.layouts import COUNTERPARTS
from helpers.results.synthesis import Key

RN, VIT = "picto-rn", "picto-vit"


def frame(ids, right, wrong=1) -> pd.DataFrame:
    """Scores of images: those in `right` are right, of the others `wrong` is said."""
    ids = pd.Index(ids, dtype=object, name="image_id")
    hit = np.array([name in right for name in ids])
    said = np.where(hit, 0, wrong)
    columns = {
        "label": 0,
        "prediction": said,
        "hit": hit,
        "confidence": 0.5,
        "nll": 1.0,
    }
    found = pd.DataFrame(columns, index=ids)
    found.attrs["seconds_per_image"] = 0.01
    return found


def names(start: int, stop: int) -> list[str]:
    return [f"i{number:04d}" for number in range(start, stop)]


def world(gains: dict[str, int], dataset="picto-a", backbones=(RN, VIT), n=400):
    """Scores in which a method wins as many of n images as told, or loses them."""
    found = {}
    for backbone in backbones:
        plain = set(names(0, n // 2))
        found[Key(dataset, backbone, "zero_shot_photo")] = frame(names(0, n), plain)
        for method, gain in gains.items():
            right = plain | set(names(n // 2, n // 2 + gain))
            right -= set(names(0, -gain)) if gain < 0 else set()
            found[Key(dataset, backbone, method)] = frame(names(0, n), right)
    return found


# Published gains


def literal_gains() -> dict[tuple, set]:
    """(method, over, dataset, backbone) -> gains, in plain loops over the file."""
    path = files("helpers.results") / "published_results.csv"
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    entries = registry.entries().values()
    keys = {name: entry.key for entry in entries for name in entry.published}
    found = defaultdict(set)
    for over in (ONE, ENSEMBLE):
        for row in rows:
            method = keys.get(row["method"])
            if method is None or method in registry.ledgers(ONE):
                continue
            if method in registry.ledgers(over):
                continue
            place = [row[k].split("(")[0].strip() for k in ("dataset", "backbone")]
            source = re.match(r"[\w-]+( paper)?", row["source"])[0]
            start = []
            for other in rows:
                same = [other[k].split("(")[0].strip() for k in ("dataset", "backbone")]
                if same != place or keys.get(other["method"]) is None:
                    continue
                if re.match(r"[\w-]+( paper)?", other["source"])[0] != source:
                    continue
                if keys[other["method"]] in registry.ledgers(over):
                    start.append(float(other["top1"]))
            if start:
                gain = (float(row["top1"]) - sum(start) / len(start)) / 100
                found[method, over, *place].add(
                    (round(gain, 5), row["top1"].rstrip("0"))
                )
    return found


def test_published_gains_are_those_of_plain_loops():
    table = literature.published_gains()
    found = defaultdict(list)
    for row in table.itertuples():
        found[row.method, row.over, row.dataset, row.backbone].append(row.gain)
    expected = literal_gains()
    assert set(found) == set(expected)
    for place, gains in expected.items():
        assert sorted(found[place]) == pytest.approx(
            sorted(g for g, _ in gains), abs=2e-5
        )


def test_a_gain_stays_within_a_source_and_says_over_what():
    table = literature.published_gains().set_index(["method", "over"])
    tpt = table.loc[("tpt_coop", ONE)].query("dataset == 'ImageNet-A'")
    assert tpt["gain"].isin([0.0849]).any()  # 30.32 - 21.83
    lafter = table.loc[("lafter", ONE)].query("dataset == 'ImageNet-R'")
    assert lafter["gain"].tolist() == pytest.approx([0.726 - 0.658])
    tda = table.loc[("tda", ENSEMBLE)].query("dataset == 'ImageNet-A'")
    assert tda["gain"].isin([0.0705]).any()  # 30.29 - 23.24
    assert ("tda", ONE) not in table.index
    assert not {*registry.ledgers(ONE)} & set(table.index.get_level_values(0))


def test_a_number_that_others_quote_counts_once():
    table = literature.published_gains()
    same = ["method", "over", "dataset", "backbone", "gain", "top1"]
    assert not table.duplicated(same).any()
    quoted = table.query(
        "method == 'tpt' and dataset == 'ImageNet-A' and backbone == 'ViT-B/16'"
    )
    own = quoted[quoted["top1"].eq(0.5477) & np.isclose(quoted["start"], 0.4787)]
    (sources,) = own["sources"]
    assert {"TPT paper", "M2TPT paper"} <= set(sources.split(", "))


@pytest.mark.parametrize(
    ("dataset", "least"),
    [("ImageNet-A", 25), ("ImageNet-R", 15), ("ImageNet-Sketch", 15)],
)
def test_papers_have_numbers_of_many_methods(dataset, least):
    rows = literature.published.lookup(dataset)
    adapted = rows[~rows["method"].str.contains("zero-shot|CLIP|Zero-shot|TTA_DL|view")]
    assert adapted["method"].str.partition(" (")[0].nunique() >= least


# Ours


def test_gain_and_error_are_those_of_resampled_images():
    rng = np.random.default_rng(3)
    ids, scores = names(0, 300), {}
    for backbone, n in ((RN, 300), (VIT, 200)):  # the same pictures, as far as they go
        plain = {name for name in ids[:n] if rng.random() < 0.5}
        better = {name for name in ids[:n] if rng.random() < 0.3} | plain
        scores[Key("picto-a", backbone, "zero_shot_photo")] = frame(ids[:n], plain)
        scores[Key("picto-a", backbone, "tpt")] = frame(ids[:n], better)
    place = scores, "tpt", ONE, "picto-a", (RN, VIT)
    found = literature.measured(*place)
    gains = []
    for backbone in (RN, VIT):
        a, b = (scores[Key("picto-a", backbone, m)] for m in ("tpt", "zero_shot_photo"))
        gain = a["hit"].astype(float) - b["hit"]
        gains.append(gain.reindex(ids).to_numpy())
    means = []
    for _ in range(1500):
        images = rng.integers(len(ids), size=len(ids))
        means.append(np.mean([np.nanmean(gain[images]) for gain in gains]))
    expected = np.mean([np.nanmean(gain) for gain in gains])
    assert found["gain"] == pytest.approx(expected)
    assert found["se"] == pytest.approx(np.std(means), rel=0.1)
    assert (found["n"], found["backbones"]) == (300, "picto-rn, picto-vit")
    assert found["rescued"] - found["broken"] == pytest.approx(found["gain"])


def test_order_of_images_and_ledgers_does_not_matter():
    scores = world({"tpt": 40, "zero": -30, "mta": 5, "ctpt": 12, "vote": 60})
    rng = np.random.default_rng(0)
    keys = list(scores)
    rng.shuffle(keys)
    mixed = {
        key: scores[key].sample(frac=1, random_state=1) for key in map(Key._make, keys)
    }
    one, other = (literature.cells(s) for s in (scores, mixed))
    pd.testing.assert_frame_equal(one, other, check_like=True)
    shuffled = one.sample(frac=1, random_state=2)
    a, b = (literature.ranks(table) for table in (one, shuffled))
    pd.testing.assert_frame_equal(a, b)
    whole = [literature.agreement(t, s) for t, s in ((one, scores), (shuffled, mixed))]
    pd.testing.assert_frame_equal(*whole)


def test_a_row_is_over_the_baseline_that_the_papers_have():
    scores = world({"tda": 10, "tda_80": 30, "ensemble_80": 20}, backbones=(RN,))
    row = literature.cells(scores).set_index("method").loc["tda"]
    assert row["over"] == ENSEMBLE
    assert row["gain"] == pytest.approx(10 / 400)  # of the ensemble's texts


def test_too_few_images_tell_nothing():
    scores = world({"tpt": 1}, n=metrics.FEWEST - 1)
    row = literature.cells(scores).iloc[0]
    assert (row["low"], row["high"], row["p"]) == (-1, 1, 1)
    whole = literature.agreement(literature.cells(scores), scores)
    assert "too few images" in whole.set_index("method").loc["tpt", "verdict"]


def test_a_method_that_changes_nothing_has_no_significance():
    row = literature.cells(world({"tpt": 0})).iloc[0]
    assert (row["gain"], row["se"], row["p"]) == (0, 0, 1)
    assert row["detectable"] > 0


def test_without_ledgers_there_is_nothing_and_nothing_fails():
    cells = literature.cells({})
    assert cells.empty
    assert literature.ranks(cells).empty
    whole = literature.agreement(cells, {})
    assert set(whole["verdict"]) == {"not measured here", "no published gain"}
    assert len(literature.readable(whole)) == len(whole)


def test_a_mean_that_agrees_may_not_agree_on_each_data_set():
    scores = world({"tpt": 120}, "picto-r", n=600) | world({"tpt": 1}, n=600)
    scores |= world({"ctpt": 2}, "picto-s", n=600)
    found = literature.agreement(literature.cells(scores), scores).set_index("method")
    row = found.loc["tpt"]
    assert row["verdict"] == "agrees"
    each = dict(part.split(" on ") for part in row["each"].split("; "))
    assert each["agrees"] == "picto-r"
    assert each["not reproduced"] == "picto-a"
    assert each["not measured here"] == "picto-s"
    assert found.loc["mta", "each"].startswith("not measured here on picto-")


# The rule


def ruled(published=0.04, gain=0.03, decided=True, detectable=0.02) -> str:
    outcome = "gains" if gain > 0 else "loses"
    if not decided:
        outcome = compare.undetected([detectable])
    row = {"published": published, "gain": gain, "detectable": detectable}
    return literature.verdict(row | {"outcome": outcome})


def test_the_verdict_follows_the_stated_rule():
    none = "no detectable difference (a difference of 2.0 points would have been seen)"
    assert ruled() == "agrees"
    assert ruled(published=-0.04, gain=-0.01) == "agrees"
    assert ruled(gain=-0.03) == "opposite"
    assert ruled(published=-0.04) == "opposite"
    assert ruled(decided=False) == f"not reproduced: {none}"
    assert ruled(published=-0.04, decided=False) == f"not reproduced: {none}"
    assert ruled(published=0.02, decided=False) == f"not reproduced: {none}"
    assert ruled(published=0.019, decided=False) == none
    assert ruled(gain=-0.03, decided=False) == f"not reproduced: {none}"
    assert ruled(gain=math.nan) == "not measured here"
    assert ruled(published=math.nan) == "no published gain"
    assert ruled(published=math.nan, gain=math.nan) == "no published gain"
    assert ruled(decided=False, detectable=1.5).endswith("(too few images to see any)")


def test_verdicts_of_ledgers():
    gains = {"tpt": 60, "zero": -60, "ctpt": 0, "tps": 1, "lafter": 30}
    scores = world(gains, n=600)
    table = literature.agreement(literature.cells(scores), scores).set_index("method")
    assert table.loc["tpt", "verdict"] == "agrees"
    assert table.loc["zero", "verdict"] == "opposite"
    assert table.loc["ctpt", "verdict"].startswith("not reproduced: no detectable")
    assert table.loc["mta", "verdict"] == "not measured here"
    assert table.loc["autoclip", "verdict"] == "no published gain"
    assert table.loc["tpt", "datasets"] == "picto-a"
    sources = set(table.loc["lafter", "sources"].split(", "))
    assert sources == {"LaFTer"}
    assert (table.loc["lafter", ["published_low", "published_high"]] == 0.019).all()
    assert sum(literature.counts(table).values()) == len(table)


def test_both_means_are_over_the_data_sets_that_have_both():
    scores = world({"tpt": 60}) | world({"tpt": 20}, dataset="picto-s")
    scores |= world({"tpt": 90}, dataset="picto-o")  # nobody's counterpart
    cells = literature.cells(scores)
    assert set(cells["dataset"]) == {"picto-a", "picto-s"}
    row = literature.agreement(cells, scores).set_index("method").loc["tpt"]
    assert row["gain"] == pytest.approx((60 + 20) / 400 / 2)
    assert row["published"] == pytest.approx(cells["published"].mean())
    errors = cells["se"].to_numpy()
    assert row["se"] == pytest.approx(math.sqrt((errors**2).sum()) / 2)


def test_holm_counts_all_methods():
    gains = {"tpt": 8, "zero": 8, "mta": 8, "tps": 8, "ctpt": 8, "vote": 8}
    table = literature.cells(world(gains, n=400))
    assert (table["p"] < compare.LEVEL).all()
    assert (table["p_holm"] > table["p"]).all()
    assert table["p_holm"].min() == pytest.approx(6 * table["p"].min())


# Reasons

EVIDENCE = dict.fromkeys(
    [*literature.COSTS, "published", "gain", "moved", "rescued", "broken", "start"],
    math.nan,
) | dict.fromkeys(["their_start", "seen", "lead", "named", "common"], math.nan)
NONE = "not reproduced: no detectable difference (at least 1.0 points would be seen)"


def why(method="tpt", verdict=NONE, **evidence) -> str:
    known = {"published": 4.0, "gain": 0.1, "rescued": 3.0, "broken": 2.9, "moved": 9.0}
    return literature.reason(method, verdict, EVIDENCE | known | evidence)


def test_a_reason_is_bound_to_what_the_run_shows():
    assert why(moved=2.5).startswith("The method changes only 2.5% of")
    assert why(moved=4.5).startswith(
        "unexplained: 3.0% of predictions turn right, 2.9%"
    )
    assert why("lafter", "opposite", tokens=36.0).startswith("Fifty tokens")
    assert why("lafter", "opposite", tokens=3.0).startswith("unexplained")
    assert why("lafter", "opposite", tokens=3.0, strong=19.0).startswith(
        "The strong view"
    )
    assert why("upl", "opposite", tokens=36.0).startswith("unexplained")
    assert why("upl", start=19.0, their_start=29.0).startswith("The method learns")
    assert why("upl", start=39.0, their_start=29.0).startswith("unexplained")
    assert why("rlcf_prompt", lead=-1.0).startswith("The model that rewards")
    assert why("tpt", lead=-1.0).startswith("unexplained")
    assert why("dclip", wordings=0.8).startswith("The best of the card's wordings")
    assert why("cupl", "opposite", gain=-8.0, wordings=0.8, worst=45.0).startswith(
        "The method words its prompts in ways that this text tower reads badly"
    )
    assert why("cupl", "opposite", gain=-8.0, wordings=0.8, worst=5.0).startswith(
        "unexp"
    )
    told = why("caption", "opposite", gain=3.0, named=23.0, start=19.0)
    assert told.startswith("Captions name the true class of 23% of the images")
    assert why("caption", "opposite", gain=3.0, named=13.0, start=19.0)[:5] == "unexp"
    assert why("zero", crop=32.0).startswith("A crop of a quarter")
    assert why("zero", crop=3.0).startswith("unexplained")
    assert why("tpt", crop=32.0).startswith("unexplained")  # a vote reads them as well
    assert why("tpt", common=80.0).startswith("80% of what TPT's step does")
    assert why("zero", common=80.0).startswith("unexplained")
    assert why(seen=5.0, moved=1.0).startswith("So few images do not show a gain")


def test_unknown_evidence_explains_nothing_and_agreement_needs_no_reason():
    assert why().startswith("unexplained")
    assert why(moved=math.nan).startswith("unexplained")
    for verdict in ("agrees", "not measured here", "no published gain"):
        assert why(verdict=verdict, moved=0.0) == ""


def test_reasons_are_about_methods_that_exist():
    known = registry.entries()
    for methods, _, sentence in literature.REASONS:
        assert set(methods) <= set(known)
        assert sentence.format(**dict.fromkeys(EVIDENCE, 1.0)).endswith(".")


def test_evidence_comes_from_ledgers_and_tables(tmp_path):
    (tmp_path / "tables").mkdir()
    card = [
        ("accuracy, 0 unknown tokens", "left out: no ViT", "92.0%"),
        ("accuracy, 50 unknown tokens", "left out: no ViT", "56.0%"),
        ("accuracy, whole picture", "90.0%", "92.0%"),
        ("accuracy, strong view", "80.0%", "90.0%"),
        ("accuracy over 20 wordings, highest", "92.5%", "92.5%"),
        ("accuracy over 20 wordings, median", "92.0%", "91.5%"),
        ("accuracy over 20 wordings, lowest", "43.0%", "44.0%"),
        ("logit scale", "30.9", "30.8"),
        ("TPT's step: movement in common", "73.0%", "87.0%"),
    ]
    table = pd.DataFrame(card, columns=["measure", RN, VIT]).assign(
        n="200", published="?"
    )
    table.to_csv(tmp_path / "tables" / "00_behaviour.csv", index=False)
    costs = literature.card(tmp_path)
    assert costs["tokens"] == pytest.approx(36)
    assert costs["strong"] == pytest.approx((10 + 2) / 2)
    assert costs["wordings"] == pytest.approx((0.5 + 1) / 2)
    assert costs["worst"] == pytest.approx((49 + 47.5) / 2)
    assert math.isnan(costs["crop"])
    assert costs["common"] == pytest.approx(80)
    assert literature.card(tmp_path, [VIT])["common"] == pytest.approx(87)
    assert literature.card(tmp_path / "none") == {}

    captions = pd.DataFrame({"dataset": ["picto-a"], "class_right": [0.6]})
    captions.to_csv(tmp_path / "tables" / "03_captions_right.csv", index=False)
    scores = world({"caption": 60, "lafter": -60, "rlcf_prompt": 0, "other_model": 4})
    found = literature.agreement(literature.cells(scores), scores, tmp_path)
    reasons = found.set_index("method")["reason"]
    assert reasons["caption"].startswith("Captions name the true class of 60%")
    assert reasons["lafter"].startswith("Fifty tokens")
    assert "rlcf_prompt" not in set(literature.cells(scores)["method"]) or reasons[
        "rlcf_prompt"
    ].startswith("The method changes only 0.0%")


# Ranks


def literal_tau(a, b) -> float:
    pairs = list(combinations(range(len(a)), 2))
    signs = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in pairs]
    ties = [sum(x[i] != x[j] for i, j in pairs) for x in (a, b)]
    return sum(signs) / math.sqrt(ties[0] * ties[1])


def test_ranks_are_kendalls_tau_of_pairs():
    gains = {"tpt": 40, "zero": 50, "mta": 5, "ctpt": 12, "vote": 60, "tps": 12}
    cells = literature.cells(world(gains))
    (row,) = literature.ranks(cells).to_dict("records")
    expected = literal_tau(cells["gain"].to_numpy(), cells["published"].to_numpy())
    assert row["tau"] == pytest.approx(expected)
    assert row["low"] <= row["tau"] <= row["high"]
    assert (row["dataset"], row["backbones"], row["methods"]) == ("picto-a", "", 6)


def test_resampled_taus_are_those_of_repeated_pairs():
    rng = np.random.default_rng(5)
    pairs = rng.integers(0, 5, size=(6, 2)).astype(float)
    found = synthesis._resampled_taus(pairs, draws=40)
    times = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=40)
    repeated = [np.repeat(pairs, drawn_times, axis=0).T for drawn_times in times]
    known = [(a, b) for a, b in repeated if np.ptp(a) and np.ptp(b)]
    assert found == pytest.approx([literal_tau(a, b) for a, b in known])


def test_ranks_as_in_papers_are_one_and_few_methods_have_none():
    cells = literature.cells(
        world({"tpt": 1, "zero": 1, "mta": 1, "ctpt": 1, "tps": 1})
    )
    same = cells.assign(gain=cells["published"])
    (row,) = literature.ranks(same).to_dict("records")
    assert (row["tau"], row["low"], row["high"]) == pytest.approx((1, 1, 1))
    (few,) = literature.ranks(same[:3]).to_dict("records")
    assert few["methods"] == 3
    assert np.isnan([few["tau"], few["low"], few["high"]]).all()


# Real data


def test_with_openais_weights_the_same_data_set_and_backbone_is_meant():
    scores = world(
        {"tpt": 21}, dataset="imagenet-a", backbones=["RN50-quickgelu"], n=400
    )
    assert literature.cells(scores).empty
    row = literature.cells(scores, "openai").iloc[0]
    gains = literature.published_gains().query(
        f"method == 'tpt' and over == '{ONE}' and dataset == 'ImageNet-A'"
    )
    theirs = gains[gains["backbone"].eq("RN50")]
    assert row["numbers"] == len(theirs)
    assert row["published"] == pytest.approx(theirs["gain"].mean())
    assert row["top1"] == pytest.approx(221 / 400)
    assert row["off"] == pytest.approx(221 / 400 - theirs["top1"].max())
    (found,) = literature.panels(literature.cells(scores, "openai"))
    assert found[0] == ("imagenet-a", "RN50-quickgelu")


def test_an_accuracy_as_published_is_not_off():
    right = set(names(0, 2667))
    scores = {
        Key("imagenet-a", "RN50", "zero_shot_photo"): frame(names(0, 10_000), right),
        Key("imagenet-a", "RN50", "tpt"): frame(names(0, 10_000), right),
    }
    row = literature.cells(scores, "openai").iloc[0]
    assert row["off"] == pytest.approx(0, abs=1e-9)
    assert np.isnan(literature.cells(world({"tpt": 4}), "openai")["off"]).all()


# Figure


def test_every_method_has_its_look_and_every_decided_one_a_label():
    gains = {"tpt": 60, "zero": -60, "ctpt": 0, "mta": 30}
    scores = world(gains, n=600) | world({"tpt": 60}, dataset="picto-s")
    cells = literature.cells(scores)
    fig, data = drawn.literature(cells, literature.ranks(cells))
    (ax,) = fig.axes  # a panel of one method would show no order
    assert ax.get_title(loc="left").startswith(
        "small or off-centre objects for ImageNet-A\nKendall's tau"
    )
    texts = {text.get_text() for text in ax.texts}
    row = cells.query("method == 'tpt' and dataset == 'picto-a'").iloc[0]
    assert f"TPT +10.0 ({100 * row['published']:+.1f})" in texts
    assert len(data) == 4
    assert len(texts) == 3  # none for C-TPT, of which no test finds a difference
    assert not any("C-TPT" in text for text in texts)
    looks = {
        line.get_ydata()[0]: (line.get_marker(), line.get_markerfacecolor())
        for line in ax.lines
        if line.get_marker() in ("o", "X")
    }
    expected = {10.0: ("o", drawn.BLUE), -10.0: ("X", drawn.VERMILION)}
    expected |= {0.0: ("o", "white"), 5.0: ("o", drawn.BLUE)}
    assert {round(y, 6): look for y, look in looks.items()} == expected
    plt.close(fig)


def test_a_panel_without_decided_methods_has_marks_and_no_labels():
    cells = literature.cells(world({"tpt": 1, "mta": -1}, n=600))
    assert not cells["outcome"].isin(["gains", "loses"]).any()
    fig, _ = drawn.literature(cells, literature.ranks(cells))
    (ax,) = fig.axes
    assert not ax.texts
    assert sum(line.get_marker() == "o" for line in ax.lines) == 2
    plt.close(fig)


def test_counterparts_are_the_worlds_data_sets_and_backbones():
    assert literature.stands_for("picto") == "ImageNet-V2 and ImageNet"
    assert literature.stands_for("imagenet-a") == "imagenet-a"
    assert {RN, VIT} < set(COUNTERPARTS.values())
    assert synthesis.ONE == ONE
