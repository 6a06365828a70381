"""The chapters' findings: sentences, and a table of which method to use.

Every sentence is put together from a macro average with its interval and from verdicts
of `compare.corrected`, so that it says what a study's ledgers say, whatever that is.
"""

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import notebooks
from helpers.methods import registry
from helpers.methods.registry import ENSEMBLE, ONE
from helpers.paths import number_of
from helpers.results import compare, metrics, protocol, tree
from helpers.results.layouts import COUNTERPARTS
from helpers.results.names import kind, named
from helpers.results.synthesis import (
    OUTCOME,
    Key,
    Scores,
    baseline,
    calibration,
    difference,
    main_recipe,
    priced,
    seeds,
    shared,
    widest,
)

GIVEN = {need.panel: need.given for need in registry.NEEDS.values()}
"""What a user must have for the methods of a panel."""
AT_ONCE = "all test images at once"
"""What one must have, instead of a stream, for the family of this name."""

AGAINST = {"gains": "over", "loses": "against"}
_ARTICLE = {"mean", "name", "prompt", "text", "vote"}
_PLURAL = {"captions", "models", "priors", "prompts", "templates", "texts", "views"}


def decisions(scores: Scores, board: pd.DataFrame) -> pd.DataFrame:
    """Which method to use: a row per data set, backbone and what the user has.

    The rule: images are cut in two by the hash of their ids. On one half, of the
    headline methods (and your own) that what one has allows, those that gain over the
    prompt ensemble (over one prompt, where there is no ensemble) are in the running;
    the one whose gain has the greatest lower bound is chosen. Its gain on the *other*
    half, which had no say, is what to expect. Where none is in the running, the
    ensemble is chosen if it gains over one prompt, else one prompt.

    Returns:
        dataset, backbone; what can be seen without labels: `sure`, the mean confidence
        of one prompt, and `agree`, the share of images on which one prompt and the
        ensemble predict the same; plain_ece, plain_surer and plain_seconds_per_image of
        one prompt on all images; have, use (a ledger or "nothing more"), over (against
        what), seconds_per_image of `synthesis.priced`; on the other half expect,
        expect_low, expect_high, n, broken (share that the method gets wrong and the
        baseline right), ece, ece_one (of one prompt), surer (mean confidence less
        accuracy) and verdict (of `compare.corrected`, all rows being the family). Of
        one prompt only ece, surer and seconds.
    """
    rows = []
    prices = {name: priced(board, name) for name in board["backbone"].unique()}
    for (dataset, backbone), part in board.groupby(["dataset", "backbone"], sort=False):
        about = Key(dataset, backbone, "")
        baselines = registry.ledgers(ONE), registry.ledgers(ENSEMBLE)
        one, many = (widest(scores, about, names) for names in baselines)
        if one is None:
            continue
        seen = {"dataset": dataset, "backbone": backbone}
        seen |= {"sure": scores[one]["confidence"].mean()}
        seen |= {f"plain_{k}": v for k, v in _calibrated(scores[one]).items()}
        if many is not None:
            both = shared(scores[one], scores[many])
            seen["agree"] = (both[0]["prediction"] == both[1]["prediction"]).mean()
        plain = _chosen(scores, [many] if many else [], one, one)
        of_all = part["family"].eq("all at once")
        given = part["panel"].map(GIVEN).mask(of_all, AT_ONCE)
        for have in dict.fromkeys([*GIVEN.values(), AT_ONCE]):
            known = part[given.eq(have)]
            known = known[known["headline"] | known["family"].eq("own")]
            keys = [
                Key(dataset, backbone, *k)
                for k in zip(known["method"], known["seed"], strict=True)
            ]
            keys = [
                k for k in keys if k.method not in (one.method, many and many.method)
            ]
            if not keys and have != "the image alone":
                continue
            found = _chosen(scores, keys, many or one, one)
            if not found and have == "the image alone":
                found = plain or {"use": one.method, **_calibrated(scores[one])}
            row = {**seen, "have": have, **(found or {"use": "nothing more"})}
            price = prices[backbone]
            row |= {"plain_seconds_per_image": price.get(one.method, np.nan)}
            rows.append(row | {"seconds_per_image": price.get(row["use"], np.nan)})
    names = {"difference": "expect", "ci_low": "expect_low", "ci_high": "expect_high"}
    columns = ["dataset", "backbone", "sure", "agree", "have", "use", "over", *names]
    columns += ["n", "broken", "ece", "ece_one", "surer", "verdict"]
    columns += ["seconds_per_image"]
    columns += ["plain_ece", "plain_surer", "plain_seconds_per_image"]
    table = pd.DataFrame(rows, columns=[*columns, "p", "se"])
    return compare.corrected(table)[columns].rename(columns=names)


