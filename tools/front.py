"""The README's findings, written from a run: `python tools/front.py`."""

import sys
from pathlib import Path

import pandas as pd

from helpers.files import replacing
from helpers.paths import ROOT
from helpers.study.parameters import number_of

BEGIN, END = "<!-- findings: begin -->", "<!-- findings: end -->"


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


def renewed(readme: str, block: str) -> str:
    """The README with this block between its marks."""
    before, found, rest = readme.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"the README lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def main(folder: str = "outputs/reference/picto") -> None:
    """Renew the README's block from a folder under the repository's root."""
    path = ROOT / "README.md"
    text = renewed(path.read_text("utf-8"), findings(ROOT / folder, folder))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
