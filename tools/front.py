"""The README's answer and tables, written from a run: `python tools/front.py`."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from helpers.files import replacing
from helpers.notebooks import files, read
from helpers.paths import NOTEBOOKS, ROOT
from helpers.results import findings, tree

MARKS = "<!-- {}: begin -->", "<!-- {}: end -->"


def chapters(found: Mapping[str, str], at: str) -> str:
    """A table in Markdown: each chapter's question, answer and minutes.

    `found` are the `findings.answers` of a run, `at` is where the README links to it.
    """
    rows = []
    for notebook in files(NOTEBOOKS):
        said = read(notebook)
        executed = f"[{said.number}]({at}/{notebook.name})"
        if not (ROOT / at / notebook.name).is_file():  # an older run
            executed = said.number
        question = f"[{said.question}](notebooks/{notebook.name})"
        answer = findings.short(found.get(said.number, "")).replace("|", "\\|")
        answer = "See above." if said.number == "07" and answer else answer
        rows.append((executed, question, answer, f"{said.minutes:g}"))
    return _table(
        ["chapter", "question", "what was found", "minutes in `make study`"], rows
    )


def leaves(folder: Path) -> str:
    """A table in Markdown: what to use when, the leaves of the decision tree."""
    decided = pd.read_csv(folder / "tables" / "07_decisions.csv")
    provenance = json.loads((folder / "provenance.json").read_text("utf-8"))
    given = provenance["07_synthesis"]["parameters"]
    backbones = given["backbone"], given["second_backbone"]
    table = tree.readable(tree.leaves(decided, backbones, folder))
    return _table(table, table.itertuples(index=False))


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    first, *rest = [f"| {' | '.join(row)} |" for row in [heads, *rows]]
    return "\n".join([first, f"|{'---|' * len(list(heads))}", *rest])


def renewed(readme: str, name: str, block: str) -> str:
    """The README with this block between the marks of this name."""
    begin, end = (mark.format(name) for mark in MARKS)
    before, found, rest = readme.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the README lacks the marks {begin} and {end}")
    return f"{before}{begin}\n{block}\n{end}{after}"


def main(folder: str = "outputs/reference/picto_full") -> None:
    """Renew the README's blocks; `folder`, a run's, is under the repository's root."""
    path = ROOT / "README.md"
    found = findings.answers(ROOT / folder / "tables")
    if "07" not in found:
        raise FileNotFoundError(f"run chapter 07 of the study in {folder}: no answer")
    text = renewed(path.read_text("utf-8"), "answer", findings.bullets(found["07"]))
    text = renewed(text, "chapters", chapters(found, folder))
    text = renewed(text, "tree", leaves(ROOT / folder))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
