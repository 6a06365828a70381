"""The chapters' findings: sentences, and a table of which method to use.

Every sentence is put together from a macro average with its interval and from verdicts
of `compare.corrected`, so that it says what a study's ledgers say, whatever that is.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from helpers import notebooks
from helpers.methods import registry
from helpers.methods.registry import ENSEMBLE, ONE
from helpers.results import compare, metrics, protocol
from helpers.results.layouts import COUNTERPARTS, difficulty
from helpers.results.synthesis import (
    OUTCOME,
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

    The rule: images are cut in two by the hash of their ids. On one half, of the
    headline methods (and your own) that what one has allows, those that gain over the
    prompt ensemble (over one prompt, where there is no ensemble) are in the running;
    the one whose gain has the greatest lower bound is chosen. Its gain on the *other*
    half, which had no say, is what to expect. Where none is in the running, the
    ensemble is chosen if it gains over one prompt, else one prompt.

    Returns:
        dataset, backbone; what can be seen without labels: `sure`, the mean confidence
        of one prompt, and `agree`, the share of images on which one prompt and the
        ensemble predict the same; have, use (a ledger or "nothing more"), over (against
        what), expect, expect_low, expect_high, n (of the other half), verdict (of
        `compare.corrected` on the other half, all rows being the family),
        seconds_per_image.
    """
    rows = []
    for (dataset, backbone), part in board.groupby(["dataset", "backbone"], sort=False):
        about = Key(dataset, backbone, "")
        baselines = registry.ledgers(ONE), registry.ledgers(ENSEMBLE)
        one, many = (widest(scores, about, names) for names in baselines)
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
            found = _chosen(scores, keys, many or one)
            if not found and have == "the image alone":
                cheap = {"use": one.method, "seconds_per_image": _cost(scores, one)}
                found = plain or cheap
            rows.append({**seen, "have": have, **(found or {"use": "nothing more"})})
    names = {"difference": "expect", "ci_low": "expect_low", "ci_high": "expect_high"}
    columns = ["dataset", "backbone", "sure", "agree", "have", "use", "over", *names]
    columns += ["n", "verdict", "seconds_per_image"]
    table = pd.DataFrame(rows, columns=[*columns, "p", "se"])
    return compare.corrected(table)[columns].rename(columns=names)


def readable(decided: pd.DataFrame) -> pd.DataFrame:
    """The table of `decisions` for display: points with intervals, milliseconds."""
    told = [_expected(row) if row["n"] > 0 else "" for _, row in decided.iterrows()]
    table = decided[["dataset", "sure", "agree", "have", "use"]].copy()
    table["expect"] = pd.Series(told, decided.index, dtype=object)
    table["over"] = decided["over"].astype(object).fillna("")
    table[["n", "verdict"]] = decided[["n", "verdict"]]
    return table.assign(ms=1000 * decided["seconds_per_image"])


def _chosen(scores: Scores, keys: Sequence[Key], over: Key) -> dict | None:
    """The method of `keys` that one half of the images chooses, and its gain on the
    other half."""
    tried = {}
    for key in keys:
        pairs = list(zip(*map(halved, shared(scores[key], scores[over])), strict=True))
        if all(len(method) for method, _ in pairs):
            tried[key] = [[frame["hit"] for frame in pair] for pair in pairs]
    if not tried:
        return None
    found = [compare.paired_difference(*chosen_on) for chosen_on, _ in tried.values()]
    table = compare.corrected(pd.DataFrame(found))
    gains = table.loc[table["verdict"].eq("gains"), "ci_low"]
    if gains.empty:
        return None
    best = [*tried][gains.idxmax()]
    measured = compare.paired_difference(*tried[best][1])
    about = {"use": best.method, "over": over.method}
    return {**about, **measured, "seconds_per_image": _cost(scores, best)}


def _cost(scores: Scores, key: Key) -> float:
    return scores[key].attrs["seconds_per_image"]


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
        keys = [key for key in scores if key[:3] == (dataset, backbone, method)]
        for key in sorted(keys, key=lambda key: key.seed)[:1]:
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
    places = list(zip(*(table[name] for name in tested.index.names), strict=True))
    known = np.array([place in tested.index for place in places])
    kept = table["over"].isin(outcomes) & known
    table["exploratory"] = ~kept
    table = compare.corrected(table.assign(p=table["p"].where(~kept)))
    for at in table.index[kept]:
        row = tested.loc[places[at]]
        table.loc[at, "n"] = row["n"]
        for end, column in OUTCOME.items():
            table.loc[at, column] = row[outcomes[table.loc[at, "over"]] + end]
    return table


