"""Time and memory: what is told before a run, and what is stopped."""

import json
import os
import signal
import sys
import time

import nbformat
import psutil
import pytest
from nbformat import v4

from helpers import data, paths
from helpers.models import clip, optional
from helpers.study import cost, doctor, parameters, process, runner


class Pictures:
    """So many pictures of 200 classes, none of which is looked at."""

    class_names = tuple(f"class {i}" for i in range(200))

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


def work_of(number: str, images: int = 7500, **changes: object) -> dict[str, float]:
    """What is counted of a chapter of the study of ImageNet-A."""
    given = "imagenet_a_rn50", paths.PARAMS, paths.NOTEBOOKS, (number,)
    (job,) = parameters.plan(*given)
    p = {**job.parameters, **changes}
    return cost.work(p, {"imagenet-a": Pictures(images)})


def test_what_chapters_do_is_counted():
    assert work_of("01") == {"views": 7500, "texts": 200 * (80 + 6)}
    found = work_of("02")
    assert found["views"] == 1000 * 64 * 3
    tuned = 3 * 3 * 1000 + 100 * (3 + 4 + 3)  # 3 tunings of 3 recipes, and sweeps
    assert found["passes"] == 200 * tuned
    assert found["steps"] == 200 * (tuned + 100 * 3)  # a second one at 3 rates
    assert work_of("03")["captions"] == 200 * 2 * 7500
    assert work_of("05")["trained"] == 50 * 3750 * (8 + 1 + 1)
    assert work_of("06") == {"views": 1000 * 64}
    both = {"passes": 200 * 8 * 1000, "steps": 200 * 8 * 1000}
    assert work_of("06c") == {"views": 1000 * 64, **both}
    assert work_of("08") == {"views": 1000 * 64, "passes": 2e5, "steps": 2e5}
    del both["steps"]  # each image's first and only one is a matrix product
    assert work_of("06c", jacobian=True) == {"views": 1000 * 64, **both}
    assert not work_of("07")
    assert not cost.work({"mine": 1}, {"a": Pictures(5)})


@pytest.mark.parametrize(
    ("number", "changed", "part"),
    [
        ("01", {"images": 500}, "views"),
        ("02", {"view_count": 10}, "views"),
        ("02", {"augmentations": ["preaugment"]}, "steps"),
        ("02b", {"max_minutes": 2.0}, "drawn"),
        ("03", {"caption_images": 100}, "captions"),
        ("05", {"epochs": 2}, "trained"),
        ("05b", {"pool_images": 100}, "trained"),
        ("06b", {"dose_images": 100}, "steps"),
    ],
)
def test_smaller_parameters_take_less(number, changed, part):
    images = changed.pop("images", 7500)
    assert work_of(number, images, **changed)[part] < work_of(number)[part]


def test_the_doctor_tells_the_time():
    jobs = parameters.plan("smoke", paths.PARAMS, paths.NOTEBOOKS)
    datasets = {"picto": data.read("picto")}
    report = doctor.Report()
    cost.check_cost(report, jobs, datasets, True)
    assert report.ok
    ((topic, _, text),) = report.lines
    assert topic == "time"
    assert "02_tpt_augmentations: about" in text
    seconds = cost.unit_seconds(
        [clip.load("picto-rn", "picto", "cpu")], datasets["picto"]
    )
    assert seconds.keys() == cost.NAMES.keys()
    assert all(0 < spent <= 1 for spent in seconds.values()), seconds


def test_what_is_left_out_for_want_of_a_model_takes_no_time(monkeypatch):
    def time_of(lacking: str) -> str:
        monkeypatch.setattr(optional, "lacking", lambda key, name: lacking)
        report = doctor.Report()
        cost.check_cost(report, jobs, {"picto": data.read("picto")}, True)
        return report.text()

    seconds = dict.fromkeys(cost.NAMES, 0.0) | {"drawn": 1.0}
    monkeypatch.setattr(cost, "unit_seconds", lambda *_: seconds)
    given = {"diffusion": "stabilityai/sd-turbo", "max_minutes": "600"}
    options = paths.PARAMS, paths.NOTEBOOKS, ["02b"], given
    jobs = parameters.plan("smoke", *options)
    assert "days (most of it diffusion, at most)" in time_of("")
    text = time_of("not on this machine")
    assert "about 15 s, timed on a few pictures" in text
    reason = "since diffusion stabilityai/sd-turbo is not on this machine; with it"
    assert f"02b_diffusion_views: about 15 s, {reason} " in text


def test_the_first_vit_is_timed_in_training(monkeypatch):
    models = [clip.load(name, "picto", "cpu") for name in ("picto-rn", "picto-vit")]
    monkeypatch.setattr(cost, "_training_seconds", lambda model, _: model.name)
    assert cost.unit_seconds(models, data.read("picto"))["trained"] == "picto-vit"
    assert cost.unit_seconds(models[:1], data.read("picto"))["trained"] == "picto-rn"


def test_weights_that_do_not_load_stop_the_study(monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("not the state dict of this architecture")

    monkeypatch.setattr(clip, "load", refuse)
    jobs = parameters.plan("smoke", paths.PARAMS, paths.NOTEBOOKS)
    report = doctor.Report()
    cost.check_cost(report, jobs, {"picto": data.read("picto")}, True)
    assert not report.ok
    assert "not the state dict" in report.text()


def test_durations_are_told_in_fitting_units():
    told = {0.2: "1 s", 89: "89 s", 91: "1.5 min", 5400: "1.5 h", 432000: "5.0 days"}
    assert {seconds: cost.duration(seconds) for seconds in told} == told


# Limits of containers


def group(root, name: str, **files: object) -> None:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file.replace("__", ".")).write_text(f"{content}\n")


