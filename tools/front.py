"""The README's answer and table, written from a run: `python tools/front.py`."""

import sys
from pathlib import Path

import pandas as pd

from helpers.files import replacing
from helpers.notebooks import files, read
from helpers.paths import NOTEBOOKS, ROOT

MARKS = "<!-- {}: begin -->", "<!-- {}: end -->"


def findings(folder: Path) -> pd.Series:
    """Each chapter's answer, by its number.

    Raises FileNotFoundError where the synthesis has not been run.
    """
    path = folder / "tables" / "07_findings.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run chapter 07 of the study")
    return pd.read_csv(path, dtype=str).set_index("chapter")["answer"]


def chapters(found: pd.Series, at: str) -> str:
    """A table in Markdown: each chapter's question, answer and minutes.

    `found` are the `findings` of a run, `at` is where the README links to it.
    """
    lines = ["| chapter | question | what was found | minutes |", "|---|---|---|---|"]
    for notebook in files(NOTEBOOKS):
        said = read(notebook)
        executed = f"[{said.number}]({at}/{notebook.name})"
        question = f"[{said.question}](notebooks/{notebook.name})"
        answer = str(found.get(said.number, "")).replace("|", "\\|")
        lines.append(f"| {executed} | {question} | {answer} | {said.minutes:g} |")
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
    found = findings(ROOT / folder)
    text = renewed(path.read_text("utf-8"), "answer", found["07"])
    text = renewed(text, "chapters", chapters(found, folder))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
