"""Published accuracies, to hold our own against.

`published_results.csv` quotes papers and project pages in percent, source by source;
one number may come from several sources, and they need not agree. Qualifiers are kept
in brackets, as in "ViT-B/16 (reward L/14)" or "EuroSAT (27k)"; a "?" marks a backbone
that the source leaves open.
"""

from importlib.resources import files

import pandas as pd


def table() -> pd.DataFrame:
    """All published numbers: method, backbone, dataset, top1, ece, source.

    `top1` and `ece` are fractions, as everywhere in this package; `ece` is mostly NaN.
    """
    with (files(__package__) / "published_results.csv").open(encoding="utf-8") as file:
        frame = pd.read_csv(file)
    percent = ["top1", "ece"]
    frame[percent] = (frame[percent] / 100).round(6)
    return frame


def behaviour() -> dict[str, str]:
    """Measure of a behaviour card -> what is published of OpenAI's CLIPs, and where."""
    with (files(__package__) / "published_behaviour.csv").open(
        encoding="utf-8"
    ) as file:
        frame = pd.read_csv(file, dtype=str)
    return {
        row.measure: f"{row.value} ({row.about}; {row.source})"
        for row in frame.itertuples()
    }


def key(name: str) -> str:
    """One spelling of a name of a data set or backbone, to compare by.

    'ViT-B/16 (reward L/14)', 'ViT-B-16-quickgelu', 'vit-b-16' -> 'vitb16'.
    """
    stem = name.partition("(")[0].casefold().strip().removesuffix("-quickgelu")
    return "".join(sign for sign in stem if sign.isalnum() or sign == "?")


def lookup(dataset: str, backbone: str = "") -> pd.DataFrame:
    """The rows of `table` for a data set and backbone of ours, in the file's order; for
    any backbone if none is given.

    Case, hyphens, slashes, "-quickgelu" and bracketed qualifiers do not count, so that
    `lookup("imagenet-a", "ViT-B-16-quickgelu")` finds "ImageNet-A", "ViT-B/16". Where
    nothing is published, as for drawn or own pictures, the frame is empty.
    """
    frame = table()
    wanted = frame["dataset"].map(key) == key(dataset)
    if backbone:
        wanted &= frame["backbone"].map(key) == key(backbone)
    return frame[wanted].reset_index(drop=True)


def beside(results: pd.DataFrame) -> pd.DataFrame:
    """Published zero-shot and 80-prompt rows of the data sets in a results table.

    `ours` is our accuracy with the same data set, backbone and prompts, NaN where we
    have none. `results` has the columns dataset, backbone, method, top1.
    """
    rows = [lookup(name).assign(dataset=name) for name in results["dataset"].unique()]
    rows = pd.concat(rows)
    rows = rows[rows["method"].str.match("CLIP (zero-shot|ensemble 80)")]
    ours = {
        (row.dataset, key(row.backbone), row.method): row.top1
        for row in results.itertuples()
    }
    prompts = rows["method"].str.contains("ensemble")
    prompts = prompts.map({True: "ensemble_80", False: "zero_shot_photo"})
    cells = zip(rows["dataset"], rows["backbone"].map(key), prompts, strict=True)
    return rows.assign(ours=[ours.get(cell) for cell in cells]).reset_index(drop=True)
