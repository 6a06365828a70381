"""Does the study agree with the literature? Published gains beside ours.

A published gain is a difference of two accuracies of one source. In the embedded world
a data set of the papers has a counterpart (`layouts.COUNTERPARTS`), and all its
published numbers stand beside our mean over the backbones. With OpenAI's weights a
number stands beside ours of the same data set and backbone.

Our gain is a mean over data sets, each of which is a mean over backbones of the paired
difference to the same baseline; data sets and backbones are fixed, images are the
sample. Holm's correction counts all tests of a table.

The verdict, by this rule and no other:

- "agrees" or "opposite": by `compare.corrected` we gain or lose, and our gain has the
  sign of the mean published one, or has not.
- "no detectable difference (a difference of x points would have been seen)": it is
  not; x is what the corrected test shows in four of five cases. "Not reproduced" stands
  before it where the published gain is at least x.
- "not measured here": papers have numbers, the study has none on their counterparts.
- "no published gain": no source read so far prints the method beside its baseline.

The same rule, applied to each row of `cells`, says on which data sets a method agrees.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers.methods import registry
from helpers.methods.registry import ENSEMBLE, ONE
from helpers.results import compare, published
from helpers.results.compare import DECIDED
from helpers.results.layouts import COUNTERPARTS
from helpers.results.synthesis import (
    Key,
    Scores,
    baseline,
    main_recipe,
    rank_correlation,
    seeds,
    shared,
)

OVER = (ONE, ENSEMBLE)
TOLERANCE = 0.005
"""Accuracies that differ by more from every published one are named."""

Evidence = Mapping[str, float]


class Reason(NamedTuple):
    """A likely reason for not agreeing, given only where `holds` is true of a run."""

    methods: tuple[str, ...]  # keys of the registry, () for all
    holds: Callable[[Evidence], bool]
    sentence: str


TRAINED = ("lafter", "upl", "clip_pr")
OF_VIEWS = ("vote", "zero", "mta", "tps")
BY_TUNING = ("tpt", "ctpt", "atpt", "difftpt", "tpt_coop", "tpt_cocoop", "tpt_cots")
OF_WORDS = ("dclip", "cupl", "caption")
OF_PROMPTS = ("ensemble_80", "ensemble_waffle", "dclip", "cupl", "autoclip")
REASONS = (
    Reason(
        (),
        lambda e: e["seen"] > e["published"],
        "So few images do not show a gain as small as the published one.",
    ),
    Reason(
        (),
        lambda e: e["moved"] < e["published"],
        "The method changes only {moved:.1f}% of predictions; for the published gain, "
        "it must change at least {published:.1f}%.",
    ),
    Reason(
        ("lafter",),
        lambda e: e["tokens"] > e["published"],
        "Fifty tokens that it has not met, as LaFTer's prompts are, cost the image "
        "tower {tokens:.0f} points, more than papers gain.",
    ),
    Reason(
        ("lafter",),
        lambda e: e["strong"] > e["published"],
        "The strong view that the student learns from costs the image tower "
        "{strong:.0f} points, more than papers gain.",
    ),
    Reason(
        TRAINED,
        lambda e: e["start"] < e["their_start"],
        "The method learns from pseudo-labels, of which {start:.0f}% are right here "
        "and {their_start:.0f}% in papers.",
    ),
    Reason(
        ("rlcf_prompt", "rlcf_encoder"),
        lambda e: e["lead"] < e["published"],
        "The model that rewards the method leads by {lead:.1f} points, less than "
        "papers gain.",
    ),
    Reason(
        OF_PROMPTS,
        lambda e: -e["wordings"] < e["gain"] < e["wordings"] < e["published"],
        "The best of the card's wordings is {wordings:.1f} points above the median "
        "one, less than papers gain.",
    ),
    Reason(
        OF_WORDS,
        lambda e: 0 < -e["gain"] < e["worst"],
        "The method words its prompts in ways that this text tower reads badly: the "
        "worst of the card's wordings is {worst:.0f} points below the median one.",
    ),
    Reason(
        ("caption",),
        lambda e: e["gain"] > 0 and e["named"] > e["start"],
        "Captions name the true class of {named:.0f}% of the images; one prompt is "
        "right on {start:.0f}%.",
    ),
    Reason(
        BY_TUNING,
        lambda e: e["common"] > 50,
        "{common:.0f}% of what TPT's step does to the class features is common to all "
        "classes, and changes no prediction.",
    ),
    Reason(
        OF_VIEWS,
        lambda e: e["crop"] > e["published"],
        "A crop of a quarter of the picture costs the image tower {crop:.0f} points, "
        "more than papers gain.",
    ),
)
"""In order of preference; evidence is in points or percent, see `_evidence`."""


def published_gains() -> pd.DataFrame:
    """The gains that sources report, each over a baseline of the same source.

    Numbers of qualified names, "ViT-B/16 (reward L/14)", count for the name. A number
    that several sources print, as most quote others, is one row.

    Returns:
        method (key of the registry), over (`registry.ONE` or `ENSEMBLE`), dataset,
        backbone, gain, top1, start (of the baseline; fractions), sources (their names).
    """
    table = published.table()
    for column in ("dataset", "backbone"):
        table[column] = table[column].str.partition("(")[0].str.strip()
    table["sources"] = table["source"].str.extract(r"^([\w-]+(?: paper)?)")[0]
    table["method"] = table["method"].map(registry.published())
    table = table[table["method"].notna()]
    keys, found = ["dataset", "backbone", "sources"], []
    for over in (ONE, ENSEMBLE):
        start = table[table["method"].isin(registry.ledgers(over))]
        start = start.groupby(keys)["top1"].mean().rename("start")
        plain = {*registry.ledgers(ONE), *registry.ledgers(over)}
        rows = table[~table["method"].isin(plain)].join(start, on=keys, how="inner")
        found.append(rows.assign(over=over))
    rows = pd.concat(found)
    rows["gain"] = (rows["top1"] - rows["start"]).round(6)
    same = ["method", "over", "dataset", "backbone", "gain", "top1"]
    groups = rows.groupby(same, as_index=False)
    return groups.agg(start=("start", "mean"), sources=("sources", _joined))


def _joined(parts: Iterable[str]) -> str:
    """Names joined by commas, each once; the parts may be joined ones."""
    return ", ".join(sorted({name for part in parts for name in part.split(", ")}))


def placed(gains: pd.DataFrame, keys: Iterable[Key], weights: str = "") -> pd.DataFrame:
    """Published gains with the data set `here` and the backbones `among` beside them.

    Those are the counterparts in the embedded world and, with OpenAI's `weights`, the
    same ones; gains that have none are left out. Over one prompt where a method has
    such numbers, else over the ensemble.

    Args:
        gains: of `published_gains`.
        keys: the ledgers that there are.
    """
    keys = list(keys)
    sets = {key.dataset: published.key(key.dataset) for key in keys}
    towers = {key.backbone: published.key(key.backbone) for key in keys}
    counterparts = tuple(sorted(set(towers) & set(COUNTERPARTS.values())))
    known = gains[gains["backbone"].isin(COUNTERPARTS)] if counterparts else gains[:0]
    here = known["dataset"].map(COUNTERPARTS)
    parts = [known.assign(here=here, among=[counterparts] * len(known))]
    if weights == "openai":
        named = [{key: name for name, key in names.items()} for names in (sets, towers)]
        here = gains["dataset"].map(published.key).map(named[0])
        among = gains["backbone"].map(published.key).map(named[1])
        parts.append(gains.assign(here=here, among=among.map(lambda name: (name,))))
    found = pd.concat(parts)
    found = found[found["here"].isin(sets)]
    there = [set(names) <= set(towers) for names in found["among"]]
    found = found[np.array(there, dtype=bool)]
    first = found.groupby("method")["over"].transform(lambda o: min(o, key=OVER.index))
    return found[found["over"].eq(first)].reset_index(drop=True)


def cells(scores: Scores, weights: str = "") -> pd.DataFrame:
    """Published gains and ours: a row for each method and data set that has both.

    With OpenAI's `weights` also a row for each backbone, see `placed`.

    Returns:
        method, name, over; dataset and backbones (ours, joined by commas);
        published, its published_low and published_high (mean and range of the numbers),
        numbers, sources, their_start; gain, se, low, high (95 %), p; p_holm, detectable
        and outcome (the verdict) of `compare.corrected` on all rows; n (images); moved,
        rescued, broken (shares of images whose prediction changes, to the right class
        and from it); start, top1; off: how far top1 is from the nearest published one,
        NaN in the embedded world. Fractions.
    """
    rows, recipe = [], main_recipe(scores)
    gains = placed(published_gains(), scores, weights)
    keys = ["method", "over", "here", "among"]
    for (method, over, dataset, among), part in gains.groupby(keys):
        ours = measured(scores, method, over, dataset, among, recipe)
        if ours is None:
            continue
        theirs = part["gain"]
        row = {"method": method, "name": label(method), "over": over}
        row |= {"dataset": dataset, "published": theirs.mean(), "numbers": len(part)}
        row |= {"published_low": theirs.min(), "published_high": theirs.max()}
        row |= {"sources": _joined(part["sources"])}
        row |= {"their_start": part["start"].mean()}
        off = (part["top1"] - ours["top1"]).abs().min()
        real = dataset not in COUNTERPARTS.values()
        rows.append(row | ours | {"off": off if real else math.nan})
    return _tested(pd.DataFrame(rows, columns=_CELL))


_CELL = ["method", "name", "over", "dataset", "backbones", "published"]
_CELL += ["published_low", "published_high", "numbers", "sources", "their_start"]
_CELL += ["gain", "se", "n", "moved", "rescued", "broken", "start", "top1", "off"]


def label(method: str) -> str:
    """What to call a method; a variant without a name is called as in papers."""
    entry = registry.entries()[method]
    return entry.name or entry.published[0]


def measured(
    scores: Scores,
    method: str,
    over: str,
    dataset: str,
    backbones: Iterable[str],
    recipe: str = "",
) -> dict | None:
    """Our gain on a data set, a mean over backbones, with its standard error.

    None where no backbone has ledgers of the method and of the baseline `over`. The
    same image of two backbones is one of the sample, so that their errors add up.

    Returns:
        backbones, gain, se, n, moved, rescued, broken, start, top1, as in `cells`.
    """
    pairs = {}
    for backbone in backbones:
        key = _ledger(scores, dataset, backbone, method, over, recipe)
        if key is None:
            continue
        other = baseline(scores, key, registry.ledgers(over))
        if other is not None:
            pairs[backbone] = shared(scores[key], other)
    if not pairs:
        return None
    apart, rows = [], []
    for images, plain in pairs.values():
        gain = images["hit"].astype(float) - plain["hit"]
        apart.append((gain - gain.mean()) / len(gain) / len(pairs))
        moved = images["prediction"].ne(plain["prediction"])
        row = {"gain": gain.mean(), "moved": moved.mean()}
        row |= {"rescued": gain.gt(0).mean(), "broken": gain.lt(0).mean()}
        rows.append(row | {"start": plain["hit"].mean(), "top1": images["hit"].mean()})
    errors = pd.concat(apart).groupby(level=0).sum()
    found = pd.DataFrame(rows).mean().to_dict()
    found |= {"se": math.sqrt((errors**2).sum()), "n": len(errors)}
    return found | {"backbones": ", ".join(pairs)}


def _ledger(
    scores: Scores, dataset: str, backbone: str, method: str, over: str, recipe: str
) -> Key | None:
    """The ledger that speaks for a method; over the ensemble, that with its texts."""
    speaker = registry.entries()[method].speaker or method
    stems = [f"{method}_80"] * (over == ENSEMBLE) + [speaker, method]
    for name in (n for stem in stems for n in (stem, f"{stem}-{recipe}")):
        if keys := seeds(scores, dataset, backbone, name):
            return keys[0]
    return None


def _tested(table: pd.DataFrame) -> pd.DataFrame:
    """The table with low, high, p, p_holm, detectable and outcome of its gains."""
    found = compare.of_means(table.assign(difference=table["gain"]))
    names = {"verdict": "outcome", "ci_low": "low", "ci_high": "high"}
    return compare.corrected(found).drop(columns="difference").rename(columns=names)


def verdict(row: Mapping) -> str:
    """The rule of this module, for one row of `agreement`."""
    theirs, ours, seen = row["published"], row["gain"], row["detectable"]
    if math.isnan(theirs):
        return "no published gain"
    if math.isnan(ours):
        return "not measured here"
    if row["outcome"] in DECIDED:
        return "agrees" if np.sign(ours) == np.sign(theirs) else "opposite"
    failed = "not reproduced: " if abs(theirs) >= seen else ""
    return f"{failed}{row['outcome']}"


def agreement(
    table: pd.DataFrame, scores: Scores, folder: str | Path = ""
) -> pd.DataFrame:
    """A row per method: published gain, ours, the verdict, and why where it differs.

    Both gains are means over the data sets that have both. Where there is none, each is
    over what it has; the two are then about different data, and there is no verdict.

    Args:
        table: of `cells`.
        folder: the study's, whose tables of chapters 00 and 03 tell the CLIPs'
            behaviour and what captions say.

    Returns:
        method, name, over, datasets and backbones, and the columns of `cells` from
        published to top1 that have a mean; low, high, p, p_holm (of all rows),
        detectable; verdict, reason; each: the verdict on each data set, in words.
    """
    gains = published_gains()
    gains = gains[gains["dataset"].isin(COUNTERPARTS)]
    entries = registry.entries().values()
    rows = []
    for entry in (e for e in entries if e.published and e.role != ONE):
        part = table[table["method"] == entry.key]
        if part.empty:
            part = _one_sided(scores, entry, gains[gains["method"] == entry.key])
        rows.append(_averaged(entry.key, part))
    found = _tested(pd.DataFrame(rows))
    found["verdict"] = [verdict(row) for _, row in found.iterrows()]
    found["reason"] = [
        reason(row["method"], row["verdict"], _evidence(row, scores, folder))
        for _, row in found.iterrows()
    ]
    missed = placed(gains, scores)
    found["each"] = [
        _each(table[table["method"] == method], missed[missed["method"] == method])
        for method in found["method"]
    ]
    order = found["verdict"].map(_kind).map(ORDER.index)
    found = found.assign(order=order).sort_values(
        ["order", "published"], ascending=[True, False], kind="stable"
    )
    return found.drop(columns="order").reset_index(drop=True)


def _each(part: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """ "agrees on picto-r; not reproduced on picto-a": a method's rows of `cells`.

    `theirs` are its published gains, see `placed`: their other data sets are named.
    """
    kinds: dict[str, list[str]] = {kind: [] for kind in ORDER}
    for _, row in part.iterrows():
        kinds[_kind(verdict(row))].append(row["dataset"])
    measured_on = set(part["dataset"])
    others = theirs.loc[~theirs["here"].isin(measured_on), "here"]
    kinds["not measured here"] += list(dict.fromkeys(others))
    told = {kind: ", ".join(dict.fromkeys(sets)) for kind, sets in kinds.items()}
    return "; ".join(f"{kind} on {sets}" for kind, sets in told.items() if sets)


def counts(table: pd.DataFrame) -> dict[str, int]:
    """How many methods of `agreement` have a verdict of each kind."""
    kinds = table["verdict"].map(_kind)
    return {kind: int(kinds.eq(kind).sum()) for kind in ORDER}


def _kind(verdict: str) -> str:
    return verdict.partition(":")[0].partition(" (")[0]


ORDER = (
    *("agrees", "opposite", "not reproduced", "no detectable difference"),
    *("not measured here", "no published gain"),
)


def _one_sided(
    scores: Scores, entry: registry.Entry, gains: pd.DataFrame
) -> pd.DataFrame:
    """Rows of `cells` for a method that only papers or only the study have.

    Ours is on the counterparts, over the ensemble if the method has its texts.
    """
    if len(gains):
        gains = gains[gains["over"].eq(min(gains["over"], key=OVER.index))]
        middle = gains.groupby("dataset")["gain"].mean().mean()
        row = {"over": gains["over"].iloc[0], "published": middle}
        row |= {"published_low": gains["gain"].min(), "numbers": len(gains)}
        row |= {"published_high": gains["gain"].max()}
        rows = [row | {"sources": _joined(gains["sources"])}]
    else:
        over = ENSEMBLE if entry.speaker.endswith("_80") else ONE
        names, recipe = dict.fromkeys(COUNTERPARTS.values()), main_recipe(scores)
        case = entry.key, over
        found = {d: measured(scores, *case, d, names, recipe) for d in names}
        rows = [{"over": over, "dataset": d, **row} for d, row in found.items() if row]
    return pd.DataFrame(rows, columns=_CELL)


def _averaged(method: str, part: pd.DataFrame) -> dict:
    """Means of a method's cells over data sets."""
    numbers = ["published", "their_start", "gain", "moved", "rescued", "broken"]
    row: dict = {"method": method, "name": label(method)}
    row |= part[[*numbers, "start"]].astype(float).mean().to_dict()
    row |= {"se": math.sqrt((part["se"] ** 2).sum(min_count=1)) / max(1, len(part))}
    row |= {"published_low": part["published_low"].min()}
    row |= {"published_high": part["published_high"].max()}
    row |= {"numbers": part["numbers"].sum(), "n": part["n"].sum(min_count=1)}
    names = {"datasets": "dataset", "backbones": "backbones", "sources": "sources"}
    row |= {k: _joined(part[column].dropna()) for k, column in names.items()}
    return row | {"over": _joined(part["over"])}


