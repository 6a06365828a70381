"""The kernel of `study run`: IPython's, without its user's settings and start-up files.

Profiles, the machine's /etc/ipython and PYTHONSTARTUP may load, set and print anything,
which would change what a study saves.
"""

from typing import Any

from ipykernel.kernelapp import IPKernelApp


class PlainKernelApp(IPKernelApp):
    """Starts alike for everybody."""

    def load_config_file(self, *_: Any, **__: Any) -> None:
        """Read no settings."""

    def _run_startup_files(self) -> None:
        """Run no files."""


if __name__ == "__main__":
    PlainKernelApp.launch_instance()
