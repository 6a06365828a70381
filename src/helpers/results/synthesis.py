"""All methods of a study compared: which one gains, on which images, at what cost?

Everything here is computed from a study's ledgers. Chapters use samples of different
sizes, and accuracies of different images must not be compared. So two ledgers are
compared on the images that both contain, paired by id, and all numbers of a row are
about the same images.

A gain is a paired difference in top-1 accuracy. Whether it is one, the test of
`protocol` says.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from scipy.stats import kendalltau

from helpers.methods import registry
from helpers.methods.registry import ENSEMBLE, ONE
from helpers.results import compare, metrics, predictions


class Key(NamedTuple):
    """The data set, backbone, method and seed of a ledger."""

    dataset: str
    backbone: str
    method: str
    seed: int = 0


PANELS = {need.panel: need.phrase for need in registry.NEEDS.values()}
ALONE = tuple(
    need.panel
    for need in registry.NEEDS.values()
    if need.given == registry.NEEDS["image"].given
)
"""The panels of methods that need nothing besides the image."""

Scores = dict[Key, pd.DataFrame]


def load(folder: str | Path) -> Scores:
    """Per-image scores of every ledger below a study's folder.

    Frames have the index image_id and the columns label, prediction, hit, confidence
    and nll; `.attrs["seconds_per_image"]` is the ledger's.
    """
    found = {}
    for ledger in predictions.read_all(folder):
        images = metrics.scores(predictions.logits(ledger), ledger["label"])
        images = images[["prediction", "hit", "confidence", "nll"]]
        images.insert(0, "label", ledger["label"])
        images.index = pd.Index(ledger["image_id"], dtype=object, name="image_id")
        images.attrs = {"seconds_per_image": ledger.attrs["seconds_per_image"]}
        found[key_of(ledger)] = images
    if not found:
        raise FileNotFoundError(
            f"no ledgers in {Path(folder).name}/predictions: run chapter 01 of this "
            f"study first, study run {Path(folder).name} --only 01"
        )
    return found


def key_of(ledger: pd.DataFrame) -> Key:
    """Which run a ledger is of."""
    names = ("dataset", "backbone", "method", "seed")
    return Key(*(ledger.attrs[name] for name in names))


def missing(scores: Scores) -> list[str]:
    """The numbers of the chapters without a ledger among these."""
    chapters = {entry.chapter for entry in registry.entries().values()}
    left = {registry.find(key.method).chapter for key in scores}
    return sorted(chapters - left - {""})


def in_order(found: Iterable[str], wanted: Sequence[str]) -> list[str]:
    """Each found name once: the wanted ones in their order, then the others."""
    found = list(dict.fromkeys(found))
    return [n for n in wanted if n in found] + [n for n in found if n not in wanted]


def main_recipe(scores: Iterable[Key]) -> str:
    """The view recipe of most ledgers METHOD-RECIPE; of equals, the first by name.

    Only ledgers of registered methods count.
    """
    ours = [key.method for key in scores if registry.find(key.method).key]
    counts = Counter(m.partition("-")[2] for m in ours if "-" in m)
    return min(counts, key=lambda recipe: (-counts[recipe], recipe), default="")


def display_name(method: str, recipe: str) -> str:
    """A ledger's name in figures; "" for variants that figures do not show."""
    if not registry.find(method).key:
        return method
    stem, _, views = method.partition("-")
    shown = stem if views == recipe else method
    entry = registry.find(shown)
    return entry.name if entry.speaker == shown else ""


def seeds(scores: Scores, dataset: str, backbone: str, method: str) -> list[Key]:
    """The ledgers of a method on a data set, by their seed."""
    found = [  # most keys differ in the method
        key
        for key in scores
        if key.method == method and (key.dataset, key.backbone) == (dataset, backbone)
    ]
    return sorted(found)


def baseline(scores: Scores, key: Key, names: Sequence[str]) -> pd.DataFrame | None:
    """Of the baselines of these names, the one that shares most images with a ledger.

    Of equals, the first name counts; of its seeds, the ledger's own, else the lowest.
    None if the ledger shares no image with any.
    """
    best, most = None, 0
    for name in names:
        fitting = seeds(scores, key.dataset, key.backbone, name)
        if not fitting:
            continue
        chosen = min(fitting, key=lambda k: (k.seed != key.seed, k.seed))
        shared = len(scores[key].index.intersection(scores[chosen].index))
        if shared > most:
            best, most = scores[chosen], shared
    return best


