"""What commands print: the doctor's findings, line by line, and tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field

GOOD, NOTE, LEFT_OUT, BAD = "✓", "!", "○", "✗"


@dataclass
class Report:
    """Findings as (topic, mark, text), in the order they were made."""

    lines: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, topic: str, mark: str, text: str) -> None:
        self.lines.append((topic, mark, text))

    @property
    def ok(self) -> bool:
        """Whether the study can run."""
        return all(mark != BAD for _, mark, _ in self.lines)

    def text(self) -> str:
        """The findings under their topics, and the verdict."""
        shown, last = [], None
        for topic, mark, text in self.lines:
            if topic != last:
                shown.append(topic)
                last = topic
            first, *rest = text.splitlines()
            shown.append(f"  {mark} {first}")
            shown += [f"      {line}" for line in rest]
        verdict = (
            "ready to run" if self.ok else f"not ready: see the lines marked {BAD}"
        )
        if self.ok and any(mark == LEFT_OUT for _, mark, _ in self.lines):
            verdict += f", leaving out what is marked {LEFT_OUT}"
        return "\n".join([*shown, verdict])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A line per row, columns to the left with two blanks between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (map(str.ljust, row, widths) for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)
