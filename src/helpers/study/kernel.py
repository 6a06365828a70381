"""The kernel of `study run`: IPython's, without its user's settings and start-up files.

Profiles, the machine's /etc/ipython and PYTHONSTARTUP may load, set and print anything,
which would change what a study saves.
"""

import logging
from typing import Any

from ipykernel.kernelapp import IPKernelApp


class PlainKernelApp(IPKernelApp):
    """Starts alike for everybody."""

    def load_config_file(self, *_: Any, **__: Any) -> None:
        """Read no settings."""

    def _run_startup_files(self) -> None:
        """Run no files."""

    def initialize(self, argv: Any = None) -> None:
        """Say nothing of an interrupt while idle: each shutdown begins with one."""
        super().initialize(argv)
        self.log.addFilter(_no_idle_interrupt)


def _no_idle_interrupt(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("KeyboardInterrupt caught in kernel")


if __name__ == "__main__":
    PlainKernelApp.launch_instance()