COSTS = {
    "tokens": ("accuracy, 0 unknown tokens", "accuracy, 50 unknown tokens"),
    "strong": ("accuracy, whole picture", "accuracy, strong view"),
    "crop": ("accuracy, whole picture", "accuracy, random crop, area 0.25"),
    "wordings": ("accuracy over wordings, highest", "accuracy over wordings, median"),
    "worst": ("accuracy over wordings, median", "accuracy over wordings, lowest"),
}
"""Differences of two measures of a behaviour card."""
COMMON = "TPT's step: movement in common"


def card(folder: str | Path, backbones: Iterable[str] = ()) -> dict[str, float]:
    """The `COSTS` of chapter 00's behaviour card, in points, and `common`, a share in
    percent: means over these of its backbones, or over all.

    Empty where the study has no card; NaN where no backbone has both measures.
    """
    path = Path(folder) / "tables" / "00_behaviour.csv"
    if not path.is_file():
        return {}
    table = pd.read_csv(path, dtype=str).set_index("measure")
    table.index = table.index.str.replace(r"over \d+ ", "over ", regex=True)
    table = table.drop(columns=["n", "published"])
    table = table[[name for name in table if name in backbones] or list(table)]
    shares = table.apply(lambda c: c.str.extract(r"^([\d.]+)%$")[0].astype(float))
    measures = sorted({measure for pair in COSTS.values() for measure in pair})
    shares = shares.reindex([*measures, COMMON])
    costs = {n: (shares.loc[a] - shares.loc[b]).mean() for n, (a, b) in COSTS.items()}
    return costs | {"common": shares.loc[COMMON].mean()}