def _chosen(scores: Scores, keys: Sequence[Key], over: Key, one: Key) -> dict | None:
    """The method of `keys` that one half of the images chooses, and its gain on the
    other half."""
    tried = {}
    for key in keys:
        pairs = list(zip(*map(halved, shared(scores[key], scores[over])), strict=True))
        if all(len(method) for method, _ in pairs):
            tried[key] = pairs
    if not tried:
        return None
    found = [_paired(chosen_on) for chosen_on, _ in tried.values()]
    table = compare.corrected(pd.DataFrame(found))
    gains = table.loc[table["verdict"].eq("gains"), "ci_low"]
    if gains.empty:
        return None
    best = [*tried][gains.idxmax()]
    measured = _paired(tried[best][1])
    about = {"use": best.method, "over": over.method}
    half = tried[best][1][0]
    same = scores[one].index.intersection(half.index)
    about |= _calibrated(half) | {"ece_one": _calibrated(scores[one].loc[same])["ece"]}
    return about | measured | {"broken": measured["losses"] / measured["n"]}


def _paired(pair: Sequence[pd.DataFrame]) -> dict[str, float]:
    return compare.paired_difference(*(frame["hit"] for frame in pair))


def _calibrated(images: pd.DataFrame) -> dict[str, float]:
    surer = images["confidence"].mean() - images["hit"].mean()
    return {"ece": calibration(images)["ece"], "surer": surer}


