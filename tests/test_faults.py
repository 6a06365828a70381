"""Runs that are killed, watched, doubled or out of room: nothing is lost or mixed."""

import contextlib
import json
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat import v4
from PIL import Image

from helpers import keys, paths
from helpers.chapters import adaptation, notebook
from helpers.files import note
from helpers.study import fingerprints, main, parameters, runner

CELLS = (
    'study: str = "small"  # folder\nimages: int = 35  # pictures\n'
    'seed: int = 0\ndevice: str = "cpu"\n',
    """
    from helpers import data
    from helpers.chapters import adaptation
    from helpers.methods import tpt, vote
    from helpers.methods.ctpt import ctpt
    from helpers.models import clip
    from helpers.chapters.notebook import start
    """,
    'run = start("01_small", globals())',
    """
    model = clip.load("picto-rn", "picto", device="cpu")
    dataset = data.load("picto-few-shot", images=images)
    adaptation.chunk_size = lambda batch: 12
    """,
    "text = adaptation.prepare(model, dataset.class_names)",
    """
    zero_shot = {"zero_shot": adaptation.first_view}
    methods = {"vote": adaptation.in_feature_space(vote.confident_vote)}
    methods |= {"tpt": adaptation.by_tuning(tpt.tpt)}
    methods |= {"ctpt": adaptation.by_tuning(ctpt)}
    """,
    "adaptation.evaluate(run, model, dataset, text, zero_shot)",
    'adaptation.evaluate(run, model, dataset, text, methods, "preaugment", 10)',
)
KEPT = "store/*/*/*.safetensors", "store/views/*/marks"


def write_chapter(folder: Path, stem: str, cells, params: str = "") -> None:
    """A notebook, and the parameter file of the study that its first cell names."""
    book = v4.new_notebook()
    book.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    cells = [v4.new_code_cell(textwrap.dedent(cell).strip()) for cell in cells]
    cells[0].metadata["tags"] = ["parameters"]
    book.cells = cells
    for name in ("notebooks", "params"):
        (folder / name).mkdir(exist_ok=True)
    nbformat.write(book, folder / "notebooks" / f"{stem}.ipynb")
    (folder / "params" / "small.yaml").write_text(f"study: small\n{params}")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder whose study `small` is what `main` and `study` run."""
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(paths, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr(fingerprints, "code", lambda: "code")
    return tmp_path


def study(folder: Path, *options: str, **variables: str) -> subprocess.Popen:
    """`study run small` as a process of its own."""
    code = f"""
        import sys
        from pathlib import Path
        from helpers import paths
        paths.PARAMS = Path({str(folder / "params")!r})
        paths.NOTEBOOKS = Path({str(folder / "notebooks")!r})
        from helpers.study import main
        outputs = {str(folder / "outputs")!r}
        sys.exit(main(["run", "small", "--outputs", outputs, *{options!r}]))
    """
    environment = {**os.environ, "STUDY_CACHE": str(folder / "cache"), **variables}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def wait_for(condition, seconds: float = 600):
    """The condition's value once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def kernel_of(run: subprocess.Popen) -> psutil.Process | None:
    """The run's kernel, None until it has started."""
    for process in psutil.Process(run.pid).children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "process.kernel" in str(process.cmdline()):
                return process
    return None


def kept(folder: Path) -> int:
    return sum(len(list((folder / "cache").glob(pattern))) for pattern in KEPT)


def ledgers(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.glob("predictions/*/*/*.parquet"))
    return {file.name: file.read_bytes() for file in files}


def contents(folder: Path) -> dict[str, bytes]:
    found = [*folder.rglob("cache/**/*"), *folder.rglob("outputs/**/*")]
    return {str(p): p.read_bytes() for p in found if p.is_file()}


def unkilled(folder: Path, monkeypatch) -> dict[str, bytes]:
    """The ledgers of the chapter's cells, run in this process in one go."""
    monkeypatch.setattr(keys, "CACHE", folder / "unkilled")
    monkeypatch.setattr(notebook, "OUTPUTS", folder / "unkilled")
    scope: dict = {}
    for cell in CELLS:
        exec(textwrap.dedent(cell), scope)
    return ledgers(folder / "unkilled" / "small")


def test_killed_runs_go_on_to_the_same_ledgers(here, monkeypatch):
    write_chapter(here, "01_small", CELLS)
    monkeypatch.setattr(adaptation, "chunk_size", None)  # the cells set it
    chance = random.Random(0)
    before, goals = 0, {"runner": (1, 2, 3), "kernel": (4, 5, 6)}
    for whom, some in goals.items():  # of the 8 files that are kept
        goal = chance.choice(some)
        run = study(here)
        kernel = wait_for(lambda run=run: kernel_of(run))
        wait_for(lambda goal=goal: kept(here) >= goal)
        time.sleep(chance.random() / 10)
        (kernel if whom == "kernel" else run).kill()
        output, _ = run.communicate(timeout=600)
        if whom == "kernel":
            assert run.returncode == 1, output
            assert "the kernel died" in output
        assert kept(here) >= before, "what was kept stays"
        before = kept(here)
        assert not (here / "outputs/small/01_small.ipynb").exists()
        if whom == "runner":  # its kernel must not go on for long
            wait_for(lambda kernel=kernel: not kernel.is_running(), 60)
            still = contents(here)
            time.sleep(0.5)
            assert contents(here) == still
    last = study(here)
    output, _ = last.communicate(timeout=600)
    assert last.returncode == 0, output
    found = ledgers(here / "outputs" / "small")
    assert len(found) == 4
    assert found == unkilled(here, monkeypatch)
    assert not (here / "outputs/small/.running").exists()
    assert not list((here / "outputs/small").glob("*.partial.ipynb"))