def _evidence(row: pd.Series, scores: Scores, folder: str | Path) -> dict[str, float]:
    """What is known of a row of `agreement`, in points and percent, NaN if unknown.

    published (its size), gain, moved, rescued, broken; start and their_start (accuracy
    of the baselines); seen (by a test that decides nothing); lead (over one prompt, of
    the model that rewards); named (images whose captions name the class); and the
    entries of `card`.
    """
    evidence: dict[str, float] = dict.fromkeys([*COSTS, "common"], math.nan)
    percent = ["published", "gain", "moved", "rescued", "broken", "start"]
    evidence |= (100 * row[[*percent, "their_start"]].astype(float)).to_dict()
    evidence["published"] = abs(evidence["published"])
    evidence |= {"lead": math.nan, "named": math.nan, "seen": math.nan}
    if pd.isna(row["gain"]):
        return evidence
    if row["outcome"] not in DECIDED:
        evidence["seen"] = 100 * row["detectable"]
    sets = row["datasets"].split(", ")
    backbones = row["backbones"].split(", ")
    leads = [_lead(scores, dataset, backbones) for dataset in sets]
    evidence["lead"] = 100 * float(np.mean(leads))
    captions = Path(folder) / "tables" / "03_captions_right.csv"
    if folder and captions.is_file():
        right = pd.read_csv(captions).set_index("dataset")["class_right"]
        evidence["named"] = 100 * right.reindex(sets).mean()
    return evidence | (card(folder, backbones) if folder else {})