def halved(images: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two halves of a ledger's images by the hash of their ids, as for every ledger."""
    first = np.array([zlib.crc32(i.encode()) % 2 == 0 for i in images.index], bool)
    return images[first], images[~first]


def by_dataset(
    scores: Scores, backbone: str, method: str, others: Sequence[str]
) -> pd.DataFrame:
    """A method against another on every data set that has both.

    `others` are names of one and the same baseline, see `baseline`. Returns dataset and
    the columns of `compare.paired_difference`, of the method's lowest seed.
    """
    rows = []
    for dataset in dict.fromkeys(key.dataset for key in scores):
        for key in seeds(scores, dataset, backbone, method)[:1]:
            other = baseline(scores, key, others)
            if other is not None:
                rows.append({"dataset": dataset, **difference(scores[key], other)})
    return pd.DataFrame(rows)


def claims(
    scores: Scores, board: pd.DataFrame, backbones: Sequence[str]
) -> pd.DataFrame:
    """What the chapters claim: a row per claim and data set, with the verdict.

    A claim is about the first of `backbones` that has ledgers of it. A test of the
    protocol has the numbers and the verdict of `board`; all other claims are
    exploratory, and together one family for `compare.corrected`.

    Returns:
        chapter, subject, over; method and against, ledgers; backbone, dataset,
        exploratory; the columns of `compare.corrected`.
    """
    recipe, parts = main_recipe(scores), [pd.DataFrame()]
    for chapter in notebooks.chapters():
        for claim in chapter.claims:
            method = claim["method"].format(recipe)
            others = claim["against"] or registry.ledgers(claim["over"])
            others = tuple(name.format(recipe) for name in others)
            for backbone in backbones:
                table = by_dataset(scores, backbone, method, others)
                if len(table):
                    about = {"chapter": chapter.number, "subject": claim["subject"]}
                    about |= {"over": claim["over"], "method": method}
                    table = table.assign(**about, backbone=backbone)
                    parts.append(table.assign(against=[others] * len(table)))
                    break
    table = pd.concat(parts, ignore_index=True)
    if table.empty:
        return table
    outcomes = {against: outcome for outcome, against in protocol.OUTCOMES.items()}
    tested = board[board["headline"]].set_index(["dataset", "backbone", "method"])
    rows = list(zip(*(table[name] for name in tested.index.names), strict=True))
    known = np.array([row in tested.index for row in rows])
    kept = table["over"].isin(outcomes) & known
    table["exploratory"] = ~kept
    table = compare.corrected(table.assign(p=table["p"].where(~kept)))
    for at in table.index[kept]:
        row = tested.loc[rows[at]]
        table.loc[at, "n"] = row["n"]
        for end, column in OUTCOME.items():
            table.loc[at, column] = row[outcomes[table.loc[at, "over"]] + end]
    return table


def sentence(claim: pd.DataFrame, average: Mapping[str, float]) -> str:
    """Rows of `claims` about one claim, and their `protocol.macro`, in words."""
    first = claim.iloc[0]
    parts: list[str] = []
    for verdict in compare.DECIDED:
        some = claim[claim["verdict"].eq(verdict)]
        if len(some):
            over = f" {AGAINST[verdict]} {first['over']}" * (not parts)
            parts.append(f"{verdict} {amounts(some)}{over}")
    same = claim[~claim["verdict"].isin(compare.DECIDED)]
    if len(same):
        where = "any" if len(same) > 1 else kind(same["dataset"].iloc[0])
        where += f" of {len(same)} data sets" * (len(same) > 1)
        over = f" from {first['over']} on {where}"
        shows = f"shows {compare.undetected(same['detectable'])}"
        parts.append(shows + (" elsewhere" if parts else over))
    notes = [first["backbone"]] + ["exploratory"] * bool(first["exploratory"])
    if len(claim) == 1:
        notes.append(f"{first['n']:,.0f} images")
    text = f"{first['subject']} {', and '.join(parts)} ({', '.join(notes)})"
    if len(claim) == 1 and len(same):
        text += f": {points(first, ' points')}"
    if len(claim) == 1:
        return text
    text += f". Mean over {average['datasets']} data sets"
    if average["checkpoints"] > 1:
        text += f" and {average['checkpoints']} trainings of the backbone"
    each = f"{average['n']:,} or more images each"
    return f"{text}: {points(average, ' points')} ({each})"


def amounts(rows: pd.DataFrame) -> str:
    """ "8.1 points [6.0, 10.2] on picto-o and on 3 other data sets", the most first."""
    rows = rows.sort_values("difference", key=abs, ascending=False)
    names = [f"{amount(row)} on {kind(row['dataset'])}" for _, row in rows.iterrows()]
    rest = [f"on {len(names) - 2} other data sets"] if len(names) > 3 else names[2:]
    return listed([*names[:2], *rest])


def amount(row: Mapping[str, float] | pd.Series) -> str:
    """What is gained or lost, without a sign: "8.1 points [6.0, 10.2]"."""
    middle, low, high = (100 * row[k] for k in ("difference", "ci_low", "ci_high"))
    if middle < 0:
        middle, low, high = -middle, -high, -low
    return f"{middle:.1f} points [{low:.1f}, {high:.1f}]"


def percent(share: float, digits: int = 0) -> str:
    """ "93%" of 0.927."""
    return f"{share:.{digits}%}"


def capitalised(text: str) -> str:
    """The text with a capital first letter, the others as they are."""
    return text[:1].upper() + text[1:]


def subject(method: str) -> str:
    """A method's name in a sentence: "the vote of views", "80 prompts", "ZERO"."""
    return f"the {method}" if re.split(r"\W", method)[0] in _ARTICLE else method


def acting(method: str, verb: str) -> str:
    """What a method does: "80 prompts gain", "the vote of views gains"."""
    head = re.split(r",| (?:of|in|on|from|chosen) ", method)[0]
    plural = head.split()[-1] in _PLURAL
    return f"{subject(method)} {verb}{'' if plural else 's'}"


def listed(names: Iterable[str]) -> str:
    """ "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def points(row: Mapping[str, float] | pd.Series, about: str = "") -> str:
    """ "+8.1 points [+6.0, +10.2]" from difference, ci_low and ci_high."""
    return compare.points(row["difference"], row["ci_low"], row["ci_high"], about)


def tested(row: Mapping[str, float | str] | pd.Series) -> str:
    """What a row of `compare.corrected` finds, after its subject.

    "gains 8.1 points [6.0, 10.2]", or "shows no detectable difference (a difference of
    2.1 points would have been seen): +0.5 points [-0.7, +1.7]".
    """
    if row["verdict"] in compare.DECIDED:
        return f"{row['verdict']} {amount(row)}"
    return f"shows {row['verdict']}: {points(row, ' points')}"


def findings(
    scores: Scores,
    board: pd.DataFrame,
    leaves: pd.DataFrame,
    first: str,
    backbones: Sequence[str],
    agreed: Mapping[str, int],
) -> pd.DataFrame:
    """The computed answer to the question of every chapter with ledgers.

    Args:
        board: of `synthesis.leaderboard`.
        leaves: of `tree.leaves`.
        first: the data set in question, of which the others are shifts.
        backbones: a claim is about the first one that has its ledgers.
        agreed: of `literature.counts`.

    Returns:
        chapter, question, answer.
    """
    answers = {"00": _world(scores, backbones[0], agreed)}
    answers["01"] = _levels(scores, first, backbones[0])
    made = claims(scores, board, backbones)
    checkpoints = protocol.architectures(key.backbone for key in scores)
    for _, claim in (
        made.groupby(["chapter", "subject", "over"], sort=False) if len(made) else []
    ):
        chapter, backbone, method, against = (
            claim[k].iloc[0] for k in ("chapter", "backbone", "method", "against")
        )
        on = checkpoints.get(backbone, [backbone])
        values = protocol.gained(scores, on, method, against)
        text = sentence(claim, protocol.macro(list(values.values())))
        answers[chapter] = ". ".join(filter(None, [answers.get(chapter), text]))
    answers["07"] = _advice(scores, leaves)
    answers = {c: text for c, text in sorted(answers.items()) if text}
    return pd.concat([answer(c, text) for c, text in answers.items()])


def answers(tables: Path) -> dict[str, str]:
    """Each chapter's answer, by its number, from a run's tables `NN_findings.csv`."""
    found = [
        pd.read_csv(path, dtype=str) for path in sorted(tables.glob("*_findings.csv"))
    ]
    return {
        number_of(chapter): text
        for table in found
        for chapter, text in zip(table["chapter"], table["answer"], strict=True)
    }


def answer(chapter: str, text: str) -> pd.DataFrame:
    """What a chapter found, as a table: chapter (its number), question, answer."""
    questions = {known.number: known.question for known in notebooks.chapters()}
    row = {"chapter": chapter, "question": questions[chapter], "answer": f"{text}."}
    return pd.DataFrame([row])


def sentences(text: str) -> list[str]:
    """The sentences of an answer."""
    return re.split(r"(?<=\.) (?=[A-Z])", text)


def short(text: str) -> str:
    """An answer without means over data sets, detectable differences and the short
    names of data sets. Of which backbone it is, and whether exploratory, stays."""
    kept = [x for x in sentences(text) if not x.startswith("Mean over ")]
    noted = r" \((picto-[a-z]|[^()]* would have been seen)\)"
    return re.sub(noted, "", " ".join(kept))


def bullets(text: str) -> str:
    """An answer as a list in Markdown, a sentence in each line."""
    return "\n".join(f"- {sentence}" for sentence in sentences(text))


def _correct(scores: Scores, backbone: str) -> pd.Series:
    """For each data set, the hits of one prompt's largest ledger."""
    found = {}
    for dataset in dict.fromkeys(key.dataset for key in scores):
        key = widest(scores, Key(dataset, backbone, ""), registry.ledgers(ONE))
        if key:
            found[dataset] = scores[key]["hit"]
    return pd.Series(found, dtype=object)


