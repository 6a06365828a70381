"""Work on workers: the same results, whatever dies, and nothing of Ray without them."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import helpers
import picto
from helpers import data, files, keys, parallel, store
from helpers.chapters import adaptation, self_training
from helpers.chapters.notebook import Run
from helpers.methods.lafter import lafter
from helpers.methods.tpt import tpt
from helpers.models import clip
from helpers.models.visual import ImageTower
from helpers.store import checkpoints, features
from helpers.store import views as view_store
from helpers.study import main

if importlib.util.find_spec("ray") is None:
    pytest.skip("pip install -e '.[cluster]'", allow_module_level=True)


@pytest.fixture(autouse=True)
def nobody_asks(monkeypatch):
    for name in (parallel.WORKERS, parallel.ADDRESS):
        monkeypatch.delenv(name, raising=False)


# Without workers


def test_ray_stays_out_until_it_is_asked_for():
    script = (
        "import sys\n"
        "from helpers import parallel\n"
        "assert 'torch' not in sys.modules\n"
        "from helpers import store\n"
        "from helpers.chapters import adaptation, self_training\n"
        "assert not parallel.active()\n"
        "done = parallel.spread(list, [range(2), range(2, 3)], 'counting')\n"
        "assert list(done) == [(range(2), [0, 1]), (range(2, 3), [2])]\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"workers": 0}, "0 workers: accepted: a whole number of at least 1"),
        ({"workers": -2}, "-2 workers"),
        ({"address": "cluster"}, "accepted: HOST:PORT"),
        ({"address": "ray://head:10001"}, "accepted: HOST:PORT"),
        ({"workers": 2, "address": "head:6379"}, "exclude each other"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked, message):
    with pytest.raises(ValueError, match=message), parallel.chosen(**asked):
        pass
    assert not parallel.active()


def test_a_wrong_variable_is_refused(monkeypatch):
    monkeypatch.setenv(parallel.WORKERS, "two")
    with pytest.raises(ValueError, match="two workers: accepted"):
        parallel.active()


def test_the_command_ends_before_the_work_where_nobody_answers(capsys):
    with socket.socket() as held:  # bound, but not listening
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        assert main(["run", "smoke", "--only", "01", "--ray-address", address]) == 2
    told = capsys.readouterr().err
    assert f"no Ray cluster answers at {address}" in told
    assert "ray start --head" in told
    assert not parallel.active()


def test_the_command_takes_either(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "smoke", "--workers", "2", "--ray-address", "head:6379"])
    assert stop.value.code == 2
    assert main(["run", "smoke", "--only", "01", "--workers", "0"]) == 2
    assert "0 workers" in capsys.readouterr().err


def test_without_ray_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda name: None)
    told = r"pip install -e '\.\[cluster\]'"
    with pytest.raises(RuntimeError, match=told), parallel.chosen(workers=2):
        pass
    with parallel.chosen(workers=1):  # which is this process
        assert not parallel.active()


def node(cpus: int, gpus: int = 0, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}}


@pytest.mark.parametrize(
    ("nodes", "workers", "on_gpu", "expected"),
    [
        ([node(16)], 4, False, (4, 0, 4)),
        ([node(3)], 3, False, (1, 0, 3)),
        ([node(16), node(10)], 0, False, (4, 0, 6)),
        ([node(0), node(2), node(64, alive=False)], 0, False, (2, 0, 1)),
        ([node(32, 4), node(64)], 0, True, (8, 1, 4)),
        ([node(16, 2)], 4, True, (4, 0.5, 4)),
        ([node(16, 2)], 3, True, (5, 0.5, 3)),
        ([node(16, 8)], 2, True, (8, 1, 2)),
    ],
)
def test_tasks_are_placed_by_what_nodes_have(nodes, workers, on_gpu, expected):
    assert parallel.placement(nodes, workers, on_gpu) == expected


def test_no_node_for_a_task_is_an_error():
    with pytest.raises(RuntimeError, match="no node with a CPU is left"):
        parallel.placement([node(4, alive=False)], 0, on_gpu=False)
    with pytest.raises(RuntimeError, match="device is cuda, but no node with a GPU"):
        parallel.placement([node(4)], 0, on_gpu=True)


def test_a_gpu_task_does_many_spans_since_it_is_slow_to_start():
    cpus, gpus = parallel.Placement(1, 0, 8), parallel.Placement(8, 1, 8)
    assert parallel.spans_per_task(1563, cpus) == 1
    assert parallel.spans_per_task(800, gpus) == 50  # two tasks each
    assert parallel.spans_per_task(5, gpus) == 1
    assert parallel.spans_per_task(100_000, gpus) == 64


def test_nodes_are_compared_by_the_sources_of_both_packages(monkeypatch):
    seen = []
    monkeypatch.setattr(files, "digest", lambda found: seen.extend(found) or "")
    files.code.__wrapped__()
    assert {Path(helpers.__file__), Path(picto.__file__)} <= set(seen)


# Two workers of this machine


@contextmanager
def one_thread():
    """As many as each of two workers has here, for the same rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two_workers():
    """Ray on this machine, kept for all tests that ask for `spreading`."""
    with one_thread(), parallel.chosen(workers=2):
        ray = parallel._connected()
        yield ray
        ray.shutdown()


