"""Odd machines: paths, folders, encodings, homes, locks, signals, users' settings."""

import errno
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import types
import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from ipykernel.kernelapp import IPKernelApp
from nbformat import v4

from helpers import figures, files, notebooks, paths
from helpers.chapters import notebook
from helpers.figures import chapter_03
from helpers.figures.style import styled
from helpers.prompts import descriptions
from helpers.results import predictions
from helpers.study import (
    doctor,
    fingerprints,
    main,
    parameters,
    process,
    runner,
)

COMMAND = "import sys; from helpers.study import main; sys.exit(main(sys.argv[1:]))"
BOTH = ("STUDY_OUTPUTS", "STUDY_CACHE")


def write_study(folder: Path, *cells: str) -> None:
    """Notebooks and parameters of a study `small` of one chapter."""
    book = v4.new_notebook()
    book.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    declares = v4.new_code_cell(
        'study: str = "small"', metadata={"tags": ["parameters"]}
    )
    book.cells = [declares, *(v4.new_code_cell(textwrap.dedent(c)) for c in cells)]
    for name in ("notebooks", "params"):
        (folder / name).mkdir()
    nbformat.write(book, folder / "notebooks" / "01_small.ipynb")
    (folder / "params" / "small.yaml").write_text("study: small\n")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder whose study `small` is what `main` runs."""
    write_study(tmp_path, "print(1)")
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(paths, "OUTPUTS", tmp_path / "outputs")
    return tmp_path


def command(folder: Path, *arguments: str) -> list[str]:
    """`study` as a process of its own, with the folder's studies."""
    code = f"""
        import sys
        from pathlib import Path
        from helpers import paths
        paths.PARAMS = Path({str(folder / "params")!r})
        paths.NOTEBOOKS = Path({str(folder / "notebooks")!r})
        from helpers.study import main
        sys.exit(main(sys.argv[1:]))
    """
    return [sys.executable, "-c", textwrap.dedent(code), *arguments]


def printed(executed: Path) -> str:
    cells = nbformat.read(executed, as_version=4).cells
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    return "".join(out.text for out in outputs if out.output_type == "stream")


# Paths


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("data_root", "photos", "{here}/photos"),
        ("data_root", "../photos", "{here}/../photos"),
        ("data_root", "/photos", "/photos"),
        ("data_root", "~/photos", "{home}/photos"),
        ("data_root", "~nobody-of-that-name/x", "{here}/~nobody-of-that-name/x"),
        ("data_root", "", ""),
        ("coop_file", "model.pth.tar-50", "{here}/model.pth.tar-50"),
        ("cocoop_file", "a b/ü.pt", "{here}/a b/ü.pt"),
        ("weights", "mine.pt", "{here}/mine.pt"),
        ("weights", "~/mine.safetensors", "{home}/mine.safetensors"),
        ("weights", "./there", "{here}/there"),
        ("weights", "openai", "openai"),
        ("weights", "picto", "picto"),
        ("weights", "random", "random"),
        ("weights", "laion2b_s32b_b82k", "laion2b_s32b_b82k"),
        ("texts", "mine.json", "{here}/mine.json"),
        ("texts", "./there", "{here}/there"),
        ("texts", "picto", "picto"),
        ("captioner", "./there", "{here}/there"),
        ("captioner", "owner/model", "owner/model"),
        ("captioner", "owner/there", "{here}/owner/there"),
        ("captioner", "picto-captioner", "picto-captioner"),
        ("diffusion", "a/b/c", "{here}/a/b/c"),
        ("diffusion", "./model", "{here}/model"),
        ("diffusion", "stabilityai/sd-turbo", "stabilityai/sd-turbo"),
        ("embeddings", "all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("embeddings", "./there", "{here}/there"),
        ("embeddings", "clip", "clip"),
        ("backbone", "local-dir:there", "local-dir:{here}/there"),
        ("backbone", "hf-hub:owner/there", "hf-hub:owner/there"),
        ("study", "there", "there"),
        ("dataset", "picto", "picto"),
    ],
)
def test_a_path_counts_from_where_it_was_given(tmp_path, key, value, expected):
    names = ("openai", "picto", "random", "clip", "picto-captioner")
    for name in ("there", "owner/there", *names):  # a bare word is a name
        (tmp_path / name).mkdir(parents=True)
    home = os.path.expanduser("~")
    found = parameters.resolve_all({key: value}, tmp_path)[key]
    assert found == expected.format(here=tmp_path, home=home)