def _right(correct: pd.Series, dataset: str) -> str:
    """ "93.8% [92.7, 94.8] of picto", from the hits of each data set."""
    hits = correct[dataset]
    low, high = metrics.bootstrap_interval(hits)
    share = f"{percent(hits.mean(), 1)} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{share} of {kind(dataset)}"


def _levels(scores: Scores, first: str, backbone: str) -> str:
    correct = _correct(scores, backbone)
    worst = correct.map(np.mean).astype(float).idxmin()
    text = f"One prompt is right on {_right(correct, first)}"
    return text if worst == first else f"{text} and {_right(correct, worst)}"


def _world(scores: Scores, backbone: str, agreed: Mapping[str, int]) -> str:
    """How the embedded world resembles the real one; "" without its shifts."""
    correct = _correct(scores, backbone)
    if len(set(correct.index) & set(COUNTERPARTS.values())) < 2:
        return ""
    means = correct.map(np.mean).astype(float)
    easy, hard = (_right(correct, at) for at in (means.idxmax(), means.idxmin()))
    text = "As with CLIP, some images are easy and some are hard: one prompt is right "
    text += f"on {easy}, and on {hard}"
    same, other = (agreed.get(kind, 0) for kind in ("agrees", "opposite"))
    unseen = agreed.get("not reproduced", 0) + agreed.get("no detectable difference", 0)
    if same + other + unseen:
        text += (
            f". Of {same + other + unseen} methods with a published gain, the tests "
        )
        text += f"find a change in the papers' direction for {same}, in the opposite "
        text += f"one for {other}, and no detectable difference for {unseen}"
        missed = agreed.get("not reproduced", 0)
        which = f"{missed} of them" if missed < unseen else "all of them"
        enough = f", although {which} gain enough in papers to be seen"
        text += enough * bool(missed)
    return text


