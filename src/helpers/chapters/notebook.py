"""The start of every chapter, and the `Run` through which it saves its results."""

import inspect
import logging
import os
import platform
import random
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib_inline.config import InlineBackend
from numpy.typing import ArrayLike
from pandas.io.formats.style import Styler

from helpers import figures
from helpers.data import embedded
from helpers.data.dataset import Dataset
from helpers.files import note
from helpers.models.clip import Backbone, resolve_device
from helpers.models.optional import MissingModel
from helpers.paths import (
    OUTPUTS,
    PARAMS,
    ROOT,
    in_repository,
    number_of,
    require_checkout,
)
from helpers.results import names, predictions
from helpers.study.checks import check
from helpers.study.parameters import INCLUDE, fill

PACKAGES = ("torch", "open_clip_torch", "numpy", "pillow")
NEEDS = re.compile(r"#\| needs: ([\w, ]+)")
NOISY = ("huggingface_hub", "transformers", "sentence_transformers", "timm", "httpx")


@dataclass(frozen=True)
class Run:
    """A run of one chapter of one study. Everything it saves lies in `folder`."""

    chapter: str  # "01_zero_shot"
    study: str
    folder: Path
    seed: int
    device: torch.device

    def figure(self, name: str, fig: Figure, data: pd.DataFrame) -> None:
        """Show a figure, and save it beside the numbers it was drawn from, as
        `figures/NN_name`."""
        figures.save(self.folder, self._file(name), fig, data)
        display(fig)
        plt.close(fig)

    def table(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Save a table as `tables/NN_name.csv`; returned so that the cell shows it."""
        figures.save_table(self.folder, self._file(name), frame)
        return frame

    def _file(self, name: str) -> str:
        """`NN_name`, with "_" for characters that file names should not have."""
        plain = re.sub(r"[^\w-]", "_", name)
        return f"{number_of(self.chapter)}_{plain}"

    def predictions(
        self,
        method: str,
        dataset: Dataset,
        backbone: Backbone,
        logits: ArrayLike,
        seconds_per_image: float,
        settings: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Write a method's ledger, and note data and weights in the provenance.

        Args:
            logits: [N, C] in the order of `dataset.ids`.
            settings: what the method was run with, as JSON can say it.

        Returns:
            The ledger, see `predictions.read`.
        """
        ledger = predictions.write(
            self.folder,
            dataset=dataset.name,
            backbone=backbone.name,
            method=method,
            ids=dataset.ids,
            labels=dataset.labels,
            logits=logits,
            seconds_per_image=seconds_per_image,
            settings={
                "weights": backbone.weights,
                "weights_hash": backbone.fingerprint,
                "data_hash": dataset.fingerprint,
                "precision": backbone.precision,
                **(settings or {}),
            },
            seed=self.seed,
        )
        facts = {"data": {dataset.name: dataset.fingerprint}}
        facts["weights"] = {backbone.name: backbone.fingerprint}
        note(self.folder, self.chapter, facts)
        return ledger

    def optional(self, load: Callable[..., Any], *arguments: Any) -> Any:
        """`load(*arguments)`, or None if it needs a model that is not available.

        Prints and notes what is missing and how to get it. Cells that begin with
        `#| needs: NAME` are then left out: see `leave_out_unmet_cells`.
        """
        try:
            return load(*arguments)
        except MissingModel as missing:
            print(f"Left out below, what needs it: {missing.remedy}.")
            note(self.folder, self.chapter, {"left_out": {missing.key: missing.remedy}})
            return None

    def collect(self) -> pd.DataFrame:
        """Write `results.csv` from all ledgers of the study, and return it."""
        return predictions.collect(self.folder)


def start(chapter: str, namespace: dict[str, Any]) -> Run:
    """Check the parameters, seed all generators, print and record what runs where.

    Args:
        chapter: the notebook's name, such as "01_zero_shot".
        namespace: the notebook's `globals()`. Its parameters are the names that the
            parameters cell annotates, study, seed and device among them. Where it has
            an `include`, values of that parameter file are filled in.

    Raises:
        ValueError: lists every parameter of a wrong type or an impossible value.

    The note goes to `provenance.json` in the study's folder, under the chapter's name.
    """
    require_checkout()
    types = _declared(namespace)
    types.pop(INCLUDE, None)
    fill(namespace, number_of(chapter), types, PARAMS)
    parameters = {key: namespace[key] for key in types}
    check(parameters, chapter, types)
    study, seed, device = (parameters[key] for key in ("study", "seed", "device"))
    quiet_libraries()
    reset_display_options()
    leave_out_unmet_cells()
    name_data_sets()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  scikit-learn draws from it
    torch.manual_seed(seed)
    run = Run(chapter, study, OUTPUTS / study, seed, resolve_device(device))
    facts = {**provenance(run.device), "parameters": parameters}
    note(run.folder, chapter, facts, afresh=True)
    file = PARAMS / f"{study}.yaml"
    origin = f" ({in_repository(file)})" if file.is_file() else ""
    print(f"{chapter}, study {study}{origin}, commit {facts['commit']}, seed {seed}")
    print(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    print(f"{facts['device']}, {facts['machine']}")
    data_sets = [parameters["dataset"]] if "dataset" in parameters else []
    if told := embedded.strange(parameters.get("weights", ""), data_sets):
        print(f"Note: {told}")
    return run


def _declared(namespace: dict[str, Any]) -> dict[str, type]:
    """The annotated variables of the notebook's cells, with their types."""
    module = ModuleType("cells")
    vars(module).update(namespace)
    return dict(inspect.get_annotations(module))


def name_data_sets() -> None:
    """Make the kernel show data sets by name in tables with a style.

    A plain frame shows what it holds: whoever filters it needs the codes.
    """
    shell = get_ipython()
    if shell:
        html = shell.display_formatter.formatters["text/html"]
        html.for_type(Styler, lambda table: names.in_cells(table._repr_html_()))


def leave_out_unmet_cells() -> None:
    """Make the kernel leave out cells whose needs are not met.

    A cell names its needs in the first line, `#| needs: writer, embedder`. If one of
    these variables is None, the cell prints so instead of running, in any runner.
    """
    shell = get_ipython()
    if shell and _without_unmet_needs not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(_without_unmet_needs)


def _without_unmet_needs(lines: list[str]) -> list[str]:
    needs = NEEDS.match(lines[0]) if lines else None
    names = needs[1].replace(",", " ").split() if needs else []
    known = get_ipython().user_ns
    lacking = [name for name in names if name in known and known[name] is None]
    return [f"print('Left out: no {' and no '.join(lacking)}')\n"] if lacking else lines


def provenance(device: torch.device) -> dict[str, Any]:
    """Versions, commit, device and machine; neither paths nor names of machines."""
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return {
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "device": f"{device}{gpu}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads",
    }


def commit(root: Path = ROOT) -> str:
    """The checkout's commit, with "-dirty" if tracked files differ, or "unknown"."""
    if not (root / ".git").exists():
        return "unknown"  # git would answer for a repository around this folder
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except OSError:  # no git, or a PATH that cannot be read
        return "unknown"
    return answer.stdout.strip() or "unknown"


def reset_display_options() -> None:
    """Reset the user's display settings of figures and tables.

    Kernels of `study run` have none; those of JupyterLab and papermill read them.
    """
    mpl.rcdefaults()  # leaves the backend
    pd.reset_option("^display\\.")
    inline = InlineBackend.instance()
    inline.figure_formats = {"png"}
    inline.print_figure_kwargs = {"bbox_inches": "tight"}
    inline.close_figures = True


def quiet_libraries() -> None:
    """Show only errors of the libraries that log much."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger().addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    """False for open_clip's warning that weights are random: the study says so."""
    return "Model initialized randomly" not in record.getMessage()
