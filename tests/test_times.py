"""What a study takes of time: what is counted, what is timed, what the doctor says."""

import re
from collections import Counter

import pytest

from helpers import data, paths
from helpers.models import clip
from helpers.notebooks import number_of
from helpers.study import doctor, parameters, times

ONE = dict.fromkeys(times.NAMES, 1.0)


class Pictures:
    """So many pictures of 200 classes, none of which is looked at."""

    class_names = tuple(f"class {i}" for i in range(200))

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


@pytest.fixture(autouse=True)
def models(monkeypatch):
    """Optional models are here, unless a test takes some away."""
    away: set[str] = set()
    monkeypatch.setattr(
        times.optional, "lacking", lambda key, name: "away" if key in away else ""
    )
    return away


def work_of(study: str, images: int = 7500, **changes: object) -> dict[str, Counter]:
    """Number of the chapter -> what is counted."""
    found = {}
    for job in parameters.plan(study, paths.PARAMS, paths.NOTEBOOKS):
        known = {k: v for k, v in changes.items() if k in job.parameters}
        job = parameters.Job(job.notebook, {}, {**job.parameters, **known})
        number = number_of(job.notebook.stem)
        names = [job.parameters["dataset"], *job.parameters["shifts"]]
        found[number] = times.work(job, {name: Pictures(images) for name in names})
    return found


def test_what_chapters_do_is_counted():
    found = work_of("imagenet_a_rn50")
    wordings, templates = 6, 1 + 1 + 7 + 80
    assert found["01"] == {
        "read": 7500,
        "encoded": 7500,
        "texts": 200 * (wordings + templates),
    }
    views = 1000 * 64 * 3 + 100 * 64
    assert found["02"]["drawn"] == views
    assert found["02"]["encoded"] == 1000 + views
    swept = 100 * (3 + 4 + 2 * 3)
    assert found["02"]["steps"] == 200 * (5 * 3 * 1000 + swept)
    assert found["03"]["captions"] == 7500
    assert found["03"]["prompts"] >= 200 * 2 * 7500
    assert found["05"]["trained"] == 50 * 3750 * (2 + 4 + 1) + 50 * 3750
    streams = 3750 * 11  # TENT online, and ten steps per batch
    assert found["05b"]["trained"] == streams + 50 * 3750 + 100 * 16
    views = 1000 * 64  # those of chapter 02, if they are still there
    texts = 200 * (1 + 80)
    assert found["06"] == {"drawn": views, "encoded": views, "texts": texts}
    views = (1000 + 200) * 64  # at full price, and TPT after each of 8 stages
    assert found["06c"] == {
        "drawn": views,
        "encoded": views,
        "steps": 200 * 8 * 1200,
    }
    views = 1000 * 64
    assert found["07"] == {}
    more = 2 * 500 * 64  # other random views of some images
    doses = {"read": 0, "drawn": views + more, "encoded": views + more}
    tuned = 200 * 500 * (4 + 2)  # learning rates, and TPT in two forms
    assert found["06b"] == doses | {"texts": 200 * 20, "steps": tuned}
    own = {"read": 1000, "drawn": views, "encoded": views + 1000, "texts": texts}
    assert found["08"] == own | {"steps": 200 * 1000}
    assert not found["02b"].keys() - times.NAMES.keys()


@pytest.mark.parametrize(
    ("changed", "chapters", "part"),
    [
        ({"images": 500}, ["01", "02", "05", "05b"], "encoded"),
        ({"view_count": 10}, ["02", "02b", "04", "05b", "06", "06b", "08"], "drawn"),
        ({"view_images": 100}, ["02", "02b", "08"], "steps"),
        ({"augmentations": ["preaugment"]}, ["02"], "steps"),
        ({"learning_rates": [0.1]}, ["02", "06b"], "steps"),
        ({"max_minutes": 2.0}, ["02b"], "variations"),
        ({"caption_images": 100}, ["03"], "captions"),
        ({"noise_shares": []}, ["03"], "prompts"),
        ({"prompt_sets": ["styles"]}, ["04"], "texts"),
        ({"betas": [1.0]}, ["04"], "products"),
        ({"epochs": 2}, ["05", "05b"], "trained"),
        ({"long_epochs": 2}, ["05"], "trained"),
        ({"seeds": 1}, ["05"], "trained"),
        ({"pool_images": 100}, ["05", "05b"], "trained"),
        ({"test_images": 100, "pool_images": 3750}, ["05", "05b"], "encoded"),
        ({"episodic_images": 10}, ["05b"], "drawn"),
        ({"dose_images": 100}, ["06b"], "steps"),
        ({"view_seeds": 1}, ["06b"], "drawn"),
    ],
)
def test_smaller_parameters_take_less(changed, chapters, part):
    before = work_of("imagenet_a_rn50")
    after = work_of("imagenet_a_rn50", changed.pop("images", 7500), **changed)
    for number in chapters:
        assert after[number][part] < before[number][part], number