@pytest.fixture
def spreading(two_workers, monkeypatch):
    """A switch: what runs in its context is spread."""

    @contextmanager
    def on():
        with parallel.chosen(workers=2), one_thread():
            yield

    return on


@pytest.fixture(scope="module")
def model() -> clip.Backbone:
    return clip.load("picto-vit", "picto", device="cpu")


SPANS = [range(start, start + 3) for start in range(0, 12, 3)]


def meeting(folder: str):
    """A function that waits until two, workers or nodes, have left their name."""

    def wait(mine: object) -> None:
        Path(folder, str(mine)).touch()
        until = time.monotonic() + 120  # a busy machine starts the second one late
        while len(os.listdir(folder)) < 2 and time.monotonic() < until:
            time.sleep(0.05)

    return wait


def test_workers_have_their_cpus_and_spread_no_further(spreading, tmp_path):
    meet = meeting(str(tmp_path))

    def work(span):
        meet(os.getpid())
        return os.getpid(), torch.get_num_threads(), parallel.active(), sum(span)

    with spreading():
        done = dict(parallel.spread(work, SPANS, "sums"))
    assert {span: found[-1] for span, found in done.items()} == {
        span: sum(span) for span in SPANS
    }
    processes = {found[0] for found in done.values()}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert {found[1:3] for found in done.values()} == {(1, False)}


def test_nobody_else_can_connect(two_workers):
    ray = two_workers
    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
    listening = Path("/proc/net/tcp6").read_text() + Path("/proc/net/tcp").read_text()
    gcs = int(ray.get_runtime_context().gcs_address.rpartition(":")[2])
    bound = [
        line.split()[1]
        for line in listening.splitlines()
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{gcs:04X}")
    ]
    assert bound
    for address in bound:
        assert address.rpartition(":")[0].endswith("0100007F")  # 127.0.0.1


def test_results_wait_in_bounded_number(spreading, tmp_path):
    folder = str(tmp_path)

    def work(span):
        Path(folder, str(span.start)).touch()
        return torch.zeros(1000)

    spans = [range(n, n + 1) for n in range(40)]
    with spreading():
        results = parallel.spread(work, spans, "zeros")
        next(results)
        time.sleep(1)
        assert len(list(tmp_path.iterdir())) <= 1 + 2 * 2
        assert len(list(results)) == 39


def test_a_killed_worker_costs_its_span_alone(spreading, tmp_path):
    folder = str(tmp_path)

    def work(span):
        with Path(folder, str(span.start)).open("a") as file:
            file.write("begun\n")
        if span.start == 3 and len(Path(folder, "3").read_text()) == len("begun\n"):
            os.kill(os.getpid(), signal.SIGKILL)
        return list(span)

    with spreading():
        done = dict(parallel.spread(work, SPANS, "counting"))
    assert done == {span: list(span) for span in SPANS}
    begun = {p.name: p.read_text().count("begun") for p in tmp_path.iterdir()}
    assert begun["3"] == 2
    assert sum(begun.values()) <= len(SPANS) + 2  # it may take a neighbour with it


def test_a_span_that_kills_every_worker_ends_the_run(spreading, monkeypatch):
    monkeypatch.setattr(parallel, "RETRIES", 1)

    def work(span):
        if span.start == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    told = "counting, items 0 to 2: the worker died 2 times"
    with pytest.raises(RuntimeError, match=told), spreading():
        list(parallel.spread(work, SPANS, "counting"))


def test_an_error_of_the_work_ends_the_run_at_once(spreading, tmp_path):
    folder = str(tmp_path)

    def work(span):
        with Path(folder, str(span.start)).open("a") as file:
            file.write("begun\n")
        if span.start == 3:
            raise FileNotFoundError("no picture 4.jpg here")
        time.sleep(0.2)
        return 0

    told = pytest.raises(FileNotFoundError, match=r"no picture 4\.jpg here")
    with told as caught, spreading():
        list(parallel.spread(work, SPANS, "counting"))
    assert caught.value.__notes__ == ["counting, items 3 to 5, on a worker"]
    assert "in work" in str(caught.value.__cause__)  # its traceback over there
    assert (tmp_path / "3").read_text() == "begun\n"