def test_every_key_that_the_notebooks_take_paths_for_is_known():
    """Rules that look for a file or folder, and keys that say so in their comment."""
    told = set()
    for chapter in notebooks.files(paths.NOTEBOOKS):
        for cell in nbformat.read(chapter, as_version=4).cells:
            if "parameters" in cell.metadata.get("tags", []):
                lines = cell.source.splitlines()
                words = ("file", "folder that", "a folder", "sentence-transformers")
                told |= {
                    line.partition(":")[0]
                    for line in lines
                    if any(word in line.partition("#")[2] for word in words)
                }
    told |= {"coop_file", "cocoop_file"}
    told.remove("include")  # counts from the file that says so, see parameters.layers
    assert told == {*parameters.PATHS, *parameters.NAMED} - {"model"}


def test_paths_in_a_parameter_file_count_from_its_repository(small, monkeypatch):
    write_cell = 'study: str = "small"\ndata_root: str = ""'
    book = nbformat.read(small / "notebooks/01_small.ipynb", as_version=4)
    book.cells[0].source = write_cell
    nbformat.write(book, small / "notebooks/01_small.ipynb")
    monkeypatch.chdir("/")

    def root_of(study: str) -> str:
        jobs = parameters.plan(study, paths.PARAMS, paths.NOTEBOOKS)
        return jobs[0].injected["data_root"]

    alone = small / "alone" / "mine.yaml"
    repository = small / "other" / "params" / "mine.yaml"
    for file in (alone, repository):
        file.parent.mkdir(parents=True)
        file.write_text("study: mine\ndata_root: photos\n")
    (small / "other" / ".git").mkdir()
    assert root_of(str(alone)) == str(small / "alone" / "photos")
    assert root_of(str(repository)) == str(small / "other" / "photos")
    chapter = repository.with_suffix("")
    chapter.mkdir()
    (chapter / "01.yaml").write_text("data_root: others\n")
    assert root_of(str(repository)) == str(small / "other" / "others")
    monkeypatch.chdir(small / "alone")
    assert root_of("mine.yaml") == str(small / "alone" / "photos")
    monkeypatch.setenv("HOME", str(small))
    assert root_of("~/alone/mine.yaml") == str(small / "alone" / "photos")


def test_paths_of_this_repository_stay_as_written():
    """So that outputs tell nothing of the machine; kernels count them from the root."""
    general = parameters.read(paths.PARAMS / "my_images.yaml")
    job = parameters.plan("my_images", paths.PARAMS, paths.NOTEBOOKS)[0]
    assert job.parameters["data_root"] == general["data_root"] == "data/my_images"
    assert paths.from_root("data/my_images") == paths.ROOT / "data/my_images"


def test_command_line_paths_reach_the_jobs_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(descriptions.ASSETS / "picto.json", tmp_path / "mine.json")
    (tmp_path / "coop.pt").touch()
    asked = []
    monkeypatch.setattr(
        parameters, "plan", lambda *given, log: asked.append(given[-1]) or []
    )
    monkeypatch.setattr("helpers.study.command._check_folders", lambda *_: 1 / 0)
    given = {"texts": "mine.json", "coop_file": "coop.pt", "data_root": "~/p"}
    options = [part for pair in given.items() for part in ("-p", *pair)]
    with pytest.raises(ZeroDivisionError):
        main(["doctor", "picto", *options])
    assert asked == [
        {
            "texts": str(tmp_path / "mine.json"),
            "coop_file": str(tmp_path / "coop.pt"),
            "data_root": os.path.expanduser("~/p"),
        }
    ]


