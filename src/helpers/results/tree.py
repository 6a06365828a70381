"""What to use when: a tree of questions whose leaves come from a study's ledgers.

The questions are `IMAGES`, about the images, and `OWNED`, about what their owner has.
What a leaf says is a row of `findings.decisions`: the method that one half of the
images chose, its gain on the other half, and the verdict of `compare.corrected`. Where
that is not "gains", the leaf says "keep zero-shot".
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from helpers.methods import registry
from helpers.methods.registry import ENSEMBLE, ONE
from helpers.results import compare
from helpers.results.compare import DECIDED
from helpers.results.synthesis import ALONE

IMAGES = {
    "Are all in one other style, as sketches are?": ("picto-s", "imagenet-sketch"),
    "Are they in many other styles?": ("picto-r", "imagenet-r"),
    "Are things small, off centre, turned or covered?": ("picto-a", "imagenet-a"),
    "Are they noisy, blurred or damaged?": ("picto-c",),
    "Are things in odd places or colours?": ("picto-o",),
    "Are they like what CLIP learned from?": ("picto", "imagenet"),
}
"""Each question about images, and the data sets on which the answer is yes."""
LAST, ALL = "None of these?", "Whatever they are like"
OWNED = {
    "a word for such images": ("Can you name the style?", "a name of the style"),
    "unlabelled images like them": ("Do you have a pool of one kind?", "a pool"),
    "all test images at once": ("Do you have them all at once?", "all at once"),
    "a stream of test images": ("Do they come one after the other?", "a stream"),
    "labelled images": ("Do you have any labels?", "labels"),
    "your own method": ("Your own method?", "your own method"),
}
"""What one may have besides the image: the question, in the order of asking, and what
to call it. A pool is of unlabelled images."""
NOTHING = "the image alone"
KEEP = "keep zero-shot"
CALLED = {"the true word": "the style's name in the prompt"}
"""What to do, where the method's name in figures does not say it."""


def leaves(
    decided: pd.DataFrame, backbones: Sequence[str], folder: str | Path = ""
) -> pd.DataFrame:
    """The leaves of the tree, in the order of asking.

    A question about images that leads to no gain is not asked: its data sets are those
    of the last branch.

    Args:
        decided: the table of `findings.decisions`.
        backbones: a leaf is about the first one that tells of it.
        folder: the study's, whose table of chapter 06 says what streams keep.

    Returns:
        asks (about the images), datasets (joined by commas), have (besides the image),
        backbone, use (what figures call the method, or `KEEP`), over (the baseline's
        name); of the half that did not choose: expect, expect_low, expect_high, n,
        broken (share that the method gets wrong and the baseline right), ece, ece_one
        (one prompt's) and surer (mean confidence less accuracy); verdict,
        seconds_per_image and one prompt's, plain_seconds_per_image; keeps (what the
        method keeps between images);
        without: what else one may have and no method gains from, joined by commas.
    """
    first = {name: position for position, name in enumerate(backbones)}
    here = decided[decided["backbone"].isin(first)]
    here = here.sort_values("backbone", key=lambda c: c.map(first), kind="stable")
    here = here.drop_duplicates(["dataset", "have"])
    haves = [*OWNED, *dict.fromkeys(here["have"])]
    rank = {have: haves.index(have) for have in haves} | {NOTHING: len(haves)}
    here = here.sort_values("have", key=lambda c: c.map(rank), kind="stable")
    kinds = {name: asks for asks, names in IMAGES.items() for name in names}
    found, plain = [], []
    for dataset in dict.fromkeys(decided["dataset"]):
        part = here[here["dataset"].eq(dataset)]
        gains = part["verdict"].eq(DECIDED[0])
        if not gains.any():
            plain.append(part)
            continue
        rows = [_leaf(row, folder) for _, row in part[gains].iterrows()]
        if rows[-1]["have"] != NOTHING:
            rows.append(_keep_leaf(part))
        rows[-1]["without"] = _short_names(part.loc[~gains, "have"])
        asks = kinds.get(dataset, f"Are they like {dataset}?")
        about = {"asks": asks, "datasets": dataset, "without": ""}
        found += [about | row for row in rows]
    order = [*IMAGES, *(leaf["asks"] for leaf in found)]
    found.sort(key=lambda leaf: order.index(leaf["asks"]))
    if any(len(part) for part in plain):
        rest = pd.concat(plain).sort_values("have", key=lambda c: c.map(rank))
        names = ", ".join(part["dataset"].iloc[0] for part in plain if len(part))
        row = {"asks": LAST if found else ALL, "datasets": names} | _keep_leaf(rest)
        found.append(row | {"without": _short_names(rest["have"].unique())})
    columns = ["asks", "datasets", "have", "backbone", "use", "over", *_NUMBERS]
    columns += ["verdict", *_SECONDS, "keeps", "without"]
    return pd.DataFrame(found, columns=columns)