def sentence(claim: pd.DataFrame, average: Mapping[str, float]) -> str:
    """Rows of `claims` about one claim, and their `protocol.macro`, in words."""
    first, several = claim.iloc[0], len(claim) > 1
    text = f"{first['subject']} against {first['over']}: "
    if several:
        text += f"{points(average, ' points')} on average over {average['datasets']} "
        text += f"data sets of {average['n']:,} images or more; "
    told = []
    for verdict in compare.DECIDED:
        some = claim[claim["verdict"].eq(verdict)]
        some = some.sort_values("difference", key=abs, ascending=False)
        names = [f"{row['dataset']} {points(row)}" for _, row in some.iterrows()]
        rest = len(names) - 2
        more = f" and {rest} other{'s' * (rest > 1)}" if rest > 0 else ""
        told += [f"{verdict} on {', '.join(names[:2])}{more}"] if names else []
    same = claim[~claim["verdict"].isin(compare.DECIDED)]
    if len(same):
        places = ", ".join(same["dataset"])
        told.append(f"{compare.undetected(same['detectable'])} on {places}")
    about = [first["backbone"], *([] if several else [f"{first['n']:,.0f} images"])]
    if average["checkpoints"] > 1:
        about.append(f"{average['checkpoints']} checkpoints")
    about += ["exploratory"] if first["exploratory"] else []
    return f"{text}{'; '.join(told)} ({', '.join(about)})"


def points(row: Mapping[str, float] | pd.Series, about: str = "") -> str:
    """ "+8.1 points [+6.0, +10.2]" from difference, ci_low and ci_high."""
    middle, low, high = (100 * row[k] for k in ("difference", "ci_low", "ci_high"))
    return f"{middle:+.1f}{about} [{low:+.1f}, {high:+.1f}]"


def findings(
    scores: Scores,
    board: pd.DataFrame,
    decided: pd.DataFrame,
    first: str,
    backbones: Sequence[str],
) -> pd.DataFrame:
    """The computed answer to the question of every chapter with ledgers.

    Args:
        board: of `synthesis.leaderboard`.
        decided: the table of `decisions`.
        first: the data set in question, of which the others are shifts.
        backbones: a claim is about the first one that has its ledgers.

    Returns:
        chapter, question, answer.
    """
    answers = {"00": _world(scores, backbones[0])}
    chapters = {chapter.number: chapter for chapter in notebooks.chapters()}
    answers["01"] = _levels(scores, first, backbones[0])
    made = claims(scores, board, backbones)
    checkpoints = protocol.architectures(key.backbone for key in scores)
    for _, claim in (
        made.groupby(["chapter", "subject"], sort=False) if len(made) else []
    ):
        chapter, backbone, method, against = (
            claim[k].iloc[0] for k in ("chapter", "backbone", "method", "against")
        )
        on = checkpoints.get(backbone, [backbone])
        values = protocol.gained(scores, on, method, against)
        text = sentence(claim, protocol.macro(list(values.values())))
        answers[chapter] = ". ".join(filter(None, [answers.get(chapter), text]))
    answers["07"] = _verdicts(decided, backbones[0])
    answers = {c: answer for c, answer in sorted(answers.items()) if answer}
    rows = [(c, chapters[c].question, f"{text}.") for c, text in answers.items()]
    return pd.DataFrame(rows, columns=["chapter", "question", "answer"])


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
    sets = list(rows["dataset"])
    rows = rows[rows["over"].eq("ensemble_80")]
    gains = rows["verdict"].eq("gains")
    better = [
        f"{registry.find(use).name} gains over {ENSEMBLE} on {row['dataset']} "
        f"{_expected(row)}"
        for use, (_, row) in zip(
            rows[gains]["use"], rows[gains].iterrows(), strict=True
        )
    ]
    text = "Of methods that see the image alone, chosen on one half of the images and "
    text += (
        f"measured on the other, {'; '.join(better) or f'none gains over {ENSEMBLE}'}"
    )
    rest = ", ".join(name for name in sets if name not in set(rows[gains]["dataset"]))
    return f"{text}; on {rest} none does" if better and rest else text


def _expected(row: pd.Series) -> str:
    names = {"expect": "difference", "expect_low": "ci_low", "expect_high": "ci_high"}
    return points(row.rename(names), " points")