def widest(scores: Scores, about: Key, names: Sequence[str]) -> Key | None:
    """The ledger with most images among those of these names, data set and backbone.

    Of equals, the first; None if there is none.
    """
    at = about.dataset, about.backbone
    found = [key for name in names for key in seeds(scores, *at, name)]
    return max(found, key=lambda k: len(scores[k]), default=None)


def shared(*frames: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of images that all frames contain, in the order of the first frame.

    Raises:
        ValueError: an image has different labels in two frames.
    """
    images = frames[0].index
    for frame in frames[1:]:
        if not images.equals(frame.index):
            images = images[images.isin(frame.index)]
    aligned = [f if f.index.equals(images) else f.loc[images] for f in frames]
    labels = aligned[0]["label"].to_numpy()
    for frame in aligned[1:]:
        differing = images[frame["label"].to_numpy() != labels]
        if len(differing):
            raise ValueError(
                f"{len(differing)} images have other labels in another ledger, first "
                f"{differing[0]!r}: run the chapters that wrote them again"
            )
    return aligned


def difference(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, float]:
    """`compare.paired_difference` of two frames on the images that both hold."""
    a, b = shared(a, b)
    if a.empty:
        raise ValueError("two ledgers that share no image cannot be compared")
    return compare.paired_difference(a["hit"], b["hit"])


def calibration(images: pd.DataFrame) -> dict[str, float]:
    """ece (bins of equal width, as in `metrics`) and nll (nats) of per-image scores."""
    return {"ece": metrics.calibration_of(images), "nll": images["nll"].mean()}


def leaderboard(scores: Scores, datasets: Sequence[str] = ()) -> pd.DataFrame:
    """Every ledger against its two baselines, on the images that all three contain.

    Args:
        scores: what `load` gives.
        datasets: the order of data sets; others follow.

    Returns:
        A row per ledger; of the ledgers of the single prompt one row, the first of
        chapter. dataset, backbone, panel, family, method, name (what figures call
        it, "" for variants), headline (is it of the protocol, and its lowest seed?),
        seed, n, top1; against one prompt gain, gain_low, gain_high, wins, losses, and
        gain_p_holm, gain_detectable and gain_verdict of `compare.corrected`, the
        headline rows of the board being the family: of other rows they are empty;
        against the ensemble over, over_low and so on; ece, nll, seconds_per_image.
        Where there is no baseline, or the row is one, its columns are empty.
    """
    recipe = main_recipe(scores)
    rows = [_row(scores, key, recipe) for key in scores if _is_listed(scores, key)]
    found = [parts for parts in rows if parts]
    board = pd.DataFrame([parts[""] for parts in found])
    for prefix in ("gain", "over"):
        paired = pd.DataFrame([parts.get(prefix, {}) for parts in found])
        paired = paired.reindex(columns=_PAIRED)
        paired["p"] = paired["p"].where(board["headline"])
        paired = compare.corrected(paired)
        if prefix == "gain":
            board[["wins", "losses"]] = paired[["wins", "losses"]]
        for end, column in OUTCOME.items():
            board[prefix + end] = paired[column]
    ranks = {n: i for i, n in enumerate(in_order(board["dataset"], datasets))}
    ranks |= {n: i for i, n in enumerate(PANELS)}
    board = board.sort_values(
        ["dataset", "backbone", "panel", "gain"],
        key=lambda c: c.map(ranks) if c.name in ("dataset", "panel") else c,
        ascending=[True, True, True, False],
        kind="stable",
    )
    return board[list(_COLUMNS)].reset_index(drop=True)


_PAIRED = ["n", "difference", "ci_low", "ci_high", "wins", "losses", "p", "se"]
OUTCOME = {"": "difference", "_low": "ci_low", "_high": "ci_high", "_p_holm": "p_holm"}
OUTCOME |= {"_detectable": "detectable", "_verdict": "verdict"}
_COLUMNS = (
    *("dataset", "backbone", "panel", "family", "method", "name", "headline"),
    *("seed", "n", "top1", *(f"gain{end}" for end in OUTCOME), "wins", "losses"),
    *(f"over{end}" for end in OUTCOME),
    *("ece", "nll", "seconds_per_image"),
)


def _is_listed(scores: Scores, key: Key) -> bool:
    """False for a ledger of the single prompt if an earlier chapter has one."""
    single = registry.ledgers(ONE)
    if key.method not in single:
        return True
    earlier = single[: single.index(key.method)]
    return not any(k[:2] == key[:2] and k.method in earlier for k in scores)


def _row(scores: Scores, key: Key, recipe: str) -> dict[str, dict] | None:
    """A ledger's row "", and its pair of each outcome; nothing without images."""
    baselines = {name: registry.ledgers(name) for name in (ONE, ENSEMBLE)}
    found = {k: baseline(scores, key, names) for k, names in baselines.items()}
    found = {name: frame for name, frame in found.items() if frame is not None}
    images, *others = shared(scores[key], *found.values())
    if images.empty:
        return None
    entry, name = registry.find(key.method), display_name(key.method, recipe)
    lowest = key == seeds(scores, *key[:3])[0]
    row: dict[str, object] = {"dataset": key.dataset, "backbone": key.backbone}
    row |= {"panel": entry.panel, "family": entry.family, "method": key.method}
    row |= {"name": name, "headline": bool(name) and entry.headline and lowest}
    row |= {"seed": key.seed, "n": len(images), "top1": images["hit"].mean()}
    seconds = scores[key].attrs["seconds_per_image"]
    parts: dict[str, dict] = {
        "": row | calibration(images) | {"seconds_per_image": seconds}
    }
    for against, other in zip(found, others, strict=True):
        if key.method not in baselines[against]:
            pair = compare.paired_difference(images["hit"], other["hit"])
            parts["gain" if against == ONE else "over"] = pair
    return parts


def shown(board: pd.DataFrame, backbones: Sequence[str] = ()) -> pd.DataFrame:
    """The rows that figures show: each data set's spokesmen, lowest seed, one backbone.

    Of a method's ledgers, the first backbone in `backbones` and the lowest seed count.
    """
    rows = board[board["name"].ne("") & board["gain"].notna()]
    order = {n: i for i, n in enumerate(in_order(rows["backbone"], backbones))}
    rows = rows.assign(rank=rows["backbone"].map(order))
    rows = rows.sort_values(["rank", "seed"], kind="stable")
    rows = rows.drop_duplicates(["dataset", "name"]).sort_index()
    return rows.drop(columns="rank").reset_index(drop=True)


def readable(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a leaderboard to be read: points with intervals, * gains or loses."""

    def cell(row: pd.Series, value: str) -> str:
        if pd.isna(row[value]):
            return ""
        middle, low, high = (100 * row[f"{value}{k}"] for k in ("", "_low", "_high"))
        star = "*" if row[f"{value}_verdict"] in compare.DECIDED else ""
        return f"{middle:+.1f}{star} [{low:.1f}, {high:.1f}]"

    heads = {"panel": "group", "name": "method", "n": "images", "top1": "accuracy"}
    table = rows[["panel", "name", "backbone", "n", "top1"]].rename(columns=heads)
    for value, against in (("gain", ONE), ("over", ENSEMBLE)):
        cells = [cell(row, value) for _, row in rows.iterrows()]
        table[f"points over {against}"] = pd.Series(cells, rows.index, dtype=object)
    table["detectable (points)"] = 100 * rows["gain_detectable"]
    table[["ECE", "NLL (nats)"]] = rows[["ece", "nll"]]
    return table.assign(**{"ms per image": 1000 * rows["seconds_per_image"]})


def tested(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a leaderboard about headline methods and your own."""
    return rows[rows["headline"] | (rows["family"].eq("own") & rows["name"].ne(""))]


LABELLED = ("vote of views", "TPT", "AutoCLIP", "captions", "TDA", "LaFTer")
"""What figures tell apart: the methods that chapters 02 to 06 are about."""
COMMON = 100
"""Images in common that a labelled method must leave, if it has seen so many."""


def on_equal_images(
    scores: Scores,
    board: pd.DataFrame,
    dataset: str,
    backbone: str,
    labelled: Sequence[str] = LABELLED,
) -> pd.DataFrame:
    """What the tested methods gain over one prompt, all on the same images.

    These are the images that one prompt and the labelled methods have seen; a labelled
    method that would leave fewer than `COMMON` of them is left out. Another method is
    there if it has seen all of them. A price is the median over the data sets of the
    seconds per image, each at least those of one prompt, since every method reads and
    encodes the image.

    Returns:
        dataset, backbone, name, method, family, panel, labelled, seconds, top1 (of one
        prompt) and the columns of `compare.paired_difference`. They carry no verdict:
        the protocol's tests are about all images that a method has seen.
    """
    rows = tested(board)[lambda b: b["backbone"].eq(backbone) & b["gain"].notna()]
    prices = priced(board, backbone)
    rows = rows[rows["dataset"].eq(dataset)].drop_duplicates("name")
    one = widest(scores, Key(dataset, backbone, ""), registry.ledgers(ONE))
    if one is None or rows.empty:
        return pd.DataFrame()
    ledgers = {
        row.name: scores[Key(dataset, backbone, row.method, row.seed)]
        for row in rows.itertuples()
    }
    common = scores[one].index
    for name in [name for name in labelled if name in ledgers]:
        both = common.intersection(ledgers[name].index)
        if len(both) < min(COMMON, len(ledgers[name])):
            del ledgers[name]
        else:
            common = both
    plain, found = scores[one].loc[common, "hit"], []
    for row in rows.itertuples():
        if row.name in ledgers and common.isin(ledgers[row.name].index).all():
            pair = ledgers[row.name].loc[common, "hit"], plain
            about = {"dataset": dataset, "backbone": backbone, "name": row.name}
            about |= {"method": row.method, "family": row.family, "panel": row.panel}
            about |= {"labelled": row.name in labelled, "top1": plain.mean()}
            about |= {"seconds": prices[row.method]}
            found.append(about | compare.paired_difference(*pair))
    return pd.DataFrame(found)


def overruled(
    folder: str | Path, board: pd.DataFrame, claimed: pd.DataFrame
) -> pd.DataFrame:
    """Verdicts of chapters' own tables that the tests of this study do not share.

    Those of the protocol are against one prompt, those of exploratory claims against
    the claim's baseline. A chapter corrects for the comparisons of its table.

    Args:
        claimed: of `findings.claims`.

    Returns:
        chapter, dataset, backbone, name, baseline, n and verdict of the chapter's
        table, here_n and here_verdict. Verdicts come without the difference that would
        be seen.
    """
    rows = tested(board)[lambda b: b["gain"].notna()]
    recipe = main_recipe(Key("", "", method) for method in board["method"])
    about = ["dataset", "backbone", "name"]
    here = {"n": "here_n", "verdict": "here_verdict", "gain_verdict": "here_verdict"}
    ours = rows[[*about, "n", "gain_verdict"]].rename(columns=here)
    columns = ["chapter", *about, "method", "baseline", "n", "verdict"]
    parts = [pd.DataFrame(columns=columns)]
    for path in sorted((Path(folder) / "tables").glob("*.csv")):
        table = pd.read_csv(path)
        if not {"dataset", "backbone", "method", "baseline", "verdict"} <= set(table):
            continue
        if "views" in table:
            table = table[table["views"].isna() | table["views"].eq(recipe)]
        if "seed" in table:
            table = table[table["seed"].eq(table["seed"].min())]
        called = table["method"].map(lambda method: display_name(method, recipe))
        table = table.assign(name=called, chapter=path.name.partition("_")[0])
        parts.append(table[columns])
    tables = pd.concat(parts)
    single = tables["baseline"].isin(registry.ledgers(ONE))
    pairs = [tables[single].merge(ours, on=about)]
    if len(claimed):
        told = claimed[claimed["exploratory"]].explode("against")
        told = told.rename(columns=here | {"against": "baseline"})
        alike = ["dataset", "backbone", "method", "baseline"]
        told = told[[*alike, "here_n", "here_verdict"]]
        pairs.append(tables.merge(told, on=alike))
    both = pd.concat(pairs).drop(columns="method")
    for verdict in ("verdict", "here_verdict"):
        both[verdict] = both[verdict].str.split(" (", regex=False).str[0]
    return both[both["verdict"].ne(both["here_verdict"])].drop_duplicates()


def priced(board: pd.DataFrame, backbone: str) -> pd.Series:
    """The seconds per image of each method, as `on_equal_images` says."""
    rows = board[board["backbone"].eq(backbone)]
    single = rows[rows["method"].isin(registry.ledgers(ONE))]
    floor = single.groupby("dataset")["seconds_per_image"].first()
    seconds = np.fmax(rows["seconds_per_image"], rows["dataset"].map(floor))
    return seconds.groupby(rows["method"]).median()


def telling(rows: pd.DataFrame, first: str, most: int = 3) -> list[str]:
    """The data sets to draw: the first, then those of the greatest gains in `rows`.

    Of a data set counts the greatest lower bound of a gain over one prompt.
    """
    best = rows.groupby("dataset", sort=False)["gain_low"].max()
    best = best.drop(first, errors="ignore").sort_values(ascending=False, kind="stable")
    return [*[first] * (first in set(rows["dataset"])), *best.index][:most]


def agreement(scores: Scores, keys: Mapping[str, Key]) -> pd.DataFrame:
    """Shares of the common images on which two methods predict the same.

    `keys` names the ledgers. Returns [methods, methods], NaN without a common image.
    """
    table = pd.DataFrame(np.nan, index=list(keys), columns=list(keys))
    for a, b in combinations(keys, 2):
        one, other = shared(scores[keys[a]], scores[keys[b]])
        same = (one["prediction"] == other["prediction"]).mean()
        table.loc[a, b] = table.loc[b, a] = same
    for name in keys:
        table.loc[name, name] = 1.0
    return table


def clustered(shares: pd.DataFrame) -> pd.DataFrame:
    """Shares of `agreement` with methods that agree side by side.

    Average linkage of the shares of different predictions, leaves in optimal order.
    """
    if len(shares) < 3:
        return shares
    apart = 1 - shares.fillna(shares.min(axis=None)).to_numpy()
    linked = hierarchy.linkage(squareform(apart), "average", optimal_ordering=True)
    order = hierarchy.leaves_list(linked)
    return shares.iloc[order, order]


def rescued_and_broken(
    scores: Scores, keys: Sequence[Key], reference: Key
) -> pd.DataFrame:
    """For each image of `reference`, how many methods correct or break its prediction.

    Columns: rescued, the methods that are right where the reference is wrong; broken,
    the reverse; of, the methods whose ledgers contain the image.
    """
    base = scores[reference]
    table = pd.DataFrame(0, index=base.index, columns=["rescued", "broken", "of"])
    for key in keys:
        one, plain = shared(scores[key], base)
        table.loc[one.index, "rescued"] += (one["hit"] & ~plain["hit"]).astype(int)
        table.loc[one.index, "broken"] += (~one["hit"] & plain["hit"]).astype(int)
        table.loc[one.index, "of"] += 1
    return table


def extremes(outcomes: pd.DataFrame, most: int = 6) -> pd.DataFrame:
    """The images that most methods rescue, then those that most methods break.

    As many of either, where there are both; only images in the largest number of
    ledgers count. Returns the rows of `rescued_and_broken` with a column `told`, such
    as "7 of 11 rescue it".
    """
    outcomes = outcomes[outcomes["of"] == outcomes["of"].max()]
    there = [(outcomes[column] > 0).sum() for column in ("rescued", "broken")]
    most = min([most, *filter(None, there)])
    parts = []
    for column, verb in (("rescued", "rescue"), ("broken", "break")):
        part = outcomes[outcomes[column] > 0].nlargest(most, column)
        counts = part[column].astype(str) + " of " + part["of"].astype(str)
        parts.append(part.assign(told=counts + f" {verb} it"))
    return pd.concat(parts)


def rank_correlation(a: pd.Series, b: pd.Series) -> dict[str, float]:
    """Kendall's tau-b of two rankings of the methods that both contain.

    Returns tau, p (two-sided), low and high (95 %, of resampled methods, another choice
    of methods being another sample) and methods; all but these are NaN with fewer than
    four.
    """
    a, b = a.dropna().sort_index().align(b.dropna().sort_index(), join="inner")
    tau = p = low = high = np.nan
    if len(a) >= 4:
        tau, p = kendalltau(a, b)
        taus = _resampled_taus(np.column_stack([a, b]).astype(float))
        if len(taus):
            low, high = np.quantile(taus, [0.025, 0.975])
    found = {"tau": float(tau), "p": float(p), "low": float(low), "high": float(high)}
    return found | {"methods": len(a)}


def _resampled_taus(pairs: np.ndarray, draws: int = 2000) -> np.ndarray:
    """Kendall's tau-b of resampled rows of [N, 2]; without draws that have none.

    Of rows drawn c_i times: sum c_i c_j s_ij t_ij, s and t being the signs of the
    differences, over the geometric mean of the same sums of s^2 and of t^2.
    """
    times = compare.draws(np.random.default_rng(0), len(pairs), draws)
    s, t = np.sign(pairs.T[:, :, None] - pairs.T[:, None, :])
    sums = [((times @ signs) * times).sum(axis=1) for signs in (s * t, s * s, t * t)]
    known = (sums[1] > 0) & (sums[2] > 0)
    return sums[0][known] / np.sqrt(sums[1][known] * sums[2][known])


def transfer(rows: pd.DataFrame, backbone: str) -> pd.DataFrame:
    """Rank correlation of the methods' gains between every two data sets.

    Columns: dataset, other, and those of `rank_correlation`; each pair once.
    """
    rows = rows[rows["backbone"] == backbone]
    gains = rows.pivot_table("gain", "name", "dataset", sort=False)
    table = [
        {"dataset": b, "other": a, **rank_correlation(gains[a], gains[b])}
        for a, b in combinations(gains, 2)
    ]
    columns = ["dataset", "other", "tau", "p", "low", "high", "methods"]
    return pd.DataFrame(table, columns=columns)


def tempered(folder: str | Path, rows: pd.DataFrame, first: str) -> pd.DataFrame:
    """Calibration before and after temperature scaling, fitted on other images.

    For every method of `rows` with a ledger on the data set `first`, the temperature is
    fitted there and applied to the method's ledgers on all other data sets. The numbers
    of a data set and backbone are about the images that all its ledgers contain.

    Returns:
        dataset, backbone, method, name, family, panel, n, top1, temperature, ece,
        ece_low, ece_high (95 %, of 1,000 resamples of the images), nll; the same after
        it as ece_t and so on; empty where `first` is the only data set.
    """

    def read(row: pd.Series, dataset: str) -> pd.DataFrame:
        about = row["backbone"], row["method"], row["seed"]
        path = predictions.ledger_path(folder, dataset, *about)
        return predictions.read(path) if path.is_file() else pd.DataFrame()

    table, fitted = [], {}
    others = rows[rows["dataset"] != first]
    for _, part in others.groupby(["dataset", "backbone"], sort=False):
        ledgers = {}
        for at, row in part.iterrows():
            about = (row["backbone"], row["method"], row["seed"])
            if about not in fitted:
                known = read(row, first)
                enough = len(known) >= metrics.FEWEST
                fitted[about] = enough and metrics.fit_temperature(
                    predictions.logits(known), known["label"]
                )
            if fitted[about]:
                ledgers[at] = read(row, row["dataset"]).set_index("image_id")
        if not ledgers:
            continue
        held = set.intersection(*(set(ledger.index) for ledger in ledgers.values()))
        for at, ledger in ledgers.items():
            row = part.loc[at]
            t = fitted[row["backbone"], row["method"], row["seed"]]
            ledger = ledger[ledger.index.isin(held)]
            if ledger.empty:
                continue
            x = predictions.logits(ledger).astype(float)
            plain, soft = (metrics.scores(z, ledger["label"]) for z in (x, x / t))
            numbers = {"n": len(ledger), "top1": plain["hit"].mean(), "temperature": t}
            before, after = _with_interval(plain), _with_interval(soft)
            after = {f"{k}_t": v for k, v in after.items()}
            table.append({**row, **numbers, **before, **after})
    columns = ["dataset", "backbone", "method", "name", "family", "panel", "n", "top1"]
    errors = ["ece", "ece_low", "ece_high", "nll"]
    columns += ["temperature", *errors, *(f"{name}_t" for name in errors)]
    return pd.DataFrame(table, columns=columns)


def _with_interval(images: pd.DataFrame, resamples: int = 1000) -> dict[str, float]:
    """`calibration`, and the bootstrap interval of its ece as ece_low and ece_high."""
    count, member = len(images), metrics.confidence_bin(images["confidence"])
    gaps = np.zeros((count, metrics.BINS))
    gaps[np.arange(count), member] = images["hit"] - images["confidence"]
    drawn = compare.draws(np.random.default_rng(0), count, resamples)
    errors = np.abs(drawn @ gaps).sum(axis=1) / count
    low, high = np.quantile(errors, [0.025, 0.975])
    return calibration(images) | {"ece_low": float(low), "ece_high": float(high)}
