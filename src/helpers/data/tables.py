"""Text and tables that users write by hand or save from a spreadsheet program."""

import csv
import re
from pathlib import Path

from helpers.words import composed

Row = dict[str, str | None]


def text(path: Path) -> str:
    """The text of a file in UTF-8 or, with its mark, UTF-16.

    Raises ValueError for what is no file and for other encodings.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file: put one there, or remove it")
    content = path.read_bytes()
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "CSV " if path.suffix.lower() == ".csv" else ""
        raise ValueError(f"{path} is not UTF-8: save it as {kind}UTF-8") from error


def rows(path: Path, *columns: str) -> list[Row]:
    """The rows of a table that must have `columns`, whichever else it has.

    Between the cells are commas, semicolons or tabs. Titles of columns come in lower
    case. Raises ValueError for other columns, and for a row with more cells than
    titles.
    """
    first, *rest = lines = text(path).splitlines(keepends=True) or [""]
    if re.fullmatch(r"sep=.\s*", first):  # a hint to Excel
        first, *_ = lines = rest or [""]
    delimiter = max(",;\t", key=first.count)
    try:
        reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
        header = reader.fieldnames or []
        reader.fieldnames = [composed(title).casefold() for title in header]
        found = list(reader)
    except csv.Error as error:
        raise ValueError(f"{path} is not comma-separated text: {error}") from error
    if not set(columns) <= set(reader.fieldnames):
        raise ValueError(
            f"{path} must be comma-separated with a header {','.join(columns)!r}; "
            f"its header is {header}"
        )
    for row in found:
        if any(cell.strip() for cell in row.get(None) or ()):
            raise ValueError(
                f"{path}: the row of {columns[0]} {row[columns[0]]!r} has more cells "
                f"than the header: put a name with {delimiter!r} in it into quotes"
            )
    return found