def _advice(scores: Scores, leaves: pd.DataFrame) -> str:
    """Who should do what, at what price, and how well calibrated it is."""
    if leaves.empty:
        return ""
    keep = leaves["use"].eq(tree.KEEP)
    last = leaves.loc[keep & leaves["asks"].isin([tree.LAST, tree.ALL]), "datasets"]
    gains, parts = leaves[~keep].reset_index(drop=True), []
    for dataset, part in gains.groupby("datasets", sort=False):
        ways = []
        for _, leaf in part.iterrows():
            has = f"with {leaf['have']}, "
            if leaf["have"] == tree.NOTHING:
                has = "otherwise " * (len(part) > 1)
            elif leaf["use"] in tree.CALLED.values():  # it names what one has
                has = ""
            ways.append(f"{has}{acting(leaf['use'], 'gain')} {_expected(leaf)}")
            if leaf["over"] != part["over"].shift().get(leaf.name):  # said once
                ways[-1] += f" over {leaf['over']}"
        parts.append(f"On {kind(dataset)}, {'; '.join(ways)}")
    if len(last):
        rest = listed(map(kind, last.iloc[0].split(", ")))
        parts.append(f"On {rest}, keep zero-shot: no tested method is shown to gain")
    if gains.empty:
        return parts[0]
    parts.append(_prices(gains))
    worse = gains["ece"] - gains["ece_one"]
    found = {"Worse": worse >= 0.01, "Better": worse <= -0.01}
    for way, much in found.items():
        who = [
            f"{listed(map(subject, part['use']))} on {named(dataset)}"
            for dataset, part in gains[much].groupby("datasets", sort=False)
        ]
        text = f"{way} calibrated than one prompt by a point or more: {'; '.join(who)}"
        parts.append(text if who else "")
    if not found["Worse"].any():
        parts.append("None is worse calibrated than one prompt by a point or more")
        return ". ".join(filter(None, parts))
    at = worse.idxmax()
    lies = "exceeds" if gains["surer"][at] > 0 else "is below"
    own, plain = (percent(gains[k][at]) for k in ("ece", "ece_one"))
    text = f"The worst calibration is that of {subject(gains['use'][at])}: confidence "
    text += f"{lies} accuracy, and the calibration error is {own}, against {plain} "
    parts.append(f"{text}with one prompt")
    return ". ".join(filter(None, parts))


def _prices(gains: pd.DataFrame) -> str:
    """Which methods of `tree.leaves` take at least twice as long as one prompt."""
    gains = gains.drop_duplicates("use").sort_values("seconds_per_image")
    one = gains["plain_seconds_per_image"]
    slow = gains[gains["seconds_per_image"] >= 2 * one]
    plain = f"{tree.milliseconds(one.median())} ms"
    if slow.empty:
        return f"None takes twice as long as one prompt, {plain} for an image"
    first, last = map(tree.milliseconds, slow["seconds_per_image"].iloc[[0, -1]])
    ends = first if first == last else f"{first} to {last}"
    who = listed(map(subject, slow["use"]))
    who = f"{who} take" if len(slow) > 1 else acting(slow["use"].iloc[0], "take")
    text = f"{capitalised(who)} {ends} ms for an image, against {plain} with one prompt"
    rest = "; the others named here take less than twice as long as one prompt"
    return text + rest * (len(slow) < len(gains))


def _expected(row: pd.Series) -> str:
    names = {"expect": "difference", "expect_low": "ci_low", "expect_high": "ci_high"}
    return amount(row.rename(names))
