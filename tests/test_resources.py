"""Memory and disk: what is told before a run, what is refused, what is stopped."""

import importlib.util
import json
import sys
import time
import types

import nbformat
import psutil
import pytest
from nbformat import v4

from helpers import paths
from helpers.methods import training
from helpers.models import clip, optional, sizes, visual
from helpers.models.prompts import PromptTower
from helpers.study import doctor, main, parameters, room, runner, watch
from picto import CLASS_NAMES

GB = 10**9


def load_benchmark(name: str) -> types.ModuleType:
    path = paths.ROOT / "tests" / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark = load_benchmark("memory")


def jobs_of(study: str, *only: str) -> list[parameters.Job]:
    return parameters.plan(study, paths.PARAMS, paths.NOTEBOOKS, only)


def with_free(monkeypatch, memory: float = 64 * GB, disk: float = 500 * GB) -> None:
    monkeypatch.setattr(room, "available_memory", lambda: memory)
    usage = types.SimpleNamespace(free=disk)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: usage)


def test_the_embedded_study_needs_a_small_machine(monkeypatch, tmp_path):
    with_free(monkeypatch, memory=2.5 * GB, disk=2 * GB)
    for study in ("smoke", "picto"):
        needs = [room.estimate(job) for job in jobs_of(study)]
        # Measured: 1.2, 1.1, 1.1, 1.2, 1.1 and 1.3 GB (chapters 00 to 05).
        assert all(1.1 * GB < need.peak < 2.2 * GB for need in needs), needs
        assert "memory: at most about" in room.check(jobs_of(study), tmp_path)


def test_what_the_store_holds_needs_no_more_disk(monkeypatch, tmp_path):
    jobs = jobs_of("smoke", "01", "02")
    kept = sum(sum(room.estimate(job).cache.values()) for job in jobs)
    with_free(monkeypatch, disk=room.SURE * kept - 1e6)
    monkeypatch.setattr(room, "CACHE", tmp_path)
    with pytest.raises(ValueError, match="STUDY_CACHE"):
        room.check(jobs, tmp_path)
    rows = tmp_path / "store" / "views" / "key" / "rows"
    rows.parent.mkdir(parents=True)
    rows.write_bytes(bytes(2_000_000))
    room.check(jobs, tmp_path)


def test_large_studies_are_told_part_by_part():
    needs = {
        need.chapter[:2]: need
        for need in map(room.estimate, jobs_of("imagenet_sketch_vit_b16"))
    }
    five = needs["05"].memory
    # 25,445 pictures of 3 x 224 x 224 bytes each in the pool and in the test set.
    assert five["pictures"] >= 2 * 25_444 * 3 * 224**2
    assert five["weights"] == pytest.approx(598.5e6, rel=0.01)
    # Zero-shot: four ledgers of 50,889 x 1000 numbers.
    assert needs["01"].ledgers == pytest.approx(6 * 4 * 50_889 * 1000, rel=0.01)
    assert needs["02"].cache["views"] > 200 * 64 * 512 * 2
    assert needs["05"].peak > needs["04"].peak


@pytest.mark.parametrize(
    ("name", "weights"), [("picto-rn", "picto"), ("picto-vit", "picto")]
)
def test_estimates_are_those_of_the_models_themselves(name, weights):
    model, backbone = sizes.size_of(name), clip.load(name, weights, device="cpu")
    assert model.bytes == sum(4 * p.numel() for p in backbone.model.parameters())
    tower = PromptTower(backbone, CLASS_NAMES)
    told = model.prompt_bytes(CLASS_NAMES)
    assert 0.7 < told / tower.peak_bytes(gradient=True) < 1.6
    student = visual.ImageTower(backbone, norms=True)
    images = resources_images(backbone)
    kept = training.graph_bytes(student, lambda: student(images)) / len(images)
    assert 0.8 < model.graph_bytes(0) / kept < 1.6


def resources_images(backbone: clip.Backbone):
    import torch

    return torch.zeros(2, 3, backbone.image_size, backbone.image_size).byte()


@pytest.mark.parametrize(
    ("name", "measured"),  # by training.graph_bytes, MB per picture; weights, MB
    [("RN50-quickgelu", (99.2, 408.0)), ("ViT-B-16-quickgelu", (69.2, 598.5))],
)
def test_graphs_of_real_models_are_near_what_was_measured(name, measured):
    model = sizes.size_of(name)
    assert model.graph_bytes(0) / 1e6 == pytest.approx(measured[0], rel=0.15)
    assert model.bytes / 1e6 == pytest.approx(measured[1], rel=0.01)
    assert sizes.size_of("ViT-L-14-quickgelu").graph_bytes(0) > 2 * model.graph_bytes(0)