def test_a_containers_limit_counts_without_what_it_can_drop(tmp_path):
    assert process._cgroup(tmp_path) == (float("inf"), float("inf"))
    stat = "anon 5\ninactive_file 100"
    group(tmp_path, "", memory__max="max", memory__current=5, memory__stat=stat)
    assert process._cgroup(tmp_path)[0] == float("inf")
    group(tmp_path, "", memory__max=1000, memory__current=700, memory__stat=stat)
    assert process._cgroup(tmp_path) == (400, 1000)
    (tmp_path / "memory.max").write_text("nonsense")
    assert process._cgroup(tmp_path)[0] == float("inf")


def test_the_first_version_of_groups_is_read_too(tmp_path):
    names = {"memory__limit_in_bytes": 1000, "memory__usage_in_bytes": 700}
    stat = "inactive_file 1\ntotal_inactive_file 200"
    group(tmp_path, "memory", **names, memory__stat=stat)
    assert process._cgroup(tmp_path) == (500, 1000)
    names["memory__limit_in_bytes"] = 2**63 - 4096
    group(tmp_path, "memory", **names, memory__stat=stat)
    assert process._cgroup(tmp_path)[0] == float("inf")


# While it runs


def book_of(folder, *cells: str) -> parameters.Job:
    book = v4.new_notebook()
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    book.metadata.kernelspec["language"] = "python"
    first = v4.new_code_cell('study: str = "t"', metadata={"tags": ["parameters"]})
    book.cells = [first, *map(v4.new_code_cell, cells)]
    nbformat.write(book, folder / "01_one.ipynb")
    return parameters.Job(folder / "01_one.ipynb", {}, {"study": "t"})


HOARD = "hoard = bytearray(400 * 10**6)"


def test_the_peak_of_a_chapter_is_told(tmp_path, capsys):
    slow = f"import time\n{HOARD}\nfor i in range(0, len(hoard), 4096): hoard[i] = 1"
    job = book_of(tmp_path, slow, "time.sleep(4)", "del hoard")  # looked at each second
    runner.run([job], tmp_path / "out")
    line = capsys.readouterr().out.splitlines()[0]
    name, _, _, gigabytes, unit = line.split()
    assert (name, unit) == ("01_one", "GB")
    assert 0.4 <= float(gigabytes) < 4  # other tests' processes may still be ending


@pytest.mark.parametrize(
    "hold",
    [
        "time.sleep(600)",
        # Deaf to the interrupt, as a long call in a library is.
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(600)",
    ],
)
def test_a_kernel_is_stopped_before_memory_is_used_up(tmp_path, monkeypatch, hold):
    monkeypatch.setattr(process, "KILL_SECONDS", 3)
    monkeypatch.setattr(process, "RESERVE", (1.0, 300 * 10**6))
    held = 0

    def left() -> float:  # the machine has just what the hoard will take
        nonlocal held
        ours = psutil.Process().children(recursive=True)
        held = max((process._held(p) for p in ours), default=0)
        return 10**9 - held - 350 * 10**6

    monkeypatch.setattr(process, "available_memory", left)
    fill = "for i in range(0, len(hoard), 4096): hoard[i] = 1"
    job = book_of(tmp_path, f"import time\n{HOARD}\n{fill}\n{hold}", "print(1)")
    began = time.monotonic()
    with pytest.raises(runner.NotebookFailed, match="would have used up the memory"):
        runner.run([job], tmp_path / "out")
    assert time.monotonic() - began < 500
    partial = tmp_path / "out" / "t" / "01_one.partial.ipynb"
    cells = json.loads(partial.read_text())["cells"]
    assert cells[-1]["outputs"] == []
    assert not partial.with_name("01_one.ipynb").exists()


def test_whoever_holds_little_is_left_alone(monkeypatch):
    monkeypatch.setattr(process, "available_memory", lambda: 0.0)
    with (
        process.watched() as seen,
        psutil.Popen([sys.executable, "-c", "import time; time.sleep(4)"]) as child,
    ):
        assert child.wait() == 0
    assert 10**6 < seen.peak < 10**9
    assert not seen.cause


def test_a_child_that_has_not_yet_started_its_program_holds_nothing():
    ballast = bytearray(400 * 10**6)
    ballast[::4096] = bytes(len(ballast[::4096])).replace(b"\0", b"\1")
    child = os.fork()
    if child == 0:  # as a kernel is, between its fork and its exec
        signal.pause()
    try:
        forked = psutil.Process(child)
        assert forked.memory_info().rss > 400 * 10**6
        assert process._held(forked) == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_kernel_stopped_at_its_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "KILL_SECONDS", 1)
    monkeypatch.setattr(process, "RESERVE", (1.0, 10**6))  # whatever a kernel holds
    monkeypatch.setattr(process, "available_memory", lambda: 0.0)
    monkeypatch.setattr(runner, "STARTING", 120)
    began = time.monotonic()
    argv = [sys.executable, "-c", "import time; time.sleep(600)"]  # never answers
    spec = runner.KernelSpec(argv=argv, language="python")
    monkeypatch.setattr(runner._OwnKernel, "kernel_spec", spec)
    job = book_of(tmp_path, "print(1)")
    with pytest.raises(runner.NotebookFailed, match="would have used up the memory"):
        runner.run([job], tmp_path / "out")
    assert time.monotonic() - began < 100  # the second start is stopped, too
