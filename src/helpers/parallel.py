"""Work in threads, and spread over processes of this machine or of a cluster.

`prefetch` has threads read and draw images while the caller encodes others. `spread`
gives work to processes, as tasks of Ray. Two variables ask for processes, which
`study run` sets for its notebooks:

    STUDY_WORKERS=4                    four processes on this machine
    STUDY_RAY_ADDRESS=10.0.0.1:6379    the Ray cluster that this machine is a node of

Without them nothing of Ray is imported. With them, the work is shipped once, and each
span of it is a task, which goes to whichever worker is free. The driver, which called
`spread`, gets the results and writes what is to be kept: workers need no folder in
common with it, but must be able to read the pictures and have the same code.

Plain tasks serve better than Ray's multiprocessing.Pool: the pool deals spans out in
turn to fixed actors, whether or not they are free, and every pool starts its own.
The driver keeps a window of tasks under way, since Ray would hold all results at once.

A task whose worker or node dies is started again elsewhere. An exception of the work
itself is not tried again: it ends the run, as it would without workers.
"""

import hashlib
import importlib.util
import logging
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from helpers.files import code
from helpers.progress import track

WORKERS, ADDRESS = "STUDY_WORKERS", "STUDY_RAY_ADDRESS"
THREADS = 4  # that work ahead
RETRIES = 3  # of a task whose worker or node died
STARTS = 3  # of Ray on a machine that is too busy for its first start
CLUSTER_CPUS = 4  # of a task on a cluster: as many threads draw and decode
CONNECT_SECONDS = 5.0  # to wait for a cluster's answer
TASKS_PER_GPU, MOST_SPANS = 2, 64  # spans in one of these tasks, at most
STALL_SECONDS = 30.0  # without a result, before we look whether nodes are left
STUBS = str(Path(__file__).parent / "stubs")  # what Ray's processes need not import
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # tells nobody that it runs
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leaves devices to the tasks
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # does not copy the folder we stand in
}
OPTIONS = {"log_to_driver": False, "logging_level": logging.ERROR}
LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # listens on 127.0.0.1, everywhere

Result = TypeVar("Result")
Work = Callable[[range], Result]


class Placement(NamedTuple):
    """What a task asks for, and how many tasks run at once."""

    cpus: int
    gpus: float
    at_once: int  # tasks on all nodes together


def prefetch(
    work: Callable[[int], Result], positions: Iterable[int], most: int
) -> Iterator[tuple[int, Result]]:
    """Yield (n, work(n)) in order, made by threads while the encoder works.

    At most `most` results wait to be taken.
    """
    with ThreadPoolExecutor(THREADS) as threads:
        pending: deque = deque()
        for n in positions:
            pending.append((n, threads.submit(work, n)))
            if len(pending) > most:
                first, result = pending.popleft()
                yield first, result.result()
        for n, result in pending:
            yield n, result.result()


def active() -> bool:
    """Whether work is to be spread: more than one worker, or a cluster, is named."""
    return _workers() > 1 or bool(os.environ.get(ADDRESS))


def spread(
    work: Work[Result], spans: Sequence[range], label: str
) -> Iterator[tuple[range, Result]]:
    """Yield (span, work(span)) of every span as they are done, in any order.

    `work` and its results must be what cloudpickle can ship; `work` may close over
    backbones and data sets. Where this process uses a GPU, each task is given one.
    What `work` computes must depend on its span alone. Without workers, and where there
    is but one span, it runs here. The items of finished spans count as progress.

    Raises what `work` raised, with its traceback on the worker as the cause, and
    RuntimeError for a span that keeps killing its workers or where no node is left.
    """
    if len(spans) < 2 or not active():
        results = ((span, work(span)) for span in spans)
    else:
        results = _in_tasks(work, spans, label)
    for done in track(_by_item(results), sum(map(len, spans)), label):
        if done is not None:
            yield done


@contextmanager
def chosen(workers: int | None = None, address: str | None = None) -> Iterator[None]:
    """Set the variables for the block, one of them at most, and check them.

    With neither, the environment's own are checked and stay.
    """
    wanted = {}
    if workers is not None or address is not None:
        text = "" if workers is None else str(workers)
        wanted = {WORKERS: text, ADDRESS: address or ""}
    with _variables(wanted):
        check()
        yield


def check() -> None:
    """Check the variables, that Ray is installed and that the cluster answers.

    Raises ValueError, RuntimeError or ConnectionError within seconds.
    """
    if not active():
        return
    if _workers() and os.environ.get(ADDRESS):
        raise ValueError(f"{WORKERS} and {ADDRESS} exclude each other: unset one")
    if importlib.util.find_spec("ray") is None:
        raise RuntimeError(
            "spreading work needs Ray: pip install -e '.[cluster]', or leave out "
            "--workers and --ray-address"
        )
    if address := os.environ.get(ADDRESS):
        _check_reachable(address)


def _workers() -> int:
    text = os.environ.get(WORKERS) or "0"
    number = int(text) if text.isascii() and text.isdigit() else -1
    if number < (1 if os.environ.get(WORKERS) else 0):
        raise ValueError(f"{text} workers: accepted: a whole number of at least 1")
    return number


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ValueError(
            f"Ray address {address!r}: accepted: HOST:PORT, as `ray start --head "
            "--port 6379` prints it"
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address} ({error}): start one there with "
            "`ray start --head --port 6379`, or correct the address"
        ) from error


def _by_item(
    results: Iterator[tuple[range, Result]],
) -> Iterator[tuple[range, Result] | None]:
    """Each result, followed by as many None as its span has further items."""
    for span, result in results:
        yield span, result
        yield from [None] * (len(span) - 1)


