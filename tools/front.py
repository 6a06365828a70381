"""Write the README's findings from a run: `python tools/front.py [FOLDER]`."""

import sys
from pathlib import Path

import pandas as pd

from helpers.files import replacing
from helpers.paths import ROOT
from helpers.study.parameters import number_of

BEGIN, END = "<!-- findings: begin -->", "<!-- findings: end -->"


def findings(folder: Path, at: str) -> str:
    """Make a Markdown table of the chapters' questions and a run's answers.

    `folder` is a study's outputs, `at` its address in the README's links. Raises
    FileNotFoundError if chapter 07 has not been run.
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
    """Replace the README's text between the marks; raises ValueError without them."""
    before, found, rest = readme.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"the README lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def main(folder: str = "outputs/reference/picto") -> None:
    """Update the README's block from a folder under the repository's root."""
    path = ROOT / "README.md"
    text = renewed(path.read_text("utf-8"), findings(ROOT / folder, folder))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