def test_learned_starts_a_second_backbone_and_shifts_are_counted():
    found, alone = work_of("picto", 2000), work_of("picto", 2000, second_backbone="")
    assert found["01"]["encoded"] == 2 * 6 * 2000 == 2 * alone["01"]["encoded"]
    assert found["02"]["steps"] > work_of("picto", 2000, few_shot="")["02"]["steps"]
    both = ("02", "03", "04", "05", "05b", "06b")
    assert all(found[n].total() > alone[n].total() for n in both)
    assert found["06b"]["drawn"] > work_of("picto", 2000, scenes="")["06b"]["drawn"]


def test_notebooks_of_ones_own_are_no_trouble(tmp_path):
    own = {"backbone": "RN50", "captioner": "a/b", "diffusion": "c/d", "wordings": []}
    job = parameters.Job(tmp_path / "08_mine.ipynb", {}, own)
    assert times.work(job, {"imagenet-a": Pictures(10)})["encoded"] == 10
    assert times.work(parameters.Job(job.notebook, {}, {}), {}) == {}


def test_chapters_take_nothing_without_their_model(models):
    models |= {"diffusion"}
    whole = work_of("imagenet_a_rn50")
    assert not whole["02b"]
    models |= {"embeddings"}
    part = work_of("imagenet_a_rn50")
    assert 0 < part["03"]["prompts"] < whole["03"]["prompts"]
    models |= {"captioner"}
    assert not work_of("imagenet_a_rn50")["03"]


def test_everything_that_is_counted_is_timed():
    jobs = parameters.plan("smoke", paths.PARAMS, paths.NOTEBOOKS)
    merged = {key: value for job in jobs for key, value in job.parameters.items()}
    pace, where = times.paces(merged, data.read("picto-a"))
    assert pace.keys() == times.NAMES.keys()
    assert where == "cpu"
    assert all(0 < seconds < 10 for seconds in pace.values()), pace


def test_a_pace_is_that_of_many_where_few_are_done_at_once(monkeypatch):
    clock, asked = [0.0], []

    def call(n: int) -> None:
        asked.append(n)
        clock[0] += 0.1 + 0.001 * n  # seconds

    monkeypatch.setattr(times.time, "perf_counter", lambda: clock[0])
    assert times._each(call) == pytest.approx(0.001 + 0.1 / times.MOST)
    assert asked == [2, 2, 8, 32]
    asked.clear()
    assert times._each(lambda n: call(1000 * n)) == pytest.approx(1.05)
    assert asked == [2000, 2000]


def test_the_doctor_tells_what_each_chapter_takes(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        times, "paces", lambda p, dataset: asked.update(p) or (ONE, "cpu")
    )
    jobs = parameters.plan("imagenet_a_rn50", paths.PARAMS, paths.NOTEBOOKS)
    for here in (True, False):
        report = doctor.Report()
        times.check_time(report, jobs, {"imagenet-a": Pictures(7500)}, here)
        text = report.text()
        assert asked["weights"] == ("openai" if here else "random")
        assert ("with random weights" in text) is not here
    seconds = times.START + work_of("imagenet_a_rn50")["01"].total()
    line = next(x for x in text.splitlines() if "01_zero_shot" in x)
    assert f"about {seconds / 3600:.1f} h (encoding texts 5.3 h, " in line
    hours = [float(x) for x in re.findall(r"_\w+: about ([\d.]+) h", text)]
    assert float(re.search(r"about ([\d.]+) h, timed", text)[1]) == pytest.approx(
        sum(hours), rel=0.01
    )


def test_weights_that_do_not_load_stop_the_study(monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("not the state dict of this architecture")

    monkeypatch.setattr(clip, "load", refuse)
    jobs = parameters.plan("smoke", paths.PARAMS, paths.NOTEBOOKS)
    report = doctor.Report()
    times.check_time(report, jobs, {"picto": data.read("picto")}, True)
    assert not report.ok
    assert "not the state dict" in report.text()


def test_durations_are_told_in_fitting_units():
    assert times.duration(0.2) == "1 s"
    assert times.duration(89) == "89 s"
    assert times.duration(91) == "1.5 min"
    assert times.duration(5400) == "1.5 h"
