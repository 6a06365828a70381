"""What the chapters found, in sentences and in a table of decisions.

Every sentence is put together from paired differences and their intervals, so that it
says what a study's ledgers say, whatever that is.
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
"""What one may have, and the panels of methods that it allows."""


def decisions(scores: Scores, board: pd.DataFrame) -> pd.DataFrame:
    """What to use where: a row per data set, backbone and thing that one may have.

    The rule: images are cut in two by the hash of their ids. On one half, of the
    methods that what one has allows, those surely better than the prompt ensemble (than
    one prompt, where there is no ensemble) are in the running, Holm's correction
    counting all of them; the one whose gain has the greatest lower bound is chosen. Its
    gain on the *other* half, which had no say, is what to expect. Where none is in the
    running, the ensemble is chosen if it surely beats one prompt, else one prompt.

    Returns:
        dataset, backbone; what can be seen without labels: `sure`, the mean confidence
        of one prompt, and `agree`, the share of images on which one prompt and the
        ensemble predict the same; have, use (a ledger, "ensemble_80", "zero_shot_photo"
        or "nothing more"), over (against what), expect, expect_low, expect_high, n (of
        the other half), seconds_per_image.
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
    """The table of `decisions` to be read: points with their interval, milliseconds."""
    told = [_expected(row) if row["n"] > 0 else "" for _, row in decided.iterrows()]
    table = decided[["dataset", "sure", "agree", "have", "use"]].copy()
    table["expect"] = pd.Series(told, decided.index, dtype=object)
    table["over"] = decided["over"].astype(object).fillna("")
    table["n"] = decided["n"]
    return table.assign(ms=1000 * decided["seconds_per_image"])


def _chosen(scores: Scores, keys: Sequence[Key], over: Key) -> dict | None:
    """Chosen from `keys` on one half of the images, measured on the other."""
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
    """Two halves of a ledger by the hash of the ids, the same for every ledger."""
    first = np.array([zlib.crc32(i.encode()) % 2 == 0 for i in images.index], bool)
    return images[first], images[~first]


def pooled(
    scores: Scores, backbone: str, method: str, others: Sequence[str]
) -> pd.DataFrame:
    """A method against another on every data set, and on all images together.

    `others` are names of one and the same baseline, see `baseline`. Returns rows of
    `difference` with the columns dataset and p_holm (of the data sets), the last row
    "all" over the images of all data sets; empty where no two ledgers meet.
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
    """What an interval of a gain says."""
    return "gains" if low > 0 else "loses" if high < 0 else "changes nothing for sure"


def sentence(subject: str, against: str, table: pd.DataFrame) -> str:
    """What `pooled` found, with its interval and the data sets that stand out."""
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
    """A computed answer to the question of every chapter that has left ledgers.

    Args:
        decided: the table of `decisions`.
        first: the data set in question, of which the others are shifts.
        backbones: a claim is about the first of them that has ledgers of it.

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
    """A chapter's claim, in words: a method against what it has to beat.

    Args:
        subject, over: what both are called in the sentence.
        method, against: ledgers, "{}" in them being the main recipe of views; the first
            of `against` that is there counts, and none means the baseline `over`.

    Returns:
        "" where no backbone has ledgers of both.
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
    """By data set, which images one prompt has right, of its largest ledger."""
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
    """How far the embedded world's shifts go; nothing where there is none of them."""
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
    """What the image alone allows, data set by data set."""
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
