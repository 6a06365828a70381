"""The chapters' findings: sentences, and a table of which method to use.

Every sentence is made from paired differences and their intervals, so that it follows
from the study's ledgers alone.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from helpers import notebooks
from helpers.methods import registry
from helpers.methods.registry import CONTROL, ENSEMBLE, ONE
from helpers.results import compare, metrics
from helpers.results.layouts import COUNTERPARTS, difficulty
from helpers.results.synthesis import (
    LEVEL,
    Key,
    Scores,
    baseline,
    difference,
    main_recipe,
    shared,
    widest,
)

HAVE: dict[str, list[str]] = {}
for _need in registry.NEEDS.values():
    HAVE.setdefault(_need.given, []).append(_need.panel)
"""What a user may have, and the panels of methods that it allows."""


def decisions(scores: Scores, board: pd.DataFrame) -> pd.DataFrame:
    """Which method to use: a row per data set, backbone and what the user has.

    The images are cut into two halves by the hash of their ids. The first half chooses:
    candidates are the methods that the user can run and that are surely better than the
    prompt ensemble (one prompt if there is no ensemble), with Holm's correction for all
    of them; the candidate whose gain has the largest lower bound is chosen. The other
    half gives the gain to expect. Without a candidate, the ensemble is chosen if it
    surely beats one prompt, else one prompt.

    Returns:
        Columns: dataset, backbone; visible without labels: sure, the mean confidence of
        one prompt, and agree, the share of images on which one prompt and the ensemble
        predict the same; have; use (a ledger, "ensemble_80", "zero_shot_photo" or
        "nothing more"); over, the baseline; expect, expect_low, expect_high and n of
        the other half; seconds_per_image.
    """
    rows = []
    for (dataset, backbone), part in board.groupby(["dataset", "backbone"], sort=False):
        about = Key(dataset, backbone, "")
        names = registry.ledgers(ONE), registry.ledgers(ENSEMBLE)
        one, many = (widest(scores, about, some) for some in names)
        if one is None:
            continue
        seen = {"dataset": dataset, "backbone": backbone}
        seen |= {"sure": scores[one]["confidence"].mean()}
        if many is not None:
            both = shared(scores[one], scores[many])
            seen["agree"] = (both[0]["prediction"] == both[1]["prediction"]).mean()
        plain = _chosen(scores, [many] if many else [], one)
        for have, panels in HAVE.items():
            known = part[part["panel"].isin(panels)]
            keys = [
                Key(dataset, backbone, *k)
                for k in zip(known["method"], known["seed"], strict=True)
            ]
            beside = {one.method, many and many.method, *registry.ledgers(CONTROL)}
            keys = [k for k in keys if k.method not in beside]
            if not keys and have != "the image alone":
                continue
            found = _chosen(scores, keys, many or one)
            if not found and have == "the image alone":
                cheap = {"use": one.method, "seconds_per_image": _cost(scores, one)}
                found = plain or cheap
            rows.append({**seen, "have": have, **(found or {"use": "nothing more"})})
    columns = ["dataset", "backbone", "sure", "agree", "have", "use", "over", "expect"]
    columns += ["expect_low", "expect_high", "n", "seconds_per_image"]
    return pd.DataFrame(rows, columns=columns)


def readable(decided: pd.DataFrame) -> pd.DataFrame:
    """The table of `decisions` for display: points with intervals, milliseconds."""
    told = [_expected(row) if row["n"] > 0 else "" for _, row in decided.iterrows()]
    table = decided[["dataset", "sure", "agree", "have", "use"]].copy()
    table["expect"] = pd.Series(told, decided.index, dtype=object)
    table["over"] = decided["over"].astype(object).fillna("")
    table["n"] = decided["n"]
    return table.assign(ms=1000 * decided["seconds_per_image"])


def _chosen(scores: Scores, keys: Sequence[Key], over: Key) -> dict | None:
    """The method of `keys` that one half of the images chooses, and its gain on the
    other half."""
    tried = {}
    for key in keys:
        halves = zip(halved(scores[key]), halved(scores[over]), strict=True)
        pairs = [shared(*half) for half in halves]
        if all(len(method) for method, _ in pairs):
            tried[key] = [[frame["hit"] for frame in pair] for pair in pairs]
    p = compare.holm([compare.mcnemar(*chosen_on) for chosen_on, _ in tried.values()])
    sure = [key for key, adjusted in zip(tried, p, strict=True) if adjusted < LEVEL]
    gains = {key: compare.paired_difference(*tried[key][0]) for key in sure}
    gains = {key: gain for key, gain in gains.items() if gain["difference"] > 0}
    if not gains:
        return None
    best = max(gains, key=lambda key: gains[key]["ci_low"])
    method, other = tried[best][1]
    measured = compare.paired_difference(method, other)
    return {
        "use": best.method,
        "over": over.method,
        "expect": measured["difference"],
        "expect_low": measured["ci_low"],
        "expect_high": measured["ci_high"],
        "n": len(method),
        "seconds_per_image": _cost(scores, best),
    }


def _cost(scores: Scores, key: Key) -> float:
    return scores[key].attrs["seconds_per_image"]


def halved(images: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two halves of a ledger's images by the hash of their ids, as for every ledger."""
    first = np.array([zlib.crc32(i.encode()) % 2 == 0 for i in images.index], bool)
    return images[first], images[~first]


