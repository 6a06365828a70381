"""Progress of long loops: a bar in terminals, a line that is updated in notebooks.

The line is one plain output. An executed notebook keeps its last state, and `study run`
shows it while the cell runs.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from tqdm import tqdm

MARK = "progress"
"""Key in an output's metadata by which `study run` recognises a progress line."""

EVERY = 1.0  # seconds between two updates of the line

T = TypeVar("T")


def track(
    iterable: Iterable[T], total: int | None = None, label: str = "working"
) -> Iterator[T]:
    """Yield the items of an iterable and show how many are done.

    `total` is the number of items, by default `len(iterable)` if it has a length.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if _in_notebook():
        yield from _lines(iterable, total, label)
    else:
        yield from tqdm(iterable, desc=label, total=total, disable=None)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _lines(iterable: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    line = None  # a short loop shows none
    began = shown = time.monotonic()
    number = 0
    of = "" if total is None else f" of {total:,}"
    try:
        for number, item in enumerate(iterable, start=1):
            yield item
            now = time.monotonic()
            if now - shown >= EVERY and number != total:
                line = _show(line, f"{label}: {number:,}{of}, {now - began:.0f} s")
                shown = now
    finally:
        if line is not None:
            done = f"{number:,}" if number == total else f"{number:,}{of}"
            _show(line, f"{label}: {done} in {time.monotonic() - began:.1f} s")


def _show(line: Any, text: str) -> Any:
    """Update the line, or display a new one if `line` is None."""
    from IPython.display import display

    content, options = {"text/plain": text}, {"raw": True, "metadata": {MARK: True}}
    if line is None:
        return display(content, display_id=True, **options)
    line.update(content, **options)
    return line
