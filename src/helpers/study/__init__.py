"""The `study` command: list, doctor, run, train."""

from helpers.study.checks import check
from helpers.study.command import main

__all__ = ["check", "main"]
