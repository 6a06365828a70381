"""The ways in (make, pip, conda) agree, and make sets up from nothing but python3."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
LINES = (ROOT / "requirements.txt").read_text().splitlines()
PINS = [Requirement(line) for line in LINES if not line.startswith("#")]
NEEDS = [
    Requirement(text)
    for extra, texts in {
        "": PROJECT["dependencies"],
        **PROJECT["optional-dependencies"],
    }.items()
    if extra != "browser"  # of one test, which make browser installs
    for text in texts
]
REFERENCE = ROOT / "outputs/reference"


# Agreement


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: need.name)
def test_every_dependency_is_pinned_as_pyproject_allows(need):
    pins = [
        p for p in PINS if canonicalize_name(p.name) == canonicalize_name(need.name)
    ]
    assert pins
    for pin in pins:
        assert need.specifier.contains(version_of(pin)), pin
    for minor in (11, 12, 13, 14):
        python = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.6"}
        fitting = [p for p in pins if not p.marker or p.marker.evaluate(python)]
        assert len(fitting) == 1, f"pins of {need.name} for Python 3.{minor}: {fitting}"


def test_requirements_are_plain_pins():
    for line, pin in zip(LINES, PINS, strict=True):
        assert "://" not in line
        assert pin.url is None
        assert [s.operator for s in pin.specifier] == ["=="], line


def test_environment_is_of_the_pinned_versions():
    import importlib.metadata

    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate():
            installed = importlib.metadata.version(pin.name)
            assert pin.specifier.contains(installed), (pin, installed)


def test_conda_takes_the_same_python_pins_and_package():
    python, pip, extra = CONDA["dependencies"]
    assert pip == "pip"
    pinned = python.removeprefix("python=")
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{pinned}.0")
    assert extra == {"pip": ["-r requirements.txt", "-e ."]}
    assert CONDA["name"] == PROJECT["name"]


def test_licence_and_citation_say_what_pyproject_says():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert citation["title"] in PROJECT["description"]
    assert citation["authors"]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_ci_runs_the_readmes_test_command():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"
    assert re.search(r"^ *make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)


def version_of(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    return specifier.version


# Make


@pytest.fixture
def checkout(tmp_path):
    """A fresh checkout's files that make looks at, and a PATH of recording tools."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "rm", "mkdir", "touch", "grep", "env", "chmod", "cat"):
        (tools / name).symlink_to(shutil.which(name))
    return tmp_path


def tool(checkout: Path, name: str, script: str) -> None:
    """A stand-in that notes its call in `calls` and runs a line of shell."""
    path = checkout / "tools" / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> calls\n{script}\n')
    path.chmod(0o755)


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess:
    (checkout / "calls").write_text("")
    return subprocess.run(
        [shutil.which("make"), *arguments],
        cwd=checkout,
        env={"PATH": str(checkout / "tools")},
        capture_output=True,
        text=True,
    )


def calls(checkout: Path) -> list[str]:
    return (checkout / "calls").read_text().splitlines()


UV = "mkdir -p .venv"
UV_FROM_PIP = """
case "$*" in *'pip install'*)
    mkdir -p .uv/bin
    printf '#!/bin/sh\\necho "own-uv $*" >> calls\\nmkdir -p .venv\\n' > .uv/bin/uv
    chmod +x .uv/bin/uv
esac"""


def test_make_uses_the_uv_that_is_there_and_sets_up_once(checkout):
    tool(checkout, "python3", "exit 0")
    tool(checkout, "uv", UV)
    done = make(checkout, ".venv/.ready")
    assert done.returncode == 0, done.stderr
    _, _, create, install = calls(checkout)
    assert create == f"uv venv --quiet --python {checkout}/tools/python3 .venv"
    assert install == (
        "uv pip install --python .venv/bin/python "
        "--requirement requirements.txt --editable ."
    )
    make(checkout, ".venv/.ready")
    assert calls(checkout) == ["uv --version"]
    os.utime(checkout / "requirements.txt", (2**31, 2**31))
    make(checkout, ".venv/.ready", "TORCH=cpu")
    assert calls(checkout)[-1] == f"{install} --torch-backend cpu"


def test_make_fetches_uv_with_pip_where_there_is_none(checkout):
    tool(checkout, "python3", UV_FROM_PIP)
    done = make(checkout, ".venv/.ready")
    assert done.returncode == 0, done.stderr
    _, fetch, *_, install = calls(checkout)
    assert fetch == "python3 -m pip install --quiet --upgrade --target .uv uv"
    assert install.startswith("own-uv pip install")


def test_make_says_what_is_missing(checkout):
    tool(checkout, "python3", 'case "$*" in *version_info*) exit 1; esac')
    done = make(checkout, ".venv/.ready")
    assert done.returncode == 2
    assert "python3 is missing or older than 3.11" in done.stderr
    assert len(calls(checkout)) == 1
    tool(checkout, "python3", 'case "$*" in *version_info*) ;; *) exit 1; esac')
    done = make(checkout, ".venv/.ready")
    assert "Cannot fetch uv: install pip" in done.stderr
    assert not (checkout / ".venv/.ready").exists()


def test_failed_installation_is_not_taken_for_a_whole_one(checkout):
    tool(checkout, "python3", "exit 0")
    tool(checkout, "uv", 'mkdir -p .venv; case "$*" in *install*) exit 1; esac')
    assert make(checkout, ".venv/.ready").returncode == 2
    assert not (checkout / ".venv/.ready").exists()


def test_make_help_names_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)", text, re.MULTILINE)
    named = re.findall(r"^  make (\w+) +\S", done.stdout, re.MULTILINE)
    assert sorted(named) == sorted(phony.split())


# The committed run


def test_reference_run_is_small_and_free_of_machine_names():
    files = [path for path in REFERENCE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20e6
    private = [str(ROOT), str(Path.home()), sys.prefix]
    private += [socket.gethostname()] if len(socket.gethostname()) > 4 else []
    for path in files:
        if path.suffix != ".png":
            content = path.read_text(encoding="utf-8")
            # The letters of a picture may spell anything, even a short path.
            content = re.sub(r'"image/png": "[^"]*"', "", content)
            assert not [name for name in private if name in content], path


def test_tests_of_a_group_share_a_process(request):
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@test_environment")