# One run at a time


def test_the_second_run_of_a_folder_ends_at_once(here, capsys):
    write_chapter(here, "01_small", CELLS[:1])
    folder = here / "outputs" / "small"
    with runner.locked(folder):
        assert main(["run", "small"]) == 2
        error = capsys.readouterr().err
        assert f"process {os.getpid()} on " in error
        assert "--outputs" in error
        with runner.locked(here / "outputs" / "other"):
            pass
    assert main(["run", "small"]) == 0
    assert sorted(p.name for p in folder.glob(".*")) == []


def test_a_lock_ends_with_its_process(tmp_path):
    """Left behind by kill -9."""
    code = f"""
        import time
        from pathlib import Path
        from helpers.study import runner
        with runner.locked(Path({str(tmp_path)!r})):
            print("locked", flush=True)
            time.sleep(99)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "locked\n"
        with pytest.raises(RuntimeError, match=f"process {owner.pid} on"):
            runner.locked(tmp_path).__enter__()
        owner.kill()
    with runner.locked(tmp_path):
        pass


def test_of_many_at_once_one_has_the_lock(tmp_path):
    code = f"""
        import sys, time
        from pathlib import Path
        from helpers.study import runner
        folder = Path({str(tmp_path)!r})
        for _ in range(200):
            try:
                with runner.locked(folder):
                    (folder / "inside").touch(exist_ok=False)
                    (folder / "inside").unlink()
            except RuntimeError:
                pass
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    many = [subprocess.Popen(command) for _ in range(3)]
    assert [one.wait(600) for one in many] == [0, 0, 0]
    assert not list(tmp_path.iterdir())


# Finished chapters


def test_a_finished_chapter_runs_again_only_where_something_differs(
    here, capsys, monkeypatch
):
    left = """
    from pathlib import Path
    from helpers.paths import OUTPUTS
    for name in ("tables/01_a.csv", "predictions/a/b/c.parquet"):
        file = OUTPUTS / study / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a")
    """
    monkeypatch.setattr(runner, "_collect", lambda folder: None)
    write_chapter(here, "01_small", [CELLS[0], left])
    write_chapter(here, "07_reads", [CELLS[0]])

    def ran(*options: str) -> list[str]:
        assert main(["run", "small", *options]) == 0
        out = capsys.readouterr().out
        lines = [line for line in out.splitlines() if line.startswith("0")]
        return [line[:2] for line in lines if "done before" not in line]

    assert ran() == ["01", "07"]
    assert ran() == []
    table = here / "outputs/small/tables/01_a.csv"
    table.unlink()
    assert ran() == ["01", "07"], "07 reads what 01 left"
    write_chapter(here, "01_small", [CELLS[0], left + "# other"])
    assert ran("--only", "01") == ["01"]
    assert ran() == ["07"]
    monkeypatch.setattr(fingerprints, "code", lambda: "other code")
    assert ran("--only", "01") == ["01"]
    note(here / "outputs/small", "01_small", {}, afresh=True)
    assert ran("--only", "01") == ["01"], "it was started elsewhere in between"


def test_a_chapter_runs_again_once_the_model_that_it_did_without_is_here(
    here, capsys, monkeypatch
):
    cells = (
        """
    from helpers.models.optional import MissingModel
    from helpers.chapters.notebook import start
    run = start("01_small", globals())
    def load():
        raise MissingModel("captioner", "fetch it with `hf download a/b`", None)
    writer, other = run.optional(load), 1
    """,
        """
    #| needs: writer
    raise ValueError("it needs the model")
    """,
        """
    #| needs: other, elsewhere
    print("this needs another")
    """,
    )
    cells = [textwrap.dedent(cell).strip() for cell in cells]
    declares = CELLS[0] + '\ncaptioner: str = "a/b"'
    write_chapter(here, "01_small", [declares, *cells])
    assert main(["run", "small"]) == 0
    out = capsys.readouterr().out
    assert "01_small left out what needs a model: fetch it with `hf download" in out
    page = (here / "outputs/small/01_small.ipynb").read_text()
    assert "Left out: no writer" in page
    assert "this needs another" in page
    assert main(["run", "small"]) == 0
    out = capsys.readouterr().out
    assert "done before" in out
    assert "hf download a/b" in out
    monkeypatch.setattr(fingerprints.optional, "lacking", lambda key, name: "")
    assert main(["run", "small"]) == 0
    assert "done before" not in capsys.readouterr().out