def test_relative_texts_are_the_repositorys_wherever_the_kernel_stands(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    asset = descriptions.ASSETS / "picto.json"
    assert descriptions.read(asset.relative_to(paths.ROOT)) == descriptions.read(
        "picto"
    )


@pytest.mark.parametrize("name", ["OUTPUTS", "CACHE"])
@pytest.mark.parametrize("value", ["", "a b", "~/x"])
def test_variables_count_from_here(tmp_path, name, value):
    done = subprocess.run(
        [sys.executable, "-c", f"from helpers import paths; print(paths.{name})"],
        cwd=tmp_path,
        env=os.environ | {f"STUDY_{name}": value},
        capture_output=True,
        text=True,
    )
    default = paths.ROOT / {"OUTPUTS": "outputs", "CACHE": ".cache"}[name]
    told = tmp_path / os.path.expanduser(value) if value else default
    assert done.stdout == f"{told}\n", done.stderr


def test_the_kernel_gets_absolute_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"mine{os.pathsep}/others")
    monkeypatch.setenv("STUDY_CACHE", "cache")
    found = process.kernel_variables(Path("out"), Path("/private"))
    assert found["STUDY_OUTPUTS"] == str(tmp_path / "out")
    assert found["STUDY_CACHE"] == str(paths.CACHE)
    source = str(paths.ROOT / "src")
    expected = [source, str(tmp_path / "mine"), "/others"]
    assert found["PYTHONPATH"].split(os.pathsep) == expected


@pytest.mark.parametrize("kind", ["blanks ü", "link", "empty", "home"])
def test_outputs_may_be_any_folder(small, monkeypatch, kind):
    monkeypatch.chdir(small)
    monkeypatch.setenv("HOME", str(small / "home"))
    monkeypatch.setattr(runner, "_run", lambda *given: types.SimpleNamespace(peak=0))
    (small / "elsewhere").mkdir()
    (small / "link").symlink_to("elsewhere")
    option, folder = {
        "blanks ü": ("blanks ü", small / "blanks ü"),
        "link": ("link", small / "elsewhere"),
        "empty": ("", small / "outputs"),
        "home": ("~/x", small / "home/x"),
    }[kind]
    assert main(["run", "small", f"--outputs={option}"]) == 0
    assert (folder / "small" / "results.csv").is_file()


def test_a_folder_that_one_stands_in_no_more_is_named(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError, match="the folder you stand in is gone"):
        paths.from_here("x")
    assert paths.from_here("/x") == Path("/x")


# Folders that take no files


