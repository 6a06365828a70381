"""The README's chapters and findings, written from a run: `python tools/front.py`."""

import sys
from pathlib import Path

import pandas as pd

from helpers.files import replacing
from helpers.notebooks import files, number_of, read
from helpers.paths import NOTEBOOKS, ROOT

MARKS = "<!-- {}: begin -->", "<!-- {}: end -->"


def findings(folder: Path, at: str) -> str:
    """A table in Markdown: what each chapter asked, and what this run answers.

    `folder` is a study's outputs, `at` where the README links to them. Raises
    FileNotFoundError where the last chapter has not been run.
    """
    path = folder / "tables" / "07_findings.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run chapter 07 of the study")
    lines = ["| chapter | question | what was found |", "|---|---|---|"]
    chapters = {number_of(p.stem): p.name for p in folder.glob("*.ipynb")}
    for row in pd.read_csv(path, dtype=str).itertuples():
        number = number_of(row.chapter)
        link = f"[{number}]({at}/{chapters[number]})"
        cells = (text.replace("|", "\\|") for text in (link, row.question, row.answer))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def chapters() -> str:
    """A table in Markdown: each notebook, its question, and how long it takes."""
    lines = ["| notebook | question | minutes |", "|---|---|---|"]
    for path in files(NOTEBOOKS):
        said = read(path)
        link = f"[{path.stem}](notebooks/{path.name})"
        lines.append(f"| {link} | {said.question} | {said.minutes:g} |")
    return "\n".join(lines)


def renewed(readme: str, name: str, block: str) -> str:
    """The README with this block between the marks of this name."""
    begin, end = (mark.format(name) for mark in MARKS)
    before, found, rest = readme.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the README lacks the marks {begin} and {end}")
    return f"{before}{begin}\n{block}\n{end}{after}"


def main(folder: str = "outputs/reference/picto") -> None:
    """Renew the README's blocks; `folder`, a run's, is under the repository's root."""
    path = ROOT / "README.md"
    text = renewed(path.read_text("utf-8"), "chapters", chapters())
    text = renewed(text, "findings", findings(ROOT / folder, folder))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
