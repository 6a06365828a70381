"""The command line. Heavy imports wait until a command needs them."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers import paths
from helpers.study import parameters


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status.

    0: done. 1: a chapter failed, the others may have run; or the doctor found something
    missing. 2: wrong input.
    130: interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except (ValueError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="study",
        description="What does adapting CLIP at test time buy, and what does it cost?",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    study = argparse.ArgumentParser(add_help=False)
    study.add_argument(
        "name", metavar="NAME", help="a study, or the path of a .yaml file"
    )
    study.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        dest="overrides",
        help="set a parameter, say -p images 200",
    )

    one = commands.add_parser("list", help="the studies and what each one needs")
    one.set_defaults(command=_list)

    one = commands.add_parser(
        "doctor", parents=[study], help="check that a study's data are in place"
    )
    one.set_defaults(command=_doctor, only=[])

    one = commands.add_parser("run", parents=[study], help="run a study's notebooks")
    one.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NN",
        help="run these notebooks, say 01 04",
    )
    one.add_argument(
        "--outputs",
        type=Path,
        default=paths.OUTPUTS,
        metavar="DIR",
        help="write to DIR/STUDY (default: outputs)",
    )
    one.add_argument(
        "--again",
        action="store_true",
        help="run chapters that are finished, too, and replace their results",
    )
    spread = one.add_mutually_exclusive_group()
    spread.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="spread the work over N processes of this machine",
    )
    spread.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="spread it over the Ray cluster that this machine is a node of",
    )
    one.set_defaults(command=_run)

    one = commands.add_parser("site", help="make a study's outputs into web pages")
    one.add_argument(
        "name", metavar="NAME", help="a study that has run, or the path of its .yaml"
    )
    one.add_argument(
        "--outputs",
        type=Path,
        default=paths.OUTPUTS,
        metavar="DIR",
        help="read and write DIR/STUDY (default: outputs)",
    )
    one.set_defaults(command=_site)

    one = commands.add_parser("train", help="make an embedded model anew")
    one.add_argument("what", metavar="WHAT", help="say picto-rn")
    one.add_argument(
        "options",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="its own; `study train WHAT --help` lists them",
    )
    one.set_defaults(command=_train)

    one = commands.add_parser(
        "generate", help="have a language model describe the classes of a data set"
    )
    one.add_argument("what", metavar="WHAT", help="texts")
    one.add_argument(
        "options",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="its own; `study generate texts --help` lists them",
    )
    one.set_defaults(command=_generate)
    return parser


def _list(arguments: argparse.Namespace) -> int:
    rows = [("study", "data set", "backbone", "needs")]
    for name in parameters.studies(paths.PARAMS):
        path = parameters.study_file(name, paths.PARAMS)
        values = parameters.read(path)
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        needs = first.removeprefix("#").strip() if first.startswith("#") else ""
        rows.append((name, values.get("dataset"), values.get("backbone"), needs))
    widths = [max(len(str(row[column])) for row in rows) for column in range(3)]
    for row in rows:
        cells = zip(row, widths, strict=False)
        print("  ".join(f"{cell!s:<{width}}" for cell, width in cells), row[3])
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    jobs = _plan(arguments)
    from helpers.data import doctor
    from helpers.study import resources

    merged = {k: v for job in jobs for k, v in job.parameters.items()}
    report = doctor.diagnose(merged, jobs)
    resources.check_room(report, jobs, paths.OUTPUTS)
    print(report.text())
    return 0 if report.ok else 1


def _run(arguments: argparse.Namespace) -> int:
    print(f"study {arguments.name}: checking its parameters", flush=True)
    jobs = _plan(arguments)
    from helpers import scale
    from helpers.study import resources, runner

    print(resources.check(jobs, arguments.outputs.absolute()), flush=True)
    try:
        with scale.chosen(arguments.workers, arguments.ray_address):
            folder = runner.run(jobs, arguments.outputs.absolute(), arguments.again)
    except runner.NotebookFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    print(f"Notebooks, figures, tables and results.csv: {parameters.shown(folder)}")
    return 0


def _site(arguments: argparse.Namespace) -> int:
    from helpers.results import site

    name = Path(arguments.name)
    study = name.stem if name.suffix in (".yaml", ".yml") else arguments.name
    index = site.build(arguments.outputs.absolute() / study)
    print(f"Open {parameters.shown(index)} in a browser")
    return 0


def _plan(arguments: argparse.Namespace) -> list[parameters.Job]:
    return parameters.plan(
        arguments.name,
        paths.PARAMS,
        paths.NOTEBOOKS,
        arguments.only,
        {key: _from_here(key, value) for key, value in arguments.overrides},
    )


def _from_here(key: str, value: str) -> str:
    """A path on the command line counts from the folder one stands in."""
    if key != "data_root":
        return value
    return str(Path(os.path.expanduser(value)).absolute())


def _train(arguments: argparse.Namespace) -> int:
    from helpers.picto import make

    return make.main(arguments.what, arguments.options)


def _generate(arguments: argparse.Namespace) -> int:
    from helpers.prompts import generate

    return generate.main(arguments.what, arguments.options)
