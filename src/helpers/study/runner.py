"""Run notebooks through papermill, each in a fresh kernel of this very interpreter.

Papermill's own runner starts whichever kernel the user has installed as "python3", and
marks a cell that Ctrl-C or a kernel's death has stopped as completed. So client, engine
and kernel manager are our own, derived from those of papermill and Jupyter.

One run at a time has a study's folder: filelock holds `.lock`, which ends with the
process that took it, however that ends. The file `.running` names that process and is
removed at the end. A file that is left behind means that the run was killed. Its
notebook's kernel notices that within a second or so and ends, too; until then no other
run may write.
"""

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill import PapermillExecutionError, execute_notebook
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from tqdm import tqdm

from helpers.files import DiskFull, enough_room, note, read_object, replacing
from helpers.paths import number_of, shown
from helpers.progress import MARK
from helpers.study import fingerprints, process
from helpers.study.parameters import Job

ENGINE = "study"
STARTS = 2  # so often is a kernel started that dies at once
STARTING = 600  # seconds that a kernel may take: a network's disk may be slow


class NotebookFailed(Exception):
    """A cell raised, or the kernel died; the message names notebook, cell and cause."""


class KernelMissing(Exception):
    """The kernel did not start; the message names the notebook, the cause, the cure."""


def run(jobs: Sequence[Job], outputs: Path, again: bool = False) -> Path:
    """Run a study's notebooks in order; returns the folder of their results.

    Each is written to `outputs/STUDY/NN_name.partial.ipynb` cell by cell and renamed to
    `NN_name.ipynb` when every cell has run. Until then an earlier run's notebook stays.
    A notebook that fails does not stop the later ones, unless they read what it would
    have left.

    A chapter that was finished from the same notebook, parameters, code and data is
    passed over, unless `again`.

    Raises ValueError before any work where chapters that were finished with other
    parameters would be replaced, and not `again`, ValueError or FileNotFoundError where
    a data set is not in place; RuntimeError where another run is at work in the folder;
    `files.DiskFull`; KernelMissing; NotebookFailed at the end, with all that did not
    run and why.
    """
    folder = outputs / jobs[0].parameters["study"]
    with locked(folder):
        if not again:
            _refuse_to_replace(jobs, folder)
        made_from = [fingerprints.made_from(job, folder) for job in jobs]
        began, failures = time.monotonic(), []
        for job, made in zip(jobs, made_from, strict=True):
            started, name = time.monotonic(), job.notebook.stem
            made["earlier"] = fingerprints.earlier(job.notebook, folder)
            if not again and fingerprints.is_complete(folder / job.notebook.name, made):
                print(f"{name:<40}done before", flush=True)
                continue
            try:
                _refuse_without_ledgers(job, folder)
                seen = _run(job, made, folder, outputs)
            except NotebookFailed as failure:
                failures.append(str(failure))
                print(f"{name:<40}did not run", flush=True)
                continue
            _print_line(name, time.monotonic() - started, f"{seen.peak / 1e9:6.1f} GB")
        _print_line("all", time.monotonic() - began)
        _collect(folder)
        _print_left_out(jobs, folder)
    if failures:
        count = f"{len(failures)} of {len(jobs)} chapters did not run"
        raise NotebookFailed("\n".join([f"{count}:", *failures]))
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for the block; RuntimeError where another run has it."""
    folder.mkdir(parents=True, exist_ok=True)
    running, lock = folder / ".running", FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        owner = ""
        with suppress(OSError):  # the other run ends just now
            owner = running.read_text()
        raise RuntimeError(
            f"{owner or 'another run'} holds {folder}: wait until it has ended or stop "
            "it, or give this run a folder of its own with --outputs"
        ) from None
    try:
        since = f"since {time.strftime('%Y-%m-%d %H:%M')},"
        who = f"another run, process {os.getpid()} on {socket.gethostname()}"
        running.write_text(f"{who}, {since}")
        yield
    finally:
        running.unlink(missing_ok=True)
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is still held
        lock.release()


def _collect(folder: Path) -> None:
    """Write `results.csv` unless it is younger than every ledger."""
    results, ledgers = folder / "results.csv", folder.glob("predictions/*/*/*.parquet")
    newest = max((ledger.stat().st_mtime_ns for ledger in ledgers), default=0)
    if not results.is_file() or results.stat().st_mtime_ns <= newest:
        from helpers.results import predictions

        predictions.collect(folder)


def _refuse_to_replace(jobs: Sequence[Job], folder: Path) -> None:
    problems = []
    for job in jobs:
        executed = folder / job.notebook.name
        if others := fingerprints.other_parameters(executed, job):
            problems.append(f"{shown(executed)} was made with {'; '.join(others)}")
    if problems:
        raise ValueError(
            "\n".join(problems)
            + "\nThis run would replace what was finished with other parameters: write "
            "elsewhere, say --outputs trial, or replace it with --again"
        )


def _refuse_without_ledgers(job: Job, folder: Path) -> None:
    """Raise NotebookFailed for a chapter that reads results where there are none."""
    later = number_of(job.notebook.stem) == fingerprints.LATER
    if later and not any(folder.glob("predictions/*/*/*.parquet")):
        raise NotebookFailed(
            f"{job.notebook.name}: not started, since no chapter before it has left "
            "results for it to read"
        )


def _print_left_out(jobs: Sequence[Job], folder: Path) -> None:
    """Print which sections lacked a model, and the command that fetches it."""
    for job in jobs:
        for cure in fingerprints.left_out(folder / job.notebook.name).values():
            chapter = job.notebook.stem
            print(f"{chapter} left out what needs a model: {cure}", flush=True)


def _print_line(what: str, seconds: float, memory: str = "") -> None:
    print(f"{what:<40}{seconds:8.1f} s{memory}", flush=True)


def _run(job: Job, made: dict[str, Any], folder: Path, outputs: Path) -> process.Watch:
    name = job.notebook.stem
    before = fingerprints.states(folder, number_of(name))
    partial = folder / f"{name}.partial.ipynb"
    with (
        _progress(name, _code_cells(job.notebook)) as line,
        enough_room(partial),
        tempfile.TemporaryDirectory(
            prefix="study-", ignore_cleanup_errors=True
        ) as private,
        process.watched() as seen,
    ):
        facts = {}

        def failure(cause: str) -> str:
            return (
                f"{job.notebook.name}, cell {line.n}: {cause}\n"
                f"The cells up to there and the traceback are in {shown(partial)}"
            )

        try:
            execute_notebook(
                str(job.notebook),
                str(partial),
                parameters=job.injected,
                engine_name=ENGINE,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                line=line,
                private=Path(private),
                start={
                    "cwd": str(job.notebook.parent),
                    "env": process.kernel_variables(outputs, Path(private)),
                },
            )
            files = fingerprints.written_since(folder, number_of(name), before)
            facts = {"run": {**made, "files": files}}
        except (PapermillExecutionError, DeadKernelError) as error:
            if getattr(error, "ename", "") == DiskFull.__name__:
                raise DiskFull(failure(error.evalue)) from error
            raise NotebookFailed(failure(seen.cause or _cause(error))) from error
        except KernelMissing as error:
            if seen.cause:
                raise NotebookFailed(failure(seen.cause)) from error
            raise KernelMissing(
                f"{job.notebook.name}: its kernel did not start ({error}): see what it "
                "says above, wait until the machine is less busy, or set up the "
                "environment anew (make clean, make study)"
            ) from error
        except KeyboardInterrupt as stop:
            stop.args = (failure(str(stop) or "interrupted"),)
            raise
        finally:
            _annotate(partial, facts)
        note(folder, name, {"made_from": fingerprints.hashes(made)})
        partial.replace(folder / f"{name}.ipynb")
    return seen


def _cause(error: Exception) -> str:
    if isinstance(error, DeadKernelError):
        return "the kernel died (killed, or out of memory?)"
    return f"{error.ename}: {error.evalue}".rstrip(": ")


def _code_cells(notebook: Path) -> int:
    """The number of cells that will run: those with code, and papermill's own."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    return sum(bool(text.strip()) for text in code) + 1