def barred(monkeypatch, number: int) -> None:
    """Every folder refuses files, as a read-only mount does (root passes by modes)."""

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("verb", ["run", "doctor"])
def test_a_read_only_checkout_is_told_with_the_way_round(
    small, monkeypatch, capsys, verb, number
):
    barred(monkeypatch, number)
    assert main([verb, "small"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"cannot write in {small / 'outputs' / 'small'}" in error
    assert os.strerror(number) in error
    assert all(name in error for name in BOTH)


@pytest.mark.parametrize("kind", ["file", "dangling link", "below a file"])
@pytest.mark.parametrize("verb", ["run", "site"])
def test_a_file_where_a_folder_should_be_is_told(small, capsys, kind, verb):
    (small / "file").touch()
    (small / "dangling link").symlink_to("nowhere/at/all")
    option = "file/x" if kind == "below a file" else kind
    assert main([verb, "small", "--outputs", str(small / option)]) == 2
    error = capsys.readouterr().err
    assert str(small / option) in error
    if verb == "run" and kind != "dangling link":
        assert all(name in error for name in BOTH)


def test_a_folder_that_becomes_unwritable_is_told(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(files.NotWritable, match="STUDY_OUTPUTS"),
        files.replacing(tmp_path / "file" / "x.csv"),
    ):
        raise AssertionError("never reached")


def test_a_full_folder_for_temporary_files_is_the_one_that_is_named(tmp_path):
    with (
        pytest.raises(
            files.DiskFull, match=r"no room for kernel\.json in /tmp/x: .*TMPDIR"
        ),
        files.enough_room(tmp_path / "01_small.partial.ipynb"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/x/kernel.json")


def test_windows_is_told_of_wsl(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["list"]) == 2
    assert "WSL 2" in capsys.readouterr().err


def test_wrong_permissions_inside_the_block_are_not_called_the_folders(tmp_path):
    with (
        pytest.raises(PermissionError, match="other"),
        files.replacing(tmp_path / "x"),
    ):
        raise PermissionError(errno.EACCES, "other")
    assert not list(tmp_path.iterdir())


# Streams


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "cp437", "utf-8"])
def test_the_doctor_speaks_in_any_encoding(small, monkeypatch, encoding):
    report = doctor.Report()
    for mark in (doctor.GOOD, doctor.NOTE, doctor.BAD):
        report.add("Übung — № 猫", mark, "„x” … \udcff")
    monkeypatch.setattr(doctor, "diagnose", lambda *given: report)
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["doctor", "small"]) == 1
    stream.flush()
    lines = stream.buffer.getvalue().decode(encoding).splitlines()
    marks = [line[2] for line in lines if line.startswith("  ")][:3]
    assert marks == (["✓", "!", "✗"] if encoding == "utf-8" else ["?", "!", "?"])


def test_no_reader_of_the_output_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "list"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141


# Home and user


def test_a_user_whom_the_system_does_not_know_gets_a_home(monkeypatch):
    def unknown(*_):
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    for home in ("", None):
        monkeypatch.setenv("HOME", "x")
        monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", "")
        process._set_home_and_user()
        assert os.environ["HOME"] == str(paths.CACHE / "home")
        assert Path.home() == paths.CACHE / "home"
    assert os.environ["USER"] == f"user{os.getuid()}"


# Kernels


@pytest.mark.parametrize(
    ("does", "cause"),
    [("import time; time.sleep(99)", "in 1 seconds"), ("raise SystemExit(5)", "died")],
)
def test_a_kernel_that_does_not_start_is_told_as_that(
    small, monkeypatch, capsys, does, cause
):
    spec = runner.KernelSpec(argv=[sys.executable, "-c", does, "{connection_file}"])
    monkeypatch.setattr(runner._OwnKernel, "kernel_spec", spec)
    monkeypatch.setattr(runner, "STARTING", 1)
    before = psutil.Process().children()
    assert main(["run", "small"]) == 3
    error = capsys.readouterr().err
    assert "01_small.ipynb: its kernel did not start" in error
    assert cause in error
    assert [p for p in psutil.Process().children() if p not in before] == []
    assert not (small / "outputs/small/.running").exists()


def test_a_kernel_whose_port_is_taken_is_started_again(small, monkeypatch):
    """The first start finds no free port, which another program took a moment ago."""
    seen = small / "started"
    once = f"""
import sys
from pathlib import Path
from helpers.study import process
if not Path({str(seen)!r}).exists():
    Path({str(seen)!r}).touch()
    sys.exit("Address already in use")
sys.argv = ["kernel", *sys.argv[1:]]
process.kernel()
"""
    argv = [sys.executable, "-c", once, "-f", "{connection_file}"]
    spec = runner.KernelSpec(argv=argv, language="python")
    monkeypatch.setattr(runner._OwnKernel, "kernel_spec", spec)
    assert main(["run", "small"]) == 0
    assert seen.exists()


def test_a_users_settings_change_nothing(tmp_path):
    """Settings of matplotlib, IPython, Python; a relative cache; a poor encoding."""
    home, here = tmp_path / "home", tmp_path / "hier drüben"
    startup = home / ".ipython/profile_default/startup"
    for folder in (home / ".config/matplotlib", startup, here):
        folder.mkdir(parents=True)
    rc = home / ".config/matplotlib/matplotlibrc"
    rc.write_text("text.usetex: True\nsavefig.dpi: 20\naxes.facecolor: red\n")
    poison = "import builtins, pandas as pd\nbuiltins.poison = 1\n"
    poison += "pd.set_option('display.max_rows', 1)\nprint('poison')\n"
    (startup / "00_mine.py").write_text(poison)
    settings = (
        "c.InlineBackend.figure_formats = {'svg'}\n"
        "c.InteractiveShellApp.exec_lines = ['import builtins; builtins.poison = 2']\n"
    )
    for name in ("ipython_config.py", "ipython_kernel_config.py"):
        (startup.parent / name).write_text(settings)
    (home / "python.py").write_text(poison)
    write_study(
        tmp_path,
        """
        import builtins, os, matplotlib, helpers, pandas
        from helpers import paths
        print(paths.CACHE, paths.OUTPUTS, sep="\\n")
        print(hasattr(builtins, "poison"), pandas.options.display.max_rows)
        print([matplotlib.rcParams[k] for k in ("text.usetex", "axes.facecolor")])
        """,
        "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])",
    )
    own = {
        "HOME": str(home),
        "PYTHONSTARTUP": str(home / "python.py"),
        "PYTHONWARNINGS": "always",
        "PYTHONIOENCODING": "ascii",
        "STUDY_CACHE": "käche",
        "MATPLOTLIBRC": str(rc),
        "TERM": "",
        "COLUMNS": "0",
    }
    done = subprocess.run(
        command(tmp_path, "run", "small", "--outputs", "aus gäbe"),
        cwd=here,
        env=os.environ | own,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "results.csv: aus g?be/small" in done.stdout  # in ASCII
    executed = here / "aus gäbe/small/01_small.ipynb"
    assert printed(executed).splitlines() == [
        str(here / "käche"),
        str(here / "aus gäbe"),
        "False 60",
        "[False, 'white']",
    ]
    (picture,) = nbformat.read(executed, as_version=4).cells[-1].outputs
    assert set(picture.data) == {"image/png", "text/plain"}
    assert "input_path" not in executed.read_text(encoding="utf-8")


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv"
)
def test_a_user_without_home_or_name_runs_a_study():
    """As in a container that is run under a number: no passwd entry, nothing set."""
    user = [shutil.which("setpriv"), "--reuid=54321", "--regid=54321", "--clear-groups"]
    reads = "+dac_read_search"  # the environment may lie in a folder that is closed
    user += [f"--inh-caps={reads}", f"--ambient-caps={reads}"]
    twice = "import sys, subprocess; subprocess.run([sys.executable, '-V'], check=True)"
    probe = [*user, sys.executable, "-c", twice]
    if subprocess.run(probe, cwd="/", capture_output=True).returncode:
        pytest.skip("another user may not run this environment")
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        write_study(folder, "import getpass, torch\nprint(getpass.getuser())")
        os.chown(folder, 54321, 54321)
        arguments = command(folder, "run", "small", "--outputs", f"{name}/out")
        done = subprocess.run(
            [*user, *arguments],
            env={"PATH": "", "TMPDIR": "/nowhere", "STUDY_CACHE": f"{name}/cache"},
            cwd="/",
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert printed(folder / "out/small/01_small.ipynb") == "user54321\n"


def test_the_kernel_reads_no_settings_and_tells_no_idle_interrupt(monkeypatch, caplog):
    """No /etc/ipython and environment's own, which IPython reads besides profiles."""
    made = []
    monkeypatch.setattr(IPKernelApp, "initialize", lambda self, argv: None)
    launch = classmethod(lambda cls: made.append(cls()))
    monkeypatch.setattr(IPKernelApp, "launch_instance", launch)
    process.kernel()
    (app,) = made
    for name in ("load_config_file", "_run_startup_files"):
        assert name in vars(type(app))
        assert hasattr(IPKernelApp, name)
    app.log = logging.getLogger("kernel")
    app.initialize()
    app.log.error("KeyboardInterrupt caught in kernel.")  # each shutdown brings one
    app.log.error("another fault")
    assert [record.getMessage() for record in caplog.records] == ["another fault"]


# Signals


def test_sigterm_leaves_neither_lock_nor_kernel_nor_paths(tmp_path):
    write_study(tmp_path, "print('here', flush=True)", "import time; time.sleep(99)")
    folder = tmp_path / "outputs" / "small"
    program = command(tmp_path, "run", "small", "--outputs", str(tmp_path / "outputs"))
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as run:
        partial, shown = folder / "01_small.partial.ipynb", ""
        while r'"here\n"' not in shown:  # until the first cell has run
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.05)
            shown = partial.read_text() if partial.is_file() else ""
        (kernel,) = (p for p in psutil.Process(run.pid).children() if p.cmdline())
        assert str(folder) not in shown
        run.send_signal(signal.SIGTERM)
        _, error = run.communicate(timeout=600)
    assert run.returncode == 143
    assert "stopped by SIGTERM" in error
    assert "01_small.ipynb, cell" in error
    assert not kernel.is_running()
    assert not [*folder.glob(".lock"), *folder.glob(".running")]
    content = json.loads(partial.read_text())
    assert str(tmp_path) not in json.dumps(content["metadata"])


@pytest.mark.parametrize(
    ("number", "ignored", "status"),
    [
        (signal.SIGTERM, False, 143),
        (signal.SIGHUP, False, 129),
        (signal.SIGHUP, True, 7),  # nohup
    ],
)
def test_signals_end_commands_with_their_status(number, ignored, status):
    code = """
        import os, signal, sys
        from helpers.study import command
        def do(arguments):
            os.kill(os.getpid(), int(sys.argv[1]))
            return 7
        do.__name__ = "_list"  # the name of its subcommand
        command._list = do
        sys.exit(command.main(["list"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(int(number))],
        preexec_fn=(lambda: signal.signal(number, signal.SIG_IGN)) if ignored else None,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status
    assert done.stderr == ("" if ignored else f"stopped by {number.name}\n")


# Figures and tables


def test_figures_are_drawn_alike_whatever_the_users_settings(tmp_path):
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [1.0, 3.0]})

    @styled
    def draw():
        fig, ax = plt.subplots()
        ax.plot(frame["x"], frame["y"])
        ax.set_title("$x^2$ and an odd glyph ü")
        return fig, frame

    def saved() -> bytes:
        fig, data = draw()
        path = figures.save(tmp_path, "01_x", fig, data)
        plt.close(fig)
        return path.read_bytes()

    def shown() -> bytes:
        """As a notebook displays it, after it was saved."""
        fig, data = chapter_03.cards([np.zeros((8, 8, 3), np.uint8)], [["a", "b"]])
        figures.save(tmp_path, "01_cards", fig, data)
        with warnings.catch_warnings(action="error"):
            fig.canvas.print_figure(io.BytesIO(), bbox_inches="tight")
        plt.close(fig)
        return (tmp_path / "figures/01_cards.png").read_bytes()

    plain, card = saved(), shown()
    odd = {
        "text.usetex": True,
        "savefig.dpi": 33,
        "savefig.transparent": True,
        "savefig.bbox": "tight",
        "lines.linewidth": 9,
        "mathtext.fontset": "stix",
        "font.family": "serif",
        "axes.xmargin": 0.4,
        "figure.figsize": (1, 9),
    }
    with mpl.rc_context(odd):
        assert saved() == plain
    with mpl.rc_context({**odd, "text.usetex": False}):
        assert shown() == card
        assert mpl.rcParams["lines.linewidth"] == 9, (
            "the user's own figures keep theirs"
        )


def test_start_leaves_the_users_settings_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "OUTPUTS", tmp_path)
    with (
        mpl.rc_context({"text.usetex": True}),
        pd.option_context("display.max_rows", 3),
    ):
        inline = notebook.InlineBackend.instance()
        inline.figure_formats = {"svg"}
        backend = mpl.get_backend()
        given = {"study": "tiny", "seed": 0, "device": "cpu"}
        declared = {key: type(value) for key, value in given.items()}
        notebook.start("01_one", {**given, "__annotations__": declared})
        assert mpl.rcParams["text.usetex"] is False
        assert pd.options.display.max_rows == 60
        assert inline.figure_formats == {"png"}
        assert mpl.get_backend() == backend


# What is shared


def test_ledgers_are_encoded_as_every_reader_knows(tmp_path):
    predictions.write(
        tmp_path,
        dataset="toy",
        backbone="RN50",
        method="m",
        ids=[str(number) for number in range(100)],
        labels=np.arange(100) % 4,
        logits=np.random.default_rng(0).normal(size=(100, 4)),
        seconds_per_image=0.1,
        settings={},
    )
    path = predictions.ledger_path(tmp_path, "toy", "RN50", "m")
    about = pq.ParquetFile(path).metadata
    group = about.row_group(0)
    for number in range(group.num_columns):
        column = group.column(number)
        assert set(column.encodings) <= {"PLAIN", "RLE"}, column.path_in_schema
        assert column.compression == "SNAPPY"
    assert about.format_version == "2.6"
    types_ = [str(field.type) for field in pq.read_schema(path)]
    assert types_ == ["string", *["int64"] * 2, *["float"] * 2, "list<element: float>"]


def test_a_clone_on_windows_has_the_same_bytes(tmp_path):
    """With core.autocrlf, as Git for Windows sets it."""

    def git(*arguments: str) -> None:
        own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.autocrlf=true"]
        subprocess.run(["git", *own, *arguments], check=True, capture_output=True)

    names = [
        *(".gitattributes", ".ci/run", "Makefile", "params/smoke.yaml"),
        "notebooks/01_zero_shot.ipynb",
        "src/helpers/results/published_results.csv",
    ]
    source = tmp_path / "source"
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths.ROOT / name, source / name)
    kinds = {
        "x.png": b"\x89PNG\r\n\x1a\n",
        "x.safetensors": b"a\r\nb\n",
        "x.gz": b"\r\n",
    }
    for name, content in kinds.items():
        (source / name).write_bytes(content)
    git("init", "-q", str(source))
    git("-C", str(source), "add", "-A")
    git("-C", str(source), "commit", "-qm", "x")
    git("clone", "-q", str(source), str(tmp_path / "clone"))
    for name in [*names, *kinds]:
        copy = (tmp_path / "clone" / name).read_bytes()
        assert copy == (source / name).read_bytes(), name
        assert name in kinds or b"\r\n" not in copy, name


def test_a_copy_without_notebooks_says_where_to_run_from(tmp_path):
    """What `pip install .` makes: the package, and nothing beside it."""
    ours = Path(paths.__file__).parent
    unneeded = shutil.ignore_patterns("assets", "__pycache__", "picto")
    site = tmp_path / "lib" / "site-packages"
    shutil.copytree(ours, site / "helpers", ignore=unneeded)
    for arguments in (["list"], ["run", "picto"], ["doctor", "picto"]):
        done = subprocess.run(
            [sys.executable, "-m", "helpers.study", *arguments],
            env=os.environ | {"PYTHONPATH": str(site)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert "pip install -e ." in done.stderr
        assert str(site / "helpers") in done.stderr
        assert done.stderr.count("\n") == 1


def test_what_a_chapter_left_is_told_without_a_clock(tmp_path):
    for name in ("old", "renewed"):
        figures.save_table(tmp_path, f"01_{name}", pd.DataFrame({"x": [1]}))
    before = fingerprints.states(tmp_path, "01")
    for name in ("renewed", "new"):
        path = figures.save_table(tmp_path, f"01_{name}", pd.DataFrame({"x": [1]}))
        os.utime(path, (1, 1))  # as with a clock that was set back
    found = fingerprints.written_since(tmp_path, "01", before)
    assert found == ["tables/01_new.csv", "tables/01_renewed.csv"]