def bytes_of(folder: Path, run: Run) -> dict[str, bytes]:
    """The views' features and the ledgers, without what tells of seconds."""
    found = {
        str(path.relative_to(run.folder)): path.read_bytes()
        for path in run.folder.rglob("*.parquet")
    }
    rows = {p.parent.name: p.read_bytes() for p in folder.rglob("features")}
    return found | rows


def piece(model, folder: Path, monkeypatch) -> dict[str, bytes]:
    """Features, views and TPT of a few images, everything made anew in `folder`."""
    monkeypatch.setattr(keys, "CACHE", folder)
    dataset = data.load("picto-s", images=24).subset(range(6))
    run = Run("02_piece", "piece", folder / "out", 0, torch.device("cpu"))
    text = adaptation.prepare(model, dataset.class_names)
    plain = store.image_features(model, dataset)
    method = {"tpt": adaptation.by_tuning(tpt, rho=0.25)}
    adaptation.evaluate(run, model, dataset, text, method, "preaugment", 8)
    found = bytes_of(folder, run)
    assert len(found) == 2
    return found | {"plain": plain.numpy().tobytes()}


def test_a_piece_of_a_study_is_the_same_to_the_byte(
    spreading, model, tmp_path, monkeypatch
):
    monkeypatch.setattr(features, "SHARD", 2)
    monkeypatch.setattr(view_store, "SPAN", 2)
    monkeypatch.setattr(adaptation, "chunk_size", lambda batch: 2)
    with one_thread():
        alone = piece(model, tmp_path / "alone", monkeypatch)
    spans = []
    original = parallel._in_tasks

    def counted(work, given, label):
        spans.append(len(given))
        return original(work, given, label)

    monkeypatch.setattr(parallel, "_in_tasks", counted)
    with spreading():
        assert piece(model, tmp_path / "spread", monkeypatch) == alone
    assert spans == [3, 3, 3]  # images, views, TPT: none of it was done here


def test_trainings_side_by_side_leave_the_same(spreading, model, tmp_path):
    cut = self_training.halves(model, data.load("picto-s", images=64), pool_images=6)
    weight = torch.randn(64, model.embed_dim, generator=torch.manual_seed(0))
    make = partial(ImageTower, model)

    def trainings(folder: Path) -> list[partial]:
        tune = partial(lafter, make, weight, cut.pool, prompts=2, epochs=2, batch=3)
        kept = [checkpoints.Checkpoint(folder / str(n)) for n in range(2)]
        return [partial(tune, seed=n, checkpoint=kept[n]) for n in range(2)]

    with one_thread():
        alone = self_training.side_by_side(trainings(tmp_path / "alone"), "trainings")
    with spreading():
        spread = self_training.side_by_side(trainings(tmp_path / "spread"), "trainings")
    for one, other in zip(alone, spread, strict=True):
        mine, theirs = one.model.state_dict(), other.model.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        same = one.log.drop(columns="seconds"), other.log.drop(columns="seconds")
        assert same[0].equals(same[1])
    assert not torch.equal(alone[0].model.weight, alone[1].model.weight)


# A cluster of two nodes


@pytest.fixture
def two_nodes(monkeypatch):
    """Two of Ray's nodes on this machine, a CPU each; yields the cluster."""
    import ray
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    watchful = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300}
    watchful["health_check_failure_threshold"] = 3
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": watchful}
    with parallel._variables({**parallel.ENVIRONMENT, "PYTHONPATH": parallel.STUBS}):
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(num_cpus=1)
    monkeypatch.setenv(parallel.ADDRESS, cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_that_dies_costs_its_spans_alone(two_nodes, tmp_path):
    folder, spans = str(tmp_path / "begun"), [range(n, n + 1) for n in range(8)]
    nodes = str(tmp_path / "nodes")
    for made in (folder, nodes):
        os.mkdir(made)
    meet = meeting(nodes)

    def work(span):
        import ray

        place = ray.get_runtime_context().get_node_id()
        Path(folder, f"{span.start}-{place}").touch()
        meet(place)
        time.sleep(0.4)
        numbers = np.random.default_rng(span.start).random(100_000)
        return torch.from_numpy(numbers)  # large enough to lie on the node

    expected = {span: work_alone(span) for span in spans}
    doomed, done = next(iter(two_nodes.worker_nodes)), {}
    for span, numbers in parallel.spread(work, spans, "numbers"):
        done[span] = numbers
        if doomed is not None and doomed.node_id in os.listdir(nodes):
            two_nodes.remove_node(doomed, allow_graceful=False)
            doomed = None
    assert doomed is None
    assert done.keys() == expected.keys()
    assert all(torch.equal(done[span], expected[span]) for span in spans)
    # Twice is done what the node had not handed over: nothing, where it died between.
    assert len(os.listdir(folder)) >= len(spans)


def work_alone(span: range) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(span.start).random(100_000))