def _lead(scores: Scores, dataset: str, backbones: Iterable[str]) -> float:
    ours = measured(scores, "other_model", ONE, dataset, backbones)
    return ours["gain"] if ours else math.nan


def reason(method: str, decision: str, evidence: Evidence) -> str:
    """Why a method does not agree: the first of `REASONS` that holds, else none."""
    if decision in ("agrees", "not measured here", "no published gain"):
        return ""
    for methods, holds, sentence in REASONS:
        if (not methods or method in methods) and holds(evidence):
            return sentence.format(**evidence)
    unexplained = "{rescued:.1f}% of predictions turn right, {broken:.1f}% wrong"
    return f"unexplained: {unexplained.format(**evidence)}"


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Do methods rank here as in papers? Kendall's tau of the two gains.

    Args:
        table: of `cells`.

    Returns:
        A row per data set (and backbones, where they differ): dataset, backbones ("" in
        the embedded world), and the columns of `synthesis.rank_correlation`.
    """
    rows = []
    for (dataset, backbones), part in panels(table):
        gains = part.set_index("method")
        row = {"dataset": dataset, "backbones": backbones}
        rows.append(row | rank_correlation(gains["gain"], gains["published"]))
    columns = ["dataset", "backbones", "methods", "tau", "p", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def panels(table: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """The parts of `cells` to be drawn together, in the order of the papers' sets.

    By data set and, outside the embedded world, backbone.
    """
    counterparts = list(dict.fromkeys(COUNTERPARTS.values()))
    real = ~table["dataset"].isin(counterparts)
    table = table.assign(tower=table["backbones"].where(real, ""))
    parts = list(table.groupby(["dataset", "tower"]))
    rank = {name: position for position, name in enumerate(counterparts)}
    return sorted(parts, key=lambda part: (rank.get(part[0][0], len(rank)), part[0]))


def stands_for(dataset: str) -> str:
    """The papers' data sets whose counterpart this is, or its own name."""
    names = [name for name, here in COUNTERPARTS.items() if here == dataset]
    return " and ".join(names) or dataset


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `agreement` to be read: gains in points, with range or interval."""
    columns = ["published", "published_low", "published_high"], ["gain", "low", "high"]
    theirs, ours = (
        ["" if np.isnan(row[0]) else compare.points(*row) for row in rows]
        for rows in (table[names].to_numpy(float) for names in columns)
    )
    sources = table["sources"].fillna("").str.split(", ")
    found = table[["name", "over"]].set_axis(["method", "baseline"], axis=1)
    found["points in papers"] = theirs
    found["sources"] = sources.map(lambda names: len(list(filter(None, names))))
    found["points here"] = ours
    found[["data sets", "backbones"]] = table[["datasets", "backbones"]].fillna("")
    found["verdict on their mean"] = table["verdict"]
    return found.assign(**{"on each": table["each"], "reason": table["reason"]})