def _in_tasks(
    work: Work[Result], spans: Sequence[range], label: str
) -> Iterator[tuple[range, Result]]:
    ray = _connected()
    import torch

    content = ray.cloudpickle.dumps(work)
    on_gpu = torch.cuda.is_initialized()
    room = placement(ray.nodes(), _workers(), on_gpu)
    key = hashlib.sha256(content).hexdigest()
    shipped = [ray.put(content)]  # in a list, so that tasks get no copies
    threads = max(1, room.cpus)
    ours = code() if os.environ.get(ADDRESS) else ""  # here it is the same
    # Named here, not in .options(): GPU tasks then leave their process, and so its
    # memory and its choice of a GPU, behind.
    task = ray.remote(
        num_cpus=room.cpus,
        num_gpus=room.gpus,
        max_retries=RETRIES,
        retry_exceptions=False,
    )(_task)
    together = spans_per_task(len(spans), room)
    waiting = [spans[i : i + together] for i in range(0, len(spans), together)][::-1]
    running = {}
    try:
        while waiting or running:
            # Results are tensors: as many as may be, never all of them, are under way.
            while waiting and len(running) < 2 * room.at_once:
                some = waiting.pop()
                running[task.remote(shipped, key, some, threads, ours)] = some
            done, _ = ray.wait(list(running), timeout=STALL_SECONDS)
            if not done:
                placement(ray.nodes(), _workers(), on_gpu)  # raises if none is left
            for reference in done:
                some = running.pop(reference)
                shown = f"{label}, items {some[0].start} to {some[-1].stop - 1}"
                yield from zip(some, _result(ray, reference, shown), strict=True)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def spans_per_task(spans: int, room: Placement) -> int:
    """How many spans one task does: one on a CPU, many on a GPU.

    On a GPU each task is a new process, which takes seconds to start;
    `tests/benchmarks/growth.py` computes what fewer tasks save.
    """
    even = math.ceil(spans / (TASKS_PER_GPU * room.at_once))
    return min(MOST_SPANS, even) if room.gpus else 1


def _result(ray: Any, reference: Any, what: str) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if not isinstance(error.cause, Exception):
            raise
        error.cause.add_note(f"{what}, on a worker")
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(
            f"{what}: the worker died {RETRIES + 1} times, killed or out of memory "
            f"({str(error).strip().splitlines()[0]}); what was done before is kept: "
            "run again with fewer workers"
        ) from error


def _connected() -> Any:
    """The module `ray`, once this process is connected to a cluster."""
    check()
    address = os.environ.get(ADDRESS)
    path = os.pathsep.join(filter(None, [STUBS, os.environ.get("PYTHONPATH")]))
    local = {**ENVIRONMENT, **LOCAL, "PYTHONPATH": path}
    with _variables(ENVIRONMENT if address else local):
        import ray

        if ray.is_initialized():
            return ray
        if address:
            _join(ray, address)
        else:
            _start(ray, _workers())
    return ray


def _join(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, **OPTIONS)
    except Exception as error:  # Ray raises nearly anything
        raise ConnectionError(
            f"cannot join the Ray cluster at {address} ({error}): this machine must be "
            f"a node of it, by `ray start --address {address}`"
        ) from error


def _start(ray: Any, workers: int) -> None:
    """A cluster of this machine alone, for this process; it ends with it."""
    import torch

    share = max(1, torch.get_num_threads() // workers)
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=workers * share,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **OPTIONS,
            )
            return
        except Exception as error:  # Ray raises nearly anything
            ray.shutdown()
            if attempt == STARTS:
                raise RuntimeError(
                    f"Ray does not start here ({error}): see its logs in "
                    "/tmp/ray/session_latest/logs, or run without --workers"
                ) from error


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def placement(
    nodes: Sequence[Mapping[str, Any]], workers: int, on_gpu: bool
) -> Placement:
    """What each task gets of these nodes, as `ray.nodes()` tells of them.

    `workers` share one machine, its GPUs too; 0 is for a cluster, where a task has 4
    CPUs, or a GPU of its own with the CPUs that fall to it. RuntimeError where there is
    no node that a task fits on.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    sizes = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in alive]
    if not on_gpu:
        cpus = [c for c, _ in sizes if c]
        if not cpus:
            raise RuntimeError("no node with a CPU is left: what was done is kept")
        each = sum(cpus) // workers if workers else min(CLUSTER_CPUS, *cpus)
        return Placement(each, 0, sum(c // each for c in cpus))
    sizes = [(c, g) for c, g in sizes if g]
    if not sizes:
        raise RuntimeError(
            "the study's device is cuda, but no node with a GPU is there: start one, "
            "or run with -p device cpu"
        )
    gpus = sum(g for _, g in sizes)
    sharing = max(1, math.ceil(workers / gpus))  # tasks on one GPU
    each = min(c // (workers or g) for c, g in sizes)
    return Placement(each, 1 / sharing, workers or gpus)


_loaded: dict[str, Work] = {}
"""On a worker: the work it did last, under its hash, so that it is unpacked once."""


def _task(
    shipped: list, key: str, spans: Sequence[range], threads: int, theirs: str
) -> list:
    import ray
    import torch

    for name in (WORKERS, ADDRESS):
        os.environ.pop(name, None)  # a task does not spread its own work
    torch.set_num_threads(threads)
    if key not in _loaded:
        if theirs and theirs != code():
            raise RuntimeError(
                f"worker {socket.gethostname()} has other sources or libraries than "
                "the study: install the same commit and requirements on all nodes"
            )
        _loaded.clear()
        _loaded[key] = ray.cloudpickle.loads(ray.get(shipped[0]))
    return [_loaded[key](span) for span in spans]