_NUMBERS = ["expect", "expect_low", "expect_high", "n", "broken"]
_NUMBERS += ["ece", "ece_one", "surer"]
_SECONDS = ["seconds_per_image", "plain_seconds_per_image"]


def _leaf(row: pd.Series, folder: str | Path) -> dict:
    entry = registry.find(row["use"])
    names = {name: role for role in (ONE, ENSEMBLE) for name in registry.ledgers(role)}
    about = ["have", "backbone", "verdict", *_SECONDS]
    leaf = row.reindex([*_NUMBERS, *about]).to_dict()
    name = entry.name or row["use"]
    leaf |= {"use": CALLED.get(name, name), "over": names[row["over"]]}
    return leaf | {"keeps": _state_kept(entry, folder)}


def _short_names(haves: Iterable[str]) -> str:
    """What one may have, in short, without the image alone."""
    return ", ".join(OWNED.get(h, (h, h))[1] for h in haves if h != NOTHING)


def _keep_leaf(rows: pd.DataFrame) -> dict:
    """The leaf of one prompt: means over data sets, whatever was tried there."""
    plain = rows[rows["have"].eq(NOTHING)]
    known = {f"plain_{k}": k for k in ("ece", "surer", "seconds_per_image")}
    leaf = plain.reindex(columns=list(known)).rename(columns=known).mean().to_dict()
    leaf |= {"backbone": plain["backbone"].iloc[0], "over": ""}
    return leaf | {"have": NOTHING, "use": KEEP, "verdict": "", "keeps": "nothing"}


def _state_kept(entry: registry.Entry, folder: str | Path) -> str:
    """What a method keeps between images; "" where nobody has measured it."""
    path = Path(folder) / "tables" / "06_cost.csv"
    if entry.panel in (*ALONE, registry.NEEDS["word"].panel):
        return "nothing"
    if entry.family == "all at once":
        return "all images"
    if path.is_file():
        sizes = pd.read_csv(path).set_index("method")["kB"]
        if entry.name in sizes.index:
            return f"{sizes[entry.name]:,.0f} kB"
    return ""


def readable(found: pd.DataFrame) -> pd.DataFrame:
    """The leaves to be read: questions, points with intervals, percent.

    A column that says nothing is left out.
    """
    rows, repeated = [], found["asks"].duplicated()
    siblings = found["asks"].duplicated(keep=False)
    for at, leaf in found.iterrows():
        question = asked(leaf) or "Otherwise" * bool(siblings[at])
        row = {"your images": "" if repeated[at] else leaf["asks"], "and": question}
        row |= {"use": leaf["use"], "points gained": gained(leaf)}
        row |= {"broken": share(leaf["broken"]), "ECE": calibrated(leaf)}
        row |= {"ms an image": milliseconds(leaf["seconds_per_image"])}
        rows.append(row | {"keeps": leaf["keeps"]})
    table = pd.DataFrame(rows)
    return table.loc[:, table.ne("").any()]


def asked(leaf: Mapping) -> str:
    """The question about what one has besides the image, "" about nothing."""
    have = leaf["have"]
    return "" if have == NOTHING else OWNED.get(have, (f"Do you have {have}?",))[0]


def gained(leaf: Mapping) -> str:
    """ "+8.1 [+6.0, +10.2] over one prompt", or that no test finds a gain."""
    if leaf["use"] == KEEP:
        return "no gain found"
    points = compare.points(*(leaf[k] for k in _NUMBERS[:3]))
    return f"{points} over {leaf['over']}"


def calibrated(leaf: Mapping) -> str:
    """ "34.5% too sure (31.6%)": the error, its direction, one prompt's error."""
    parts = [share(leaf["ece"])]
    if 2 * abs(leaf["surer"]) > leaf["ece"]:  # most of the error is of one sign
        parts.append("too sure" if leaf["surer"] > 0 else "too unsure")
    one = share(leaf["ece_one"])
    return " ".join([*parts, f"({one})"] if one else parts)


def milliseconds(seconds: float) -> str:
    """ "33" or "0.4" an image, or nothing where nobody has clocked it."""
    each = 1000 * seconds
    return "" if pd.isna(each) else f"{each:.0f}" if each >= 10 else f"{each:.1f}"


def share(value: float) -> str:
    """ "4.7%", or nothing where there is none."""
    return "" if pd.isna(value) else f"{100 * value:.1f}%"
