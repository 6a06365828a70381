"""The command line. Heavy imports wait until a command needs them."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from helpers import files, paths
from helpers.study import parameters, process, report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status.

    0: done. 1: a chapter failed, the others may have run; the doctor found something
    missing; or a picture could not be read, the others are classified. 2: wrong input,
    or a folder that cannot be written. 3: a kernel did not start. 130: interrupted, 129
    or 143: stopped by SIGHUP or SIGTERM. 141: nobody reads the output.
    """
    if sys.platform == "win32":
        process.print_error("the study runs on Linux and macOS: on Windows, use WSL 2")
        return 2
    with process.prepared():
        try:
            arguments = _parser().parse_args(argv)
            status = arguments.command(arguments)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            process.discard_output()
            return process.NO_READER
        except (ValueError, OSError, RuntimeError) as error:
            process.print_error(str(error))
            return 2
        except KeyboardInterrupt as stop:
            process.print_error(str(stop) or "interrupted")
            return getattr(stop, "status", 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="study",
        description="What does adapting CLIP at test time buy, and what does it cost?",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        function: Callable, text: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        """Add the command that calls a function of its name."""
        name = function.__name__.removeprefix("_")
        one = commands.add_parser(name, parents=parents, help=text)
        one.set_defaults(command=function)
        return one

    study = argparse.ArgumentParser(add_help=False)
    text = "a study, or the path of a .yaml file"
    study.add_argument("name", metavar="NAME", help=text)
    study.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        dest="overrides",
        help="set a parameter, say -p images 200",
    )
    outputs = argparse.ArgumentParser(add_help=False)
    outputs.add_argument(
        "--outputs",
        type=_outputs,
        default=paths.OUTPUTS,
        metavar="DIR",
        help="the results' folder is DIR/STUDY (default: outputs)",
    )
    weights = "", "default: picto for an embedded CLIP, or openai"
    device = "auto", "auto, cpu, cuda or mps"

    add(_list, "the studies and what each one needs")
    one = add(_doctor, "check that a study's data are in place", study)
    one.set_defaults(only=[])

    one = add(_run, "run a study's notebooks", study, outputs)
    text = "run these notebooks, say 01 04"
    one.add_argument("--only", nargs="+", default=[], metavar="NN", help=text)
    text = "run chapters that are finished, too, and replace their results"
    one.add_argument("--again", action="store_true", help=text)
    spread = one.add_mutually_exclusive_group()
    text = "spread the work over N processes of this machine"
    spread.add_argument("--workers", type=int, metavar="N", help=text)
    text = "spread it over the Ray cluster that this machine is a node of"
    spread.add_argument("--ray-address", metavar="HOST:PORT", help=text)

    one = add(_site, "make a study's outputs into web pages", outputs)
    text = "a study that has run, or the path of its .yaml"
    one.add_argument("name", metavar="NAME", help=text)

    one = add(_behaviour, "what a CLIP does before any method adapts it")
    one.add_argument("name", metavar="NAME", help="a backbone, say picto-rn")
    text = "a data set or a folder of yours (default: picto-dev)"
    options = {
        "--weights": weights,
        "--dataset": ("picto-dev", text),
        "--data-root": ("", "the folder that holds data sets"),
        "--images": (400, "at most for each measure, 0 for all"),
        "--device": device,
        "--precision": ("float32", "float32, bfloat16 or float16 (GPU)"),
    }
    _add_options(one, options)
    text = "class names for a folder whose pictures need no folder of their class"
    one.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help=text)
    one.add_argument("--json", type=paths.from_here, metavar="FILE", help="write here")

    one = add(_classify, "ask a CLIP and adaptation methods what a picture shows")
    one.add_argument("files", nargs="+", metavar="IMAGE", help="a picture file")
    text = 'the classes, say "cat, dog | hound, fox", or a .txt or .csv file'
    one.add_argument("--names", required=True, metavar="NAMES", help=text)
    text = "say zero, or several with commas between them "
    text += "(default: zero_shot, vote, autoclip, tpt)"
    one.add_argument("--method", action="append", metavar="METHOD", help=text)
    text = "an open_clip architecture (default: picto-rn, which knows drawn pictures "
    text += "only; for photographs ViT-B-32-quickgelu)"
    options = {
        "--model": ("picto-rn", text),
        "--weights": weights,
        "--views": (64, "crops of a picture, itself included (default: 64)"),
        "--recipe": ("preaugment", "of the views (default: preaugment)"),
        "--context": ("a photo of a", 'words before a name (default: "a photo of a")'),
        "--templates": (
            "openai_80",
            "for methods of several prompts (default: openai_80)",
        ),
        "--seed": (0, "of the views (default: 0)"),
        "--device": device,
    }
    _add_options(one, options)
    one.add_argument("--json", action="store_true", help="print one JSON object")

    one = add(_train, "make an embedded model anew")
    one.add_argument("what", metavar="WHAT", help="say picto-rn")
    text = "its own; `study train WHAT --help` lists them"
    one.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help=text)
    return parser