def _annotate(notebook: Path, facts: dict[str, Any]) -> None:
    """Add to the notebook's metadata."""
    content = read_object(notebook)
    if not content:  # papermill has not written it
        return
    content["metadata"] |= facts
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    with replacing(notebook) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def _progress(name: str, cells: int) -> Iterator[tqdm]:
    """Show the running cell, the time and the cell's progress, on terminals alone."""
    line = tqdm(
        total=cells,
        desc=name,
        disable=None,
        leave=False,
        bar_format="{desc}: cell {n} of {total}, {elapsed}{postfix}",
    )
    done = threading.Event()

    def tick() -> None:
        while not done.wait(1):
            line.refresh()

    threading.Thread(target=tick, daemon=True).start()
    try:
        yield line
    finally:
        done.set()
        line.close()


class _OwnKernel(AsyncKernelManager):
    """Starts `process.kernel` in this very interpreter.

    A kernelspec "python3" that the user has installed may start any other one.
    """

    kernel_spec = KernelSpec(
        argv=[
            *(sys.executable, "-P", "-Xfrozen_modules=off"),
            *("-c", "from helpers.study import process; process.kernel()"),
            *("-f", "{connection_file}"),
        ],
        display_name="Python 3",
        language="python",
    )


class _Client(PapermillNotebookClient):
    """Papermill's client that reports to a progress line and marks what broke off."""

    line: tqdm

    def start_new_kernel_client(self, **options: Any) -> Any:
        try:
            return super().start_new_kernel_client(**options)
        except RuntimeError as error:  # nbclient has no kinds of its own
            raise KernelMissing(str(error)) from error

    def execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        try:
            return super().execute_cell(cell, cell_index, **options)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):  # the user waits
                self.shutdown_kernel = "immediate"
            # papermill marks Ctrl-C and a dead kernel "completed"
            self.nb_man.cell_exception(cell, cell_index=cell_index)
            raise

    def process_message(self, msg: dict, *cell: Any) -> Any:
        content = msg["content"]
        if MARK in content.get("metadata", {}):
            self.line.set_postfix_str(content["data"]["text/plain"])
        return super().process_message(msg, *cell)


class _Engine(NBClientEngine):
    @classmethod
    def execute_notebook(cls, nb: Any, *rest: Any, **options: Any) -> Any:
        for key in ("input_path", "output_path"):  # paths of this machine
            nb.metadata.papermill.pop(key, None)
        return super().execute_notebook(nb, *rest, **options)

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        line: tqdm,
        private: Path,
        start: dict,
        **_: Any,
    ) -> None:
        def next_cell(cell: Any, cell_index: int) -> None:
            line.n += 1
            line.set_postfix_str("")

        # Any program may take a kernel's port between its choice and its use.
        for attempt in range(STARTS):
            client = _Client(
                nb_man,
                kernel_name=kernel_name,
                kernel_manager_class=_OwnKernel,
                startup_timeout=STARTING,
                iopub_timeout=60,  # the default, 4 s, is short on a busy machine
                on_cell_execute=next_cell,
            )
            client.line = line
            client.km = client.create_kernel_manager()
            client.km.connection_file = str(private / f"kernel{attempt}.json")
            try:
                return client.execute(**start)
            except KernelMissing as error:
                if attempt + 1 == STARTS or "died" not in str(error):
                    raise


papermill_engines.register(ENGINE, _Engine)
