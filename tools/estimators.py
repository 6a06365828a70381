"""Learn to tell accuracy without labels: `python tools/estimators.py FOLDER`.

Reads the ledgers of a finished study, prints how well its estimates did on data sets
left out, and writes what was learned from all of them to
src/helpers/results/estimates.json, which `helpers.results.estimates.packaged` loads.
"""

import json
import sys
from pathlib import Path

from helpers import data
from helpers.files import replacing
from helpers.paths import PARAMS, ROOT
from helpers.results import estimates, trials
from helpers.study.parameters import layers, merged, study_file

TARGET = ROOT / "src" / "helpers" / "results" / estimates.PACKAGED


def learned(folder: Path) -> dict[str, dict]:
    """The fit without and with the second backbone of the study, as JSON can say it.

    The folder is called like its study, whose parameters name data sets and backbones.
    """
    study = merged(layers(study_file(folder.name, PARAMS), PARAMS))
    names = [study["dataset"], *study["shifts"]]
    sets = [data.read(name, study["data_root"]) for name in names]
    found = {}
    for key, second in (("alone", ""), ("second", study["second_backbone"])):
        pool = trials.read(folder, sets, study["backbone"], second)
        drawn = trials.draw(pool)
        measured = trials.measure(pool, drawn)
        print(f"\n{key}\n{trials.summary(measured).round(3).to_string()}")
        found[key] = estimates.as_json(trials.package(pool, drawn, measured))
    return found


def main(folder: str) -> None:
    """Write the fits of a finished study."""
    text = json.dumps(learned(Path(folder)), indent=1)
    with replacing(TARGET) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