@pytest.mark.parametrize(("chapter", "backbone", "peak"), benchmark.measured())
def test_what_is_told_of_real_models_holds_within_a_quarter(chapter, backbone, peak):
    given = benchmark.overrides(chapter, backbone)
    texts = {k: v if type(v) is str else json.dumps(v) for k, v in given.items()}
    (job,) = parameters.plan(
        benchmark.STUDY, paths.PARAMS, paths.NOTEBOOKS, (chapter,), texts
    )
    told = room.estimate(job).peak
    assert 0.75 * peak < told < 1.25 * peak
    larger = parameters.Job(job.notebook, {}, {**job.parameters, "batch": 200})
    assert room.estimate(larger).peak < 1.2 * told  # it goes through in parts


def test_an_optional_model_says_what_it_takes():
    assert set(optional.PARTS) == {"captioner", "diffusion", "embeddings"}
    for key, page in (("captioner", "a/vit-gpt2"), ("diffusion", "a/sd-turbo")):
        own = optional.memory_needed(key, f"picto-{key}")
        assert 10**8 < own < 10**9 < optional.memory_needed(key, page)


def test_what_fits_is_run_and_what_surely_does_not_is_refused(monkeypatch, tmp_path):
    jobs = jobs_of("imagenet_a_rn50", "02")
    peak = room.estimate(jobs[0]).peak
    for free in (peak, 0.65 * peak):  # an estimate may err
        with_free(monkeypatch, memory=free)
        assert "02_tpt_augmentations" in room.check(jobs, tmp_path)
    with_free(monkeypatch, memory=0.55 * peak)
    with pytest.raises(ValueError, match=r"02_tpt_augmentations needs about .* GB"):
        room.check(jobs, tmp_path)
    with pytest.raises(ValueError, match=r"-p memory 1, or .*--only"):
        room.check(jobs, tmp_path)
    with_free(monkeypatch, disk=10**8)
    with pytest.raises(ValueError, match="STUDY_CACHE"):
        room.check(jobs, tmp_path)


def test_smaller_parameters_need_less():
    (job,) = jobs_of("imagenet_a_rn50", "05")
    small = {**job.parameters, "batch": 4, "pool_images": 100, "seeds": 1}
    less = room.estimate(parameters.Job(job.notebook, {}, small))
    assert less.peak < 0.75 * room.estimate(job).peak


def test_a_run_that_will_not_fit_ends_with_status_2_before_work(
    monkeypatch, tmp_path, capsys
):
    with_free(monkeypatch, memory=GB / 2)
    assert main(["run", "smoke", "--outputs", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "03_caption_prompts needs about" in error
    assert "0.5 GB are free" in error
    assert not (tmp_path / "out").exists()


def test_the_doctor_tells_it_too(monkeypatch, tmp_path):
    for memory, good in ((8 * GB, True), (GB / 2, False)):
        with_free(monkeypatch, memory=memory)
        report = doctor.Report()
        room.check_room(report, jobs_of("smoke"), tmp_path)
        assert report.ok is good
        assert "01_zero_shot: about 1.2 GB (libraries 1.0 GB" in report.text()
        assert f"{memory / GB:.1f} GB free" in report.text()


# Limits of containers


def group(root, name: str, **files: object) -> None:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file.replace("__", ".")).write_text(f"{content}\n")


def test_a_containers_limit_counts_without_what_it_can_drop(tmp_path):
    assert watch._cgroup(tmp_path) == (float("inf"), float("inf"))
    stat = "anon 5\ninactive_file 100"
    group(tmp_path, "", memory__max="max", memory__current=5, memory__stat=stat)
    assert watch._cgroup(tmp_path)[0] == float("inf")
    group(tmp_path, "", memory__max=1000, memory__current=700, memory__stat=stat)
    assert watch._cgroup(tmp_path) == (400, 1000)
    (tmp_path / "memory.max").write_text("nonsense")
    assert watch._cgroup(tmp_path)[0] == float("inf")


def test_the_first_version_of_groups_is_read_too(tmp_path):
    names = {"memory__limit_in_bytes": 1000, "memory__usage_in_bytes": 700}
    stat = "inactive_file 1\ntotal_inactive_file 200"
    group(tmp_path, "memory", **names, memory__stat=stat)
    assert watch._cgroup(tmp_path) == (500, 1000)
    names["memory__limit_in_bytes"] = 2**63 - 4096
    group(tmp_path, "memory", **names, memory__stat=stat)
    assert watch._cgroup(tmp_path)[0] == float("inf")


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
    monkeypatch.setattr(watch, "PATIENCE", 3)
    monkeypatch.setattr(watch, "FLOOR", (1.0, 300 * 10**6))
    held = 0

    def left() -> float:  # the machine has just what the hoard will take
        nonlocal held
        ours = psutil.Process().children(recursive=True)
        held = max((watch._held(p) for p in ours), default=0)
        return 10**9 - held - 350 * 10**6

    monkeypatch.setattr(watch, "available_memory", left)
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
    monkeypatch.setattr(watch, "available_memory", lambda: 0.0)
    with (
        watch.watched() as seen,
        psutil.Popen([sys.executable, "-c", "import time; time.sleep(4)"]) as child,
    ):
        assert child.wait() == 0
    assert 10**6 < seen.peak < 10**9
    assert not seen.cause