def test_other_parameters_do_not_replace_what_is_finished(here, capsys):
    write_chapter(here, "01_small", CELLS[:1])
    assert main(["run", "small"]) == 0
    executed = here / "outputs/small/01_small.ipynb"
    before = executed.read_bytes()
    assert main(["run", "small", "-p", "images", "9"]) == 2
    error = capsys.readouterr().err
    assert "01_small.ipynb was made with images 35, now 9" in error
    assert "--outputs trial" in error
    assert "--again" in error
    assert executed.read_bytes() == before
    trial = str(here / "trial")
    assert main(["run", "small", "-p", "images", "9", "--outputs", trial]) == 0
    assert main(["run", "small", "-p", "images", "9", "--again"]) == 0
    assert main(["run", "small"]) == 2


def test_fingerprints_see_files_behind_parameters(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    given = {"dataset": "folder", "data_root": str(tmp_path), "shifts": ["picto-s"]}
    first = fingerprints.data(given)
    assert fingerprints.data(given) == first
    picture = next((tmp_path / "cat").iterdir())
    os.utime(picture, ns=(1, 1))
    second = fingerprints.data(given)
    assert second != first
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"one")
    third = fingerprints.data(given | {"weights": str(weights)})
    weights.write_bytes(b"other")
    assert fingerprints.data(given | {"weights": str(weights)}) != third
    with pytest.raises(FileNotFoundError):
        fingerprints.data({"dataset": "imagenet-a", "data_root": str(tmp_path)})


def test_a_notebooks_hash_is_that_of_its_cells(tmp_path):
    (chapter,) = paths.NOTEBOOKS.glob("01_*.ipynb")
    content = json.loads(chapter.read_text())
    other = tmp_path / chapter.name
    content["metadata"]["x"] = 1
    content["cells"][2]["outputs"] = [1]
    other.write_text(json.dumps(content))
    assert fingerprints.cells(other) == fingerprints.cells(chapter)
    content["cells"][0]["source"] = "other prose"
    other.write_text(json.dumps(content))
    assert fingerprints.cells(other) != fingerprints.cells(chapter)


# A full disk


@pytest.mark.parametrize("where", ["kernel", "notebook"])
def test_a_full_disk_ends_a_run_with_status_2(here, where):
    resource = pytest.importorskip("resource")
    fill = """
    import resource
    from pathlib import Path
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    from helpers.files import replacing
    with replacing(Path(study) / "x.parquet") as temporary:
        temporary.write_bytes(bytes(9999))
    """
    cells = {"kernel": fill, "notebook": "print('word ' * 9999)"}
    write_chapter(here, "01_small", [CELLS[0], cells[where]])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if where == "notebook":
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        run = study(here)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    output, _ = run.communicate(timeout=600)
    assert run.returncode == 2, output
    assert "no room for" in output
    assert "STUDY_CACHE" in output
    assert not (here / "outputs/small/01_small.ipynb").exists()


# The long one


@pytest.mark.soak
def test_soak(tmp_path):
    """Kill a study of all chapters at random times, until it is done: `make soak`."""
    seed = int(os.environ.get("SOAK_SEED", "0"))
    chance = random.Random(seed)
    few = ["-p", "images", "12", "-p", "view_images", "4", "-p", "other_images", "4"]

    def start(name: str) -> subprocess.Popen:
        program = [sys.executable, "-c", "import sys; from helpers.study import main; "]
        program[-1] += "sys.exit(main(sys.argv[1:]))"
        command = [*program, "run", "smoke", "--outputs", str(tmp_path / name), *few]
        environment = os.environ | {"STUDY_CACHE": str(tmp_path / f"{name}-cache")}
        return subprocess.Popen(command, env=environment)

    assert start("whole").wait() == 0
    deaths, pause = 0, 20.0
    while True:
        run = start("killed")
        try:
            assert run.wait(chance.uniform(3, pause)) == 0
            break
        except subprocess.TimeoutExpired:
            family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(True)]
            for process in chance.sample(family, chance.randint(1, len(family))):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            run.wait(120)
            deaths, pause = deaths + 1, pause * 1.1
    print(f"seed {seed}: killed {deaths} times")
    found, expected = (ledgers_of(tmp_path / n / "smoke") for n in ("killed", "whole"))
    assert deaths
    assert found == expected


def ledgers_of(folder: Path) -> dict[str, bytes]:
    files = folder.glob("predictions/*/*/*.parquet")
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def test_every_chapter_of_the_plan_has_a_fingerprint(tmp_path):
    for job in parameters.plan("smoke", paths.ROOT / "params", paths.NOTEBOOKS):
        made = fingerprints.made_from(job, tmp_path)
        assert json.loads(json.dumps(made)) == made
        assert not fingerprints.is_complete(tmp_path / job.notebook.name, made)