def _add_options(
    parser: argparse.ArgumentParser, options: Mapping[str, tuple[str | int, str]]
) -> None:
    """Options of one value each: name -> (default, help)."""
    for name, (default, text) in options.items():
        parser.add_argument(name, type=type(default), default=default, help=text)


def _outputs(folder: str) -> Path:
    return paths.from_here(folder) if folder else paths.OUTPUTS


def _list(arguments: argparse.Namespace) -> int:
    paths.require_checkout()
    rows = [("study", "data set", "backbone", "needs")]
    for name in parameters.studies(paths.PARAMS):
        path = parameters.study_file(name, paths.PARAMS)
        values = parameters.merged(parameters.layers(path, paths.PARAMS))
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        needs = first.removeprefix("#").strip() if first.startswith("#") else ""
        named = (str(values.get(key)) for key in ("dataset", "backbone"))
        rows.append((name, *named, needs))
    print(report.aligned(rows))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    jobs = _plan(arguments)
    from helpers.study import doctor

    _check_folders(jobs, paths.OUTPUTS)
    merged = {k: v for job in jobs for k, v in job.parameters.items()}
    found = doctor.diagnose(merged, jobs)
    print(found.text())
    return 0 if found.ok else 1


def _run(arguments: argparse.Namespace) -> int:
    print(f"study {arguments.name}: checking its parameters", flush=True)
    jobs = _plan(arguments)
    from helpers import parallel
    from helpers.data import embedded
    from helpers.study import runner

    _check_folders(jobs, arguments.outputs)
    given = {k: v for job in jobs for k, v in job.parameters.items()}
    data_sets = [given["dataset"]] if "dataset" in given else []
    if told := embedded.strange(given.get("weights", ""), data_sets):
        print(f"Note: {told}", flush=True)
    try:
        with parallel.chosen(arguments.workers, arguments.ray_address):
            folder = runner.run(jobs, arguments.outputs, arguments.again)
    except KeyboardInterrupt as stop:
        again = ", without --again," if arguments.again else ""
        stop.args = (
            f"{str(stop) or 'interrupted'}\n"
            f"The same command{again} goes on from there: chapters that are finished "
            "are not run again",
        )
        raise
    except (runner.NotebookFailed, runner.KernelMissing) as failure:
        process.print_error(str(failure))
        return 1 if isinstance(failure, runner.NotebookFailed) else 3
    print(f"Notebooks, figures, tables and results.csv: {paths.shown(folder)}")
    return 0


def _site(arguments: argparse.Namespace) -> int:
    from helpers.study import site

    name = Path(arguments.name)
    study = name.stem if name.suffix in (".yaml", ".yml") else arguments.name
    index = site.build(arguments.outputs / study)
    print(f"Open {paths.shown(index)} in a browser")
    return 0


def _plan(arguments: argparse.Namespace) -> list[parameters.Job]:
    paths.require_checkout()
    overrides = dict(arguments.overrides)
    return parameters.plan(
        arguments.name,
        paths.PARAMS,
        paths.NOTEBOOKS,
        arguments.only,
        parameters.resolve_all(overrides, paths.here()) if overrides else {},
        log=print,
    )


def _check_folders(jobs: Sequence[parameters.Job], outputs: Path) -> None:
    """Raise `files.NotWritable` before any work where it could not be saved."""
    files.check_writable(outputs / jobs[0].parameters["study"])
    files.check_writable(paths.CACHE)


def _behaviour(arguments: argparse.Namespace) -> int:
    from helpers.models import clip, embedded
    from helpers.study import behaviour

    own = embedded.TAG if arguments.name in embedded.names() else "openai"
    weights = parameters.resolve("weights", arguments.weights or own, paths.here())
    root = arguments.data_root and str(paths.from_here(arguments.data_root))
    dataset, labelled = behaviour.read(arguments.dataset, root, arguments.classes)
    backbone = clip.load(arguments.name, weights, arguments.device, arguments.precision)
    found = behaviour.card(backbone, dataset, labelled, arguments.images)
    table = behaviour.beside_published({backbone.name: found})
    print(f"{backbone.name}, weights {weights}, on {dataset.name}")
    print(table.to_string(index=False))
    if arguments.json:
        with files.replacing(arguments.json) as temporary:
            found.to_json(temporary, orient="records", indent=1)
    return 0


def _classify(arguments: argparse.Namespace) -> int:
    from helpers.study import classify

    return classify.run(arguments)


def _train(arguments: argparse.Namespace) -> int:
    from picto import make

    return make.main(arguments.what, arguments.options)