def pooled(
    scores: Scores, backbone: str, method: str, others: Sequence[str]
) -> pd.DataFrame:
    """A method against a baseline on every data set, and on all images together.

    `others` are names of one baseline, see `baseline`. Returns rows of `difference`
    with the columns dataset and p_holm (over the data sets); the last row, "all", is
    about the images of all data sets. Empty if no two ledgers share images.
    """
    rows, correct = [], []
    for key in scores:
        if (key.backbone, key.method) != (backbone, method):
            continue
        if key.seed != min(k.seed for k in scores if k[:3] == key[:3]):
            continue
        other = baseline(scores, key, others)
        if other is not None:
            rows.append({"dataset": key.dataset, **difference(scores[key], other)})
            correct.append([f["hit"] for f in shared(scores[key], other)])
    table = pd.DataFrame(rows)
    if rows:
        table["p_holm"] = compare.holm(table["p"])
        a, b = (np.concatenate(column) for column in zip(*correct, strict=True))
        whole = {"dataset": "all", "n": len(a), **compare.paired_difference(a, b)}
        table = pd.concat([table, pd.DataFrame([whole])], ignore_index=True)
    return table


def points(row: Mapping[str, float] | pd.Series, about: str = "") -> str:
    """ "+8.1 points [+6.0, +10.2]" from difference, ci_low and ci_high."""
    middle, low, high = (100 * row[k] for k in ("difference", "ci_low", "ci_high"))
    return f"{middle:+.1f}{about} [{low:+.1f}, {high:+.1f}]"


def verdict(low: float, high: float) -> str:
    """The verb for a gain with this interval."""
    return "gains" if low > 0 else "loses" if high < 0 else "changes nothing for sure"


def sentence(subject: str, against: str, table: pd.DataFrame) -> str:
    """The result of `pooled` as a sentence, with the data sets that stand out."""
    whole, each = table.iloc[-1], table.iloc[:-1]
    does = verdict(whole["ci_low"], whole["ci_high"])
    sets = f"{len(each)} data sets" if len(each) > 1 else each["dataset"].iloc[0]
    text = f"{subject} {does} against {against}: {points(whole, ' points')}"
    text += f" over {whole['n']:,} images of {sets}"
    if len(each) > 1:
        sure = each[each["p_holm"] < LEVEL].sort_values("difference", ascending=False)
        for word, some in (
            ("better", sure[sure["difference"] > 0]),
            ("worse", sure[sure["difference"] < 0].iloc[::-1]),
        ):
            told = [f"{row['dataset']} {points(row)}" for _, row in some.iterrows()]
            if told:
                rest = len(told) - 2
                more = f" and {rest} other{'s' * (rest > 1)}" if rest > 0 else ""
                text += f"; surely {word} on {', '.join(told[:2])}{more}"
    return text


def findings(
    scores: Scores, decided: pd.DataFrame, first: str, backbones: Sequence[str]
) -> pd.DataFrame:
    """The computed answer to the question of every chapter with ledgers.

    Args:
        decided: the table of `decisions`.
        first: the data set in question, of which the others are shifts.
        backbones: a claim is about the first one that has its ledgers.

    Returns:
        chapter, question, answer.
    """
    answers = {"00": _world(scores, backbones[0])}
    chapters = {chapter.number: chapter for chapter in notebooks.chapters()}
    for chapter in chapters.values():
        told = [claimed(scores, backbones, **claim) for claim in chapter.claims]
        answers.setdefault(chapter.number, ". ".join(filter(None, told)))
    if answers["01"]:
        answers["01"] = f"{_levels(scores, first, backbones[0])}. {answers['01']}"
    answers["07"] = _verdicts(decided, backbones[0])
    answers = {c: answer for c, answer in sorted(answers.items()) if answer}
    rows = [(c, chapters[c].question, f"{text}.") for c, text in answers.items()]
    return pd.DataFrame(rows, columns=["chapter", "question", "answer"])


