"""Figures: the numbers behind them, and that nothing is cut off."""

from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from helpers import figures
from helpers.figures import chapter_01, chapter_02, chapter_06c, explore, style
from helpers.methods import registry
from helpers.results import compare, metrics


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def pictures(n):
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (40, 90), (300, 100)]
    return [
        Image.fromarray(rng.integers(0, 255, (*sizes[i % 3], 3), dtype=np.uint8))
        for i in range(n)
    ]


def names(n):
    return [f"number {i} of the classes with a long name" for i in range(n)]


def batch(n, classes):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    logits = 2 * rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += 4
    return logits, labels


def results(datasets, methods, seeds=(0,)):
    rows = [
        {
            "dataset": d,
            "backbone": "RN50",
            "method": m,
            "seed": s,
            "top1": 0.3 + 0.01 * s,
        }
        for d in datasets
        for m in methods
        for s in seeds
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(ci_low=frame["top1"] - 0.02, ci_high=frame["top1"] + 0.02)


def comparison(datasets, methods):
    rng = np.random.default_rng(0)
    base = rng.random(500) < 0.4
    rows = []
    for dataset in datasets:
        for number, method in enumerate(methods):
            other = np.where(rng.random(500) < 0.1, rng.random(500) < 0.9, base)
            about = {"dataset": dataset, "backbone": "RN50", "method": method}
            about |= {"seed": number % 2, "baseline": "zero_shot"}
            rows.append(about | compare.paired_difference(other, base))
    frame = pd.DataFrame(rows)
    return compare.corrected(frame)


def matrix(images, texts, **options):
    similarity = np.random.default_rng(0).normal(0.2, 0.05, (images, texts))
    return chapter_01.similarity_matrix(
        pictures(images), names(texts), similarity, **options
    )


def reliability(*temperatures):
    logits, labels = batch(300, 5)
    return figures.reliability_diagram(
        {
            f"zero_shot_with_a_long_name / {t}": metrics.reliability_bins(
                logits / t, labels
            )
            for t in temperatures
        }
    )


def of_predictions(draw, n, classes, **options):
    logits, labels = batch(n, classes)
    return draw(labels, logits.argmax(1), names(classes), **options)


def per_class(n, classes):
    logits, labels = batch(n, classes)
    return chapter_01.per_class_accuracy(
        metrics.per_class(labels, logits.argmax(1), names(classes))
    )


LONG = ["zero_shot", "vote_of_confident_views", "tpt", "caption_prompts_blip"]
DRAWINGS = {
    "matrix": lambda: matrix(4, 4),
    "matrix of one image": lambda: matrix(1, 2, correct=[1]),
    "grid": lambda: figures.image_grid(pictures(7), names(7), columns=4),
    "grid of one": lambda: figures.image_grid(pictures(1), ["one"]),
    "accuracy": lambda: figures.accuracy_by_dataset(
        results(["imagenet-a", "imagenet-sketch"], LONG, (0, 1))
    ),
    "accuracy of one": lambda: figures.accuracy_by_dataset(results(["a"], ["tpt"])),
    "paired": lambda: figures.paired_differences(comparison(["a", "b"], LONG[1:])),
    "paired of one": lambda: figures.paired_differences(comparison(["a"], ["tpt"])),
    "reliability": lambda: reliability(1),
    "reliability of four": lambda: reliability(0.25, 0.5, 1, 4),
    "confusions": lambda: of_predictions(chapter_01.confusion_matrix, 900, 300),
    "confusions of two": lambda: of_predictions(chapter_01.confusion_matrix, 60, 2),
    "pairs": lambda: of_predictions(chapter_01.confusion_pairs, 900, 300),
    "per class": lambda: per_class(300, 20),
    "per class of many": lambda: per_class(900, 300),
    "views": lambda: view_rows(["preaugment", "torchvision_autoaugment"], 8),
    "views of one": lambda: view_rows(["augmix"], 1),
    "first step": lambda: first_step(4, 128),
    "before and after": lambda: before_and_after(5, ["zero_shot", "tpt", "vote"]),
    "before and after of one": lambda: before_and_after(1, ["tpt"]),
    "map": lambda: figures.difference_map(
        comparison(["imagenet-a", "b"], LONG), ["dataset", "backbone"]
    ),
    "panels": lambda: figures.difference_panels(
        comparison(["imagenet-a", "b"], LONG), "method"
    ),
    "panels of one": lambda: figures.difference_panels(
        comparison(["a"], ["tpt"]), "dataset", row="method"
    ),
    "map of one": lambda: figures.difference_map(comparison(["a"], ["tpt"])),
    "changes": lambda: changes(LONG),
    "changes of one": lambda: changes(["tpt"]),
    "sweeps": lambda: sweeps(["vote", "tpt"]),
    "seconds": lambda: chapter_02.seconds_by_stage(costs(LONG)),
    "seconds of one": lambda: chapter_02.seconds_by_stage(costs(["tpt"])),
    "gain by price": lambda: gain_by_price(LONG),
    "gain by price of one": lambda: gain_by_price(["tpt"]),
    "gain kept": lambda: gain_kept(LONG),
    "explorer": lambda: explorer(64, 20, ["zero_shot", "vote_mean", "vote", "tpt"]),
    "explorer of one": lambda: explorer(1, 3, ["zero_shot", "vote_mean", "vote"]),
}


def explorer(views, classes, methods):
    entropies = np.linspace(1, 0, views)
    frame = pd.DataFrame({"entropy": entropies, "kept": entropies < 0.2})
    twice = [*names(classes - 1), *names(1)]  # two classes of one name
    rows = [(name, method, 0.4) for name in twice for method in methods]
    columns = ["class_name", "method", "probability"]
    weights = {f"a {name} of a {{}}.": 1 / 30 for name in names(30)}
    pixels = np.zeros((views, 224, 224, 3), np.uint8)
    table = pd.DataFrame(rows, columns=columns)
    return explore.explorer(pixels, frame, table, weights, "\n".join(names(2)))


def gain_by_price(methods):
    rows = [
        {"method": method, "rule": rule, "views": n, "difference": n / 500}
        for method in methods
        for rule in ("gate", "sequential", "both", "fewer views for all")
        for n in (1, 8, 16)
    ]
    frame = pd.DataFrame(rows).assign(ci_low=-0.02, ci_high=0.06)
    return chapter_06c.gain_by_price(frame, 16)


def gain_kept(methods):
    shares = {"kept": 0.8, "ci_low": -2.0, "ci_high": 9.0, "price": 0.25}
    rows = [(method, rule) for method in methods for rule in ("alike", "quarter")]
    frame = pd.DataFrame(rows, columns=["method", "rule"]).assign(**shares)
    return chapter_06c.gain_kept(frame, 0.95)


def changes(methods, **more):
    labels = [f"{method}: 24 crops + 24 drawn" for method in methods]
    columns = {"method": methods, "label": labels, "beside": "474 ms"}
    columns |= {"difference": 0.02, "ci_low": -0.01, "ci_high": 0.05}
    frame = pd.DataFrame(columns | more)
    return chapter_02.changes(frame, "points against one\nprompt", "an image takes")


def sweeps(methods):
    tried = {"views per image": [10, 20, 40, 64], "share of views kept": [0.1, 1.0]}
    rows = [
        (setting, value, method, value / 1000)
        for setting, values in tried.items()
        for value in values
        for method in methods
    ]
    frame = pd.DataFrame(rows, columns=["setting", "value", "method", "difference"])
    return chapter_02.sweeps(frame.assign(ci_low=-0.02, ci_high=0.1))


def view_rows(recipes, count):
    frame = pd.DataFrame(
        [
            (r, v, name, 1.5, v == 1)
            for r in recipes
            for v, name in enumerate(names(count))
        ],
        columns=["recipe", "view", "prediction", "entropy", "kept"],
    )
    return chapter_02.view_rows(pictures(len(frame)), frame)


def first_step(tokens, width):
    gradient = np.random.default_rng(0).normal(size=(tokens, width)) ** 5
    return chapter_02.first_step(gradient, -5e-3 * np.sign(gradient), 5e-3)


def before_and_after(classes, methods):
    rows = [(name, method, 0.3) for name in names(classes) for method in methods]
    frame = pd.DataFrame(rows, columns=["class_name", "method", "probability"])
    return chapter_02.before_and_after(pictures(1)[0], frame, "true: " + names(1)[0])


def costs(methods):
    stages = [("looking", 0.03), ("adapting", 0.005)]
    rows = [
        (method, name, stage, times * seconds)
        for method in methods
        for name, times in (("a", 1), ("b", 3))
        for stage, seconds in stages
    ]
    return pd.DataFrame(rows, columns=["method", "dataset", "stage", "seconds"])


@pytest.mark.parametrize("name", DRAWINGS)
def test_nothing_is_cut_off_and_labels_stay_apart(name):
    fig, data = DRAWINGS[name]()
    assert not data.empty
    fig.canvas.draw()
    drawn, page = fig.get_tightbbox(), fig.get_size_inches()
    assert (drawn.min > -0.01).all()
    assert (drawn.max < page + 0.01).all()
    for ax in fig.axes:
        boxes = [t.get_window_extent() for t in ax.get_yticklabels() if t.get_text()]
        boxes.sort(key=lambda box: box.y0)
        for below, above in pairwise(boxes):
            assert above.y0 >= below.y1 - 2


def test_similarity_matrix_marks_the_right_and_the_most_similar_text():
    similarity = [[0.3, 0.1], [0.4, 0.2]]
    fig, data = chapter_01.similarity_matrix(pictures(2), ["cat", "dog"], similarity)
    assert data["similarity"].tolist() == [0.3, 0.1, 0.4, 0.2]
    assert data["correct"].tolist() == [True, False, False, True]
    assert data["best"].tolist() == [True, False, True, False]
    (ax,) = fig.axes
    frames = [patch.get_xy() for patch in ax.patches]
    assert [tuple(np.round(xy)) for xy in frames] == [(0, 0), (1, 1)]
    bold = [t.get_text() for t in ax.texts if t.get_fontweight() == "bold"]
    assert bold == ["0.30", "0.40"]
    width, height = ax.get_window_extent().size  # two columns; two rows and thumbnails
    assert width / 2 == pytest.approx(height / 3, rel=0.1)
    _, none = matrix(2, 3, correct=[-1, 2])
    assert none["correct"].tolist() == [False] * 5 + [True]


def test_pictures_may_be_arrays_and_stay_as_they_were():
    picture = Image.new("RGB", (900, 600), "red")
    figures.image_grid([picture, np.asarray(picture)], ["one", "two"])
    assert picture.size == (900, 600)


def test_image_grid_places_pictures_in_rows():
    _, data = figures.image_grid(pictures(3), ["a", "b", "c"], columns=2)
    assert data.to_dict("list") == {
        "row": [0, 0, 1],
        "column": [0, 1, 0],
        "title": ["a", "b", "c"],
    }


def test_accuracy_is_drawn_in_percent_with_its_interval():
    fig, data = figures.accuracy_by_dataset(results(["a"], ["tpt"]))
    assert data["top1"].tolist() == [0.3]
    (ax,) = fig.axes
    assert ax.get_xlabel() == "top-1 accuracy (%)"
    assert ax.lines[0].get_xdata() == pytest.approx([30])
    (interval,) = ax.collections[0].get_segments()
    assert interval[:, 0] == pytest.approx([28, 32])


def test_accuracy_of_seeds_is_their_mean_and_each_is_shown():
    fig, _ = figures.accuracy_by_dataset(results(["a"], ["tpt"], seeds=(0, 1, 2)))
    mean, seeds = fig.axes[0].lines
    assert mean.get_xdata() == pytest.approx([31])
    assert seeds.get_xdata() == pytest.approx([30, 31, 32])


def test_two_backbones_are_not_mixed_up():
    frame = results(["a"], ["zero_shot", "tpt"])
    both = pd.concat([frame, frame.assign(backbone="ViT-B-16")])
    with pytest.raises(ValueError, match="select one backbone"):
        figures.accuracy_by_dataset(both)
    one = both[both["method"] == "tpt"]
    fig, _ = figures.accuracy_by_dataset(one, hue="backbone")
    legend = [text.get_text() for text in fig.legends[0].get_texts()]
    assert legend == ["RN50", "ViT-B-16"]


def test_paired_differences_show_points_counts_and_evidence():
    frame = comparison(["a"], ["tpt", "vote"]).assign(
        difference=[0.05, -0.01],
        wins=[40, 10],
        losses=[15, 15],
        verdict=["gains", "no detectable difference"],
    )
    fig, data = figures.paired_differences(frame)
    pd.testing.assert_frame_equal(data, frame)
    (ax,) = fig.axes
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == pytest.approx([5, -1])
    assert dots[0].get_markerfacecolor() == figures.colour("tpt")
    assert dots[1].get_markerfacecolor() == "white"
    assert {"40 : 15", "10 : 15"} <= {text.get_text() for text in ax.texts}


def test_reliability_diagram_prints_the_calibration_error():
    logits = np.log([[3.0, 1.0], [3.0, 1.0], [1.0, 3.0], [1.0, 3.0]])
    bins = metrics.reliability_bins(logits, [0, 1, 0, 1])  # sure at 75 %, right at 50 %
    fig, data = figures.reliability_diagram({"tpt": bins, "vote": bins})
    titles = [ax.get_title(loc="left") for ax in fig.axes[:2]]
    assert titles == ["TPT\nECE 25.0%", "vote of views\nECE 25.0%"]
    assert data["label"].unique().tolist() == ["tpt", "vote"]
    accuracy, gap = fig.axes[0].patches
    assert accuracy.get_height() == pytest.approx(50)
    assert gap.get_height() == pytest.approx(25)


def test_confusion_matrix_by_hand():
    _, data = chapter_01.confusion_matrix(
        [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0], ["cat", "dog", "emu"]
    )
    assert data["images"].tolist() == [3, 1, 1, 1]  # no emu anywhere
    assert data["share"].tolist() == [0.75, 0.25, 0.5, 0.5]


def test_confusion_matrix_of_many_classes_shows_the_most_confused():
    labels = np.repeat(np.arange(100), 10)
    predictions = labels.copy()
    for true, predicted, count in [(7, 90, 6), (90, 3, 4), (40, 41, 5), (60, 61, 1)]:
        predictions[10 * true : 10 * true + count] = predicted
    _, data = chapter_01.confusion_matrix(labels, predictions, names(100), top=5)
    shown = [name.split()[1] for name in data["true"].unique()]
    assert shown == ["7", "90", "3", "40", "41"]  # partners side by side
    assert data["predicted"].unique()[-1] == "other classes"
    assert data.groupby("true")["share"].sum().tolist() == pytest.approx([1] * 5)


def test_confusion_pairs_rank_the_mistakes():
    _, data = chapter_01.confusion_pairs(
        [0, 0, 0, 1, 1, 2], [1, 1, 0, 2, 1, 2], ["cat", "dog", "emu"], top=1
    )
    row = data.iloc[0]
    assert (row["true"], row["predicted"]) == ("cat", "dog")
    assert (row["images"], row["of"], row["share"]) == (2, 3, pytest.approx(2 / 3))
    assert row["ci_low"] < row["share"] < row["ci_high"]
    assert len(data) == 1


def test_per_class_accuracy_keeps_the_best_and_the_worst():
    frame = pd.DataFrame({"class_name": names(100), "top1": np.arange(100) / 100})
    frame = frame.assign(n=10, ci_low=frame["top1"], ci_high=frame["top1"])
    fig, data = chapter_01.per_class_accuracy(frame)
    expected = [*range(99, 79, -1), *range(19, -1, -1)]
    assert (data["top1"] * 100).tolist() == pytest.approx(expected)
    assert "60 classes between" in {text.get_text() for text in fig.axes[0].texts}
    assert fig.get_size_inches()[1] < 9  # the gap takes a row or two, not sixty
    _, whole = chapter_01.per_class_accuracy(frame.iloc[:60])
    assert len(whole) == 60


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: chapter_01.similarity_matrix([], [], np.zeros((0, 0))), "1 to 16"),
        (lambda: matrix(2, 3), "correct="),
        (
            lambda: chapter_01.similarity_matrix(pictures(1), ["a"], [[0.1, 0.2]]),
            r"\[1, 1\]",
        ),
        (lambda: figures.image_grid([], []), "at least one"),
        (lambda: figures.image_grid(pictures(2), ["a"]), "1 titles for 2"),
        (lambda: figures.accuracy_by_dataset(results(["a"], ["b"])[:0]), "no rows"),
        (lambda: figures.paired_differences(results(["a"], ["b"])), "lacks"),
        (lambda: figures.reliability_diagram({}), "no table"),
        (lambda: chapter_01.confusion_matrix([], [], ["a"]), "at least 1"),
        (lambda: chapter_01.confusion_matrix([0], [0], names(20)), "no image"),
        (lambda: chapter_01.confusion_pairs([0], [0], ["a", "b"]), "every prediction"),
        (lambda: chapter_01.confusion_pairs([0], [2], ["a", "b"]), r"0\.\.1"),
    ],
)
def test_what_cannot_be_drawn_is_said(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_methods_of_one_colour_get_colours_to_tell_them_apart():
    greys = ["zero_shot_name", "zero_shot_photo", "ensemble_7", "ensemble_80"]
    found = style.level_colours("method", greys)
    assert len(set(found.values())) == 4
    red, green, blue = mpl.colors.to_rgb(found["zero_shot_name"])
    assert max(red, green, blue) - min(red, green, blue) > 0.2
    pair = style.level_colours("method", ["zero_shot_photo", "ensemble_80", "tpt"])
    assert pair["tpt"] == style.colour("tpt")


def test_a_method_has_one_colour():
    known = registry.colours()
    assert figures.colour("vote of views") == known["vote"]  # by its name in tables
    assert figures.colour("tpt") == known["tpt"]
    assert figures.colour("Zero-shot") == known["zero_shot"]
    assert figures.colour("zero") == known["zero"]
    # Golden: other runs, other figures and other machines agree.
    assert figures.colour("vote_augmix") == "#336b8b"
    assert figures.colour("something_else") == "#8e983d"
    variants = {figures.colour(name) for name in ("tpt", "tpt_coop", "tpt_cocoop")}
    assert len(variants) == 3
    assert len(set(known.values())) == len(known)


def test_figures_have_the_look_and_leave_the_session_alone():
    with plt.rc_context():
        plt.rcdefaults()
        before = dict(plt.rcParams)
        fig, _ = figures.accuracy_by_dataset(results(["a"], ["tpt"]))
        assert fig.dpi == 150
        assert dict(plt.rcParams) == before
        figures.use_style()
        assert plt.figure().dpi == 150


def test_save_writes_the_picture_and_its_numbers(tmp_path):
    for folder in ("one", "two"):
        fig, data = figures.accuracy_by_dataset(results(["a"], ["tpt"]))
        path = figures.save(tmp_path / folder, "02_accuracy", fig, data)
        assert path == tmp_path / folder / "figures" / "02_accuracy.png"
    picture = Image.open(path)
    assert picture.size == tuple(np.round(fig.get_size_inches() * 150).astype(int))
    written = pd.read_csv(path.with_suffix(".csv"))
    pd.testing.assert_frame_equal(written, data, check_dtype=False)
    other = tmp_path / "one" / "figures" / "02_accuracy.png"
    assert path.read_bytes() == other.read_bytes()


def test_a_failed_save_leaves_no_file(tmp_path, monkeypatch):
    fig, data = figures.accuracy_by_dataset(results(["a"], ["tpt"]))

    def write_half(where, **options):
        where.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(fig, "savefig", write_half)
    with pytest.raises(OSError, match="disk full"):
        figures.save(tmp_path, "02_accuracy", fig, data)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_save_table_and_plain_names(tmp_path):
    path = figures.save_table(tmp_path, "02_gain", pd.DataFrame({"gain": [0.5]}))
    assert path == tmp_path / "tables" / "02_gain.csv"
    assert path.read_text() == "gain\n0.5\n"
    for name in ("", "a/b", "..", "02.csv"):
        with pytest.raises(ValueError, match="plain file name"):
            figures.save_table(tmp_path, name, pd.DataFrame({"gain": [0.5]}))


def test_view_rows_frame_what_is_kept():
    fig, data = view_rows(["preaugment", "augmix"], 3)
    assert len(fig.axes) == len(data) == 6
    framed = [any(s.get_visible() for s in ax.spines.values()) for ax in fig.axes]
    assert framed == data["kept"].tolist() == [False, True, False] * 2
    assert [ax.get_xlabel() for ax in fig.axes] == ["original", "", ""] * 2
    assert [ax.get_ylabel() for ax in fig.axes[::3]] == ["crops and\nflips", "AugMix"]


def test_first_step_keeps_every_coordinate():
    gradient = np.array([[1e-6, -1.0, 0.0], [100.0, 2e-3, -3.0]])
    fig, data = chapter_02.first_step(gradient, -0.01 * np.sign(gradient), 0.01)
    assert data["gradient"].tolist() == gradient.ravel().tolist()
    assert data["token"].tolist() == [0, 0, 0, 1, 1, 1]
    (ax,) = fig.axes
    drawn = [x for line in ax.lines[::2] for x in line.get_xdata()]
    assert sorted(drawn) == [1e-6, 2e-3, 1.0, 3.0, 100.0]
    assert ax.get_xscale() == "log"


def test_difference_map_puts_every_row_in_its_cell():
    frame = comparison(["a", "b"], ["vote", "tpt"])
    fig, data = figures.difference_map(frame)
    (ax,) = fig.axes
    assert len(data) == 4
    cells = 100 * frame["difference"].to_numpy().reshape(2, 2).T
    assert np.allclose(ax.images[0].get_array(), cells)
    points = {t.get_position(): t for t in ax.texts if "[" not in t.get_text()}
    for row, (x, y) in zip(
        frame.itertuples(), [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True
    ):
        text = points[x, y]
        assert text.get_text() == f"{100 * row.difference:+.1f}"
        assert (text.get_fontweight() == "bold") == (row.verdict in compare.DECIDED)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b"]


def test_difference_panels_fill_what_the_test_decides():
    first = comparison(["a", "b"], ["vote", "tpt"])
    frame = pd.concat([first, first.assign(backbone="ViT", difference=0.25)])
    frame["verdict"] = ["gains", "no", "loses", "no"] + ["no"] * 4
    fig, data = figures.difference_panels(frame, "method")
    assert len(data) == 8
    white = [1.0] * 4
    for method, ax in zip(["vote", "tpt"], fig.axes, strict=True):
        assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == ["a", "b"]
        points = [c for c in ax.collections if len(c.get_offsets())]
        one, other = (c for c in points if len(c.get_facecolors()))
        part = first.query("method == @method")
        assert np.allclose(one.get_offsets()[:, 0], 100 * part["difference"])
        assert np.allclose(other.get_offsets()[:, 0], 25)
        filled = [list(c) != white for c in one.get_facecolors()]
        assert filled == [method == "vote"] * 2
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["RN50", "ViT"]


def test_curves_get_a_panel_for_each_line_three_in_a_row():
    rows = [(m, n, n / 100) for m in ["tpt", "vote", *names(3)] for n in (0, 1, 4)]
    frame = pd.DataFrame(rows, columns=["method", "prompts", "gain"])
    asked = {"xlabel": "prompts", "ylabel": "gain (points)", "log": True}
    fig, _ = figures.curves(frame, "prompts", "gain", "method", panel="method", **asked)
    assert [ax.get_title(loc="left") for ax in fig.axes][:2] == ["TPT", "vote of views"]
    tops = [round(ax.get_position().y0, 3) for ax in fig.axes]
    assert [len(set(tops[:3])), len(set(tops[3:])), len(set(tops))] == [1, 1, 2]
    assert not fig.legends  # the titles say it
    for ax, method in zip(fig.axes, frame["method"].unique(), strict=True):
        (line,) = (line for line in ax.lines if len(line.get_xdata()))
        assert line.get_color() == style.colour(method)
        low, high = ax.get_xlim()
        assert low < 0 < 4 <= high  # 0 has a place on the logarithmic axis
    one, _ = figures.curves(frame, "prompts", "gain", "method", **asked)
    assert len(one.axes) == len(one.legends) == 1


def test_seconds_are_drawn_in_milliseconds_end_to_end():
    fig, _ = chapter_02.seconds_by_stage(costs(["vote", "tpt"]))
    (ax,) = fig.axes
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([60, 60, 10, 10])
    assert [bar.get_x() for bar in ax.patches] == pytest.approx([0, 0, 60, 60])
    assert [t.get_text() for t in ax.texts] == ["70.0", "70.0"]
    for line in ax.lines:  # from data set to data set
        assert line.get_xdata() == pytest.approx([35, 105])


def test_changes_are_drawn_with_intervals_and_filled_where_decided():
    fig, data = changes(["vote", "tpt"], verdict=["gains", "no detectable difference"])
    (ax,) = fig.axes
    _, *lines = ax.lines  # the first is at no change
    assert [list(line.get_xdata()) for line in lines[::2]] == [[-1.0, 5.0]] * 2
    assert [line.get_xdata()[0] for line in lines[1::2]] == [2.0, 2.0]
    inside = [line.get_markerfacecolor() for line in lines[1::2]]
    assert inside == [style.colour("vote"), "white"]
    assert [t.get_text() for t in ax.texts] == ["474 ms", "474 ms", "an image takes"]
    assert data["difference"].tolist() == [0.02, 0.02]


def test_sweeps_have_a_panel_for_each_setting():
    fig, _ = sweeps(["vote", "tpt"])
    names = [ax.get_xlabel() for ax in fig.axes]
    assert names == ["views per image", "share of views kept"]
    ticks = [[t.get_text() for t in ax.get_xticklabels()] for ax in fig.axes]
    assert ticks == [["10", "20", "40", "64"], ["0.1", "1"]]