def claimed(
    scores: Scores,
    backbones: Sequence[str],
    subject: str,
    method: str,
    over: str,
    against: Sequence[str],
) -> str:
    """A chapter's claim as a sentence: a method against its baseline.

    Args:
        subject, over: names of the method and of the baseline in the sentence.
        method, against: their ledgers; "{}" stands for the main recipe of views. The
            first existing one of `against` counts; if empty, the baseline is `over`.

    Returns:
        The sentence, "" if no backbone has ledgers of both.
    """
    recipe = main_recipe(scores)
    others = against or registry.ledgers(over)
    names = method.format(recipe), [name.format(recipe) for name in others]
    for backbone in backbones:
        table = pooled(scores, backbone, *names)
        if len(table):
            return f"{sentence(subject, over, table)} ({backbone})"
    return ""


def _correct(scores: Scores, backbone: str) -> pd.Series:
    """For each data set, the hits of one prompt's largest ledger."""
    found = {}
    for dataset in dict.fromkeys(key.dataset for key in scores):
        key = widest(scores, Key(dataset, backbone, ""), registry.ledgers(ONE))
        if key:
            found[dataset] = scores[key]["hit"]
    return pd.Series(found, dtype=object)


def _accuracy(correct: pd.Series) -> str:
    low, high = metrics.bootstrap_interval(correct)
    return f"{correct.mean():.1%} [{low:.1%}, {high:.1%}]"


def _levels(scores: Scores, first: str, backbone: str) -> str:
    correct = _correct(scores, backbone)
    worst = correct.map(np.mean).astype(float).idxmin()
    text = f"One prompt is right on {_accuracy(correct[first])} of {first}"
    return text if worst == first else f"{text}, {_accuracy(correct[worst])} of {worst}"


def _world(scores: Scores, backbone: str) -> str:
    """The range of accuracies on the embedded world's shifts, "" without them."""
    correct = _correct(scores, backbone)
    if len(set(correct.index) & set(COUNTERPARTS.values())) < 2:
        return ""
    correct = correct.iloc[correct.map(np.mean).astype(float).argsort()[::-1]]
    best, worst = correct.iloc[0], correct.iloc[-1]
    text = f"From {correct.index[0]}, of which one prompt is right on "
    text += f"{_accuracy(best)}, to {correct.index[-1]}, {_accuracy(worst)}"
    ranks = difficulty(correct.map(np.mean).astype(float))
    if not np.isnan(ranks["tau"]):
        text += "; its counterparts of ImageNet's variants rank as these do for RN50 "
        text += f"with Kendall's tau {ranks['tau']:+.2f}, {ranks['methods']} sets"
    return text


def _verdicts(decided: pd.DataFrame, backbone: str) -> str:
    """The result for each data set if the user has the image alone."""
    rows = decided[decided["have"].eq("the image alone")]
    rows = rows[rows["backbone"].eq(backbone)]
    if rows.empty:
        return ""
    sure = rows["over"].eq("ensemble_80") & rows["expect_low"].gt(0)
    better = [
        f"{registry.find(use).family} ({use}) on {row['dataset']} {_expected(row)}"
        for use, (_, row) in zip(rows[sure]["use"], rows[sure].iterrows(), strict=True)
    ]
    rest = ", ".join(rows[~sure]["dataset"])
    how = "chosen on one half of the images and measured on the other"
    if not better:
        return f"No method that sees the image alone, {how}, surely beats {ENSEMBLE}"
    text = f"Of methods that see the image alone, {how}, {ENSEMBLE} is surely beaten "
    text += f"by {'; '.join(better)}"
    return f"{text}; on {rest} by none" if rest else text


def _expected(row: pd.Series) -> str:
    names = {"expect": "difference", "expect_low": "ci_low", "expect_high": "ci_high"}
    return points(row.rename(names), " points")
