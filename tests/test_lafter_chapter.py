"""Chapters 05 and 05b on others' images, and what they need besides the methods."""

import json
from functools import partial
from unittest.mock import Mock

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from lookalikes import imagenet_layout, picture
from open_clip.transformer import VisionTransformer

from helpers import data, keys, store
from helpers.chapters import self_training
from helpers.chapters.notebook import Run
from helpers.data.pool import pool
from helpers.figures import chapter_05, chapter_05b
from helpers.methods import upl
from helpers.methods.lafter import lafter
from helpers.methods.training import NO_LABEL, Trained
from helpers.models import clip, fast
from helpers.models.visual import ImageTower
from helpers.paths import NOTEBOOKS
from helpers.study import check, main
from helpers.views.strong import strong

FAST = {
    "pool_images": 2,
    "test_images": 2,
    "text_templates": "photo",
    "tap_templates": "photo",
    "text_steps": 5,
    "seeds": 1,
    "visual_prompts": 2,
    "epochs": 2,
    "long_epochs": 2,
    "batch": 2,
    "prompt_counts": [0, 2],
    "upl_epochs": 2,
    "upl_seeds": 2,
    "feature_epochs": 2,
    "view_count": 2,
    "view_share": 0.5,
    "episodic_images": 2,
}
NEIGHBOURS = {"upl", "upl_centred", "clip_pr", "clip_adapter", "fixmatch", "lora"}


@pytest.fixture(scope="module")
def vit() -> clip.Backbone:
    return clip.load("picto-vit", "picto", device="cpu")


@pytest.mark.parametrize(
    ("side", "asked", "expected"),
    [(224, -1, 50), (384, -1, 50), (96, -1, 10), (96, 20, 20), (224, 0, 0)],
)
def test_prompts_are_as_many_as_in_the_paper_and_no_more_than_tokens(
    side, asked, expected
):
    """The cell that counts them, with an untrained ViT/32 and with a ResNet."""
    book = nbformat.read(NOTEBOOKS / "05_lafter.ipynb", as_version=4)
    (cell,) = [c.source for c in book.cells if "vits = " in c.source]
    small = {"width": 8, "layers": 1, "heads": 1, "mlp_ratio": 1, "output_dim": 8}
    towers = {"vit": VisionTransformer(side, 32, **small), "rn": torch.nn.Identity()}
    used = {"fast": fast, "more_backbones": [], "second_backbone": ""}
    used |= dict.fromkeys(("weights", "device", "precision", "seed"))
    used["clip"] = Mock()
    used["clip"].load = lambda name, *_: Mock(model=Mock(visual=towers[name]))
    for name, prompts in (("vit", expected), ("rn", 0)):
        found = used | {"backbone": name, "visual_prompts": asked}
        exec(cell, found)
        assert found["prompts"] == prompts


@pytest.mark.soak
def test_the_chapters_on_the_layout_of_imagenet_a(tmp_path):
    """A few steps of every method; random weights, since theirs are a download."""
    imagenet_layout(tmp_path, "imagenet-a", every=20)
    for seed, path in enumerate(sorted(tmp_path.rglob("*.jpg"))):
        picture(path, seed)  # no two alike: pool and test must not share one
    options = {"device": "cpu", "weights": "random", "backbone": "ViT-B-32-quickgelu"}
    options |= {"data_root": str(tmp_path), "dataset": "imagenet-a", **FAST}
    pairs = [part for k, v in options.items() for part in ("-p", k, json.dumps(v))]
    plain = [part.strip('"') for part in pairs]
    command = ["run", "imagenet_a_vit_b16", "--only", "05", "05b", "--outputs"]
    assert main([*command, str(tmp_path / "out"), *plain]) == 0

    folder = tmp_path / "out" / "imagenet_a_vit_b16"
    results = pd.read_csv(folder / "results.csv").set_index("method")
    assert {"lafter", "lafter_wo_prompts", "drml", "tap", *NEIGHBOURS} <= {
        *results.index
    }
    assert set(results["n"]) == {2}
    protocols = {m: json.loads(s)["protocol"] for m, s in results["settings"].items()}
    assert protocols["lafter"] == "inductive"
    assert protocols["lafter_transductive"] == "transductive"
    assert protocols["tent_online"] == "transductive"
    assert protocols["tent_marginal"] == "episodic"
    assert not [name for name in results.index if name.startswith("rlcf")]  # one model

    beside = pd.read_csv(folder / "tables" / "05_ablations.csv").set_index("ablation")
    assert beside["paper, difference"].lt(0).all()  # each part helps there
    assert beside["sign"].eq("open").all()  # two images decide nothing
    assert not (folder / "tables" / "05_rates.csv").exists()  # no labels to choose by
    for number, theirs in (("05", {"LaFTer"}), ("05b", {"UPL", "CLIP-PR"})):
        found = pd.read_csv(folder / "tables" / f"{number}_published.csv")
        assert theirs <= set(found["method"])
        assert found["ours"].isna().all()  # the weights are not OpenAI's
    beside = pd.read_csv(folder / "tables" / "05b_neighbours.csv")
    assert {"lafter", "drml", "upl"} <= set(beside["method"])  # 05 ran before
    books = [nbformat.read(path, as_version=4) for path in folder.glob("05*.ipynb")]
    cells = [cell for book in books for cell in book.cells]
    assert len(books) == 2
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    warned = [out.text for out in outputs if out.get("name") == "stderr"]
    assert all("accuracies are not those of the full set" in text for text in warned)


def test_the_rate_is_the_best_on_dev_and_used_for_all(smoke_study):
    tried = pd.read_csv(smoke_study / "tables" / "05_rates.csv")
    assert tried["rate"].tolist() == [0.0005, 0.005]
    best = tried.loc[tried["top1"].idxmax(), "rate"]
    results = pd.read_csv(smoke_study / "results.csv")
    trained = results[results["method"].str.startswith("lafter")]
    # Places, a seed, transductive, ablations, places of another training of the CLIP.
    assert len(trained) == 3 + 1 + 1 + 5 + 3
    assert {json.loads(s)["learning_rate"] for s in trained["settings"]} == {best}
    ours = results[results["method"].isin(["upl", "upl_centred"])]
    assert [json.loads(s)["seeds"] for s in ours["settings"]] == [2, 2]
    beside = pd.read_csv(smoke_study / "tables" / "05_ablations.csv")
    assert set(beside["sign"]) <= {"as there", "opposite", "open"}
    decided = beside["verdict"].isin(["gains", "loses"])
    assert beside["sign"].ne("open").equals(decided)
    same = beside["difference"].lt(0) == beside["paper, difference"].lt(0)
    assert beside["sign"].eq("as there").equals(decided & same)


def test_halves_share_nothing_and_read_no_label(vit):
    dataset = data.load("picto-s", images=64)
    cut = self_training.halves(vit, dataset, pool_images=10, test_images=7, seed=1)
    assert (len(cut.seen), len(cut.test)) == (10, 7) == (len(cut.pool), len(cut.tested))
    assert not {*cut.seen.ids} & {*cut.test.ids}
    assert cut.protocol == "inductive"
    assert cut.name == "picto-s"
    dataset.labels[:] = dataset.labels[::-1].copy()
    again = self_training.halves(vit, dataset, pool_images=10, test_images=7, seed=1)
    assert again.pool.ids == cut.pool.ids
    assert again.tested.ids == cut.tested.ids
    whole = self_training.halves(vit, dataset)
    assert len(whole.seen) == len(whole.test) == 32
    most = self_training.halves(vit, dataset, test_images=7, seed=1)
    assert (most.test.ids, len(most.seen)) == (cut.test.ids, 57)
    assert not {*most.seen.ids} & {*most.test.ids}
    half = self_training.halves(vit, dataset, test_images=40)
    assert (half.test.ids, half.seen.ids) == (whole.test.ids, whole.seen.ids)


def test_tested_images_are_left_out_of_a_pool_of_its_own_and_named(vit):
    dataset, photos = (data.load(k, images=64) for k in ("picto", "picto-unlabelled"))
    cut = self_training.halves(vit, dataset, photos, pool_images=5)
    assert cut.seen.name == "picto-unlabelled"
    assert cut.name == "picto"
    assert cut.twins == {}
    assert (len(cut.seen), len(cut.test)) == (5, 64)  # no image is needed for a pool
    fewer = self_training.halves(vit, dataset, photos, test_images=7)
    assert fewer.test.ids == self_training.halves(vit, dataset, test_images=7).test.ids
    some = dataset.subset(range(8))  # of the images that are tested
    assert len(self_training.halves(vit, dataset, some).test) == 32
    cut = self_training.halves(vit, dataset, dataset)
    assert (len(cut.seen), cut.protocol) == (32, "inductive")
    assert cut.twins == {name: name for name in cut.test.ids}
    assert cut.seen.ids == cut.pool.ids
    assert not {*cut.seen.ids} & {*cut.test.ids}


def doubled(tmp_path, copies: int) -> data.Dataset:
    """Photographs of which the first comes so many times under another name."""
    root = tmp_path / "photos"
    for seed, name in enumerate(["a/1", "a/2", "b/1", "b/2", "b/3"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(root / f"{name}.png", seed)
    for copy in range(copies):
        picture(root / f"a/copy{copy}.png", 0)
    return data.load("folder", str(root))


def test_twins_of_tested_images_leave_the_pool(vit, tmp_path):
    """Whatever the seed puts where, the copies never stand on both sides."""
    dataset = doubled(tmp_path, 3)
    same, found = {"a/1.png", "a/copy0.png", "a/copy1.png", "a/copy2.png"}, 0
    for seed in range(3):
        cut = self_training.halves(vit, dataset, seed=seed)
        assert cut.protocol == "inductive"
        assert not (same & {*cut.seen.ids} and same & {*cut.test.ids})
        assert {*cut.twins} | {*cut.twins.values()} <= same
        assert len(cut.seen) + len(cut.twins) + len(cut.test) == len(dataset)
        assert cut.pool.key == pool(cut.seen, vit.crop, vit.image_size, strong).key
        found += len(cut.twins)
        kept = self_training.halves(vit, dataset, seed=seed, transductive=True)
        assert kept.seen.ids == dataset.ids
        assert (kept.protocol, kept.twins) == ("transductive", {})
        assert kept.test.ids == cut.test.ids
    assert found


def test_a_single_image_or_copies_of_it_are_learned_from_and_say_so(vit, tmp_path):
    dataset = doubled(tmp_path, 1)
    copies = [dataset.ids.index(f"a/{name}.png") for name in ("1", "copy0")]
    for positions in (copies[:1], copies):
        cut = self_training.halves(vit, dataset.subset(positions))
        assert cut.protocol == "transductive"
        assert cut.seen.ids == cut.test.ids == cut.pool.ids
        assert len(cut.twins) == 1


def test_few_are_a_part_of_more():
    dataset = data.load("picto-s", images=64)
    ten, twenty = (set(self_training.few(dataset, n, 3).ids) for n in (10, 20))
    assert len(ten) == 10
    assert ten < twenty
    assert self_training.few(dataset, 0) is dataset
    assert self_training.few(dataset, 99) is dataset


def test_runs_resume_from_checkpoints_of_their_own(vit, tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    cut = self_training.halves(vit, data.load("picto-s", images=64), pool_images=6)
    weight = torch.randn(64, vit.embed_dim, generator=torch.manual_seed(0))
    used = {"prompts": 2, "epochs": 2, "batch": 3}

    def kept(method="lafter", seen=cut.pool, weight=weight, **changes) -> dict:
        return self_training.kept(vit, method, seen, weight, **{**used, **changes})

    where = kept()["checkpoint"].folder
    others = [
        kept(epochs=3),
        kept(weight=weight + 1),
        kept(seen=cut.tested),
        kept(method="lora"),
    ]
    assert len({where, *(other["checkpoint"].folder for other in others)}) == 5
    watch = self_training.watch(cut.tested.images, cut.test.labels)
    make = partial(ImageTower, vit)
    runs = [
        lafter(make, weight, cut.pool, **used, **kept(), evaluate=evaluate)
        for evaluate in (watch, None)
    ]
    assert (where / "log.csv").is_file()
    assert runs[0].log.equals(runs[1].log)  # seconds, too: the second only reads
    assert runs[1].log["top1"].between(0, 1).all()


def test_a_long_training_goes_on_from_a_short_one(vit, tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    cut = self_training.halves(vit, data.load("picto-s", images=64), pool_images=6)
    weight = torch.randn(64, vit.embed_dim, generator=torch.manual_seed(0))
    on = partial(ImageTower, vit), weight, cut.pool

    def training(epochs):
        used = {"prompts": 2, "epochs": epochs, "batch": 3}
        kept = self_training.kept(vit, "lafter", cut.pool, weight, **used)
        return partial(lafter, *on, **used, **kept)

    short, long = training(1), training(2)
    made = self_training.continued(short, long)
    assert made.log[:1].equals(short().log)  # seconds, too: they were trained once
    whole = lafter(*on, **{k: long.keywords[k] for k in ("prompts", "epochs", "batch")})
    apart = ["seconds"]
    assert made.log.drop(columns=apart).equals(whole.log.drop(columns=apart))
    ends = (x.model.state_dict() for x in (made, whole))
    assert all(map(torch.equal, *(end.values() for end in ends)))
    assert len(self_training.continued(training(4), training(3)).log) == 3


def test_upl_is_trained_once_for_each_seed_on_views_without_the_image(
    vit, tmp_path, monkeypatch
):
    monkeypatch.setattr(keys, "CACHE", tmp_path)
    cut = self_training.halves(vit, data.load("picto-s", images=64), pool_images=9)
    logits = 9 * torch.randn(9, 64, generator=torch.manual_seed(0))
    logits[:, : len(cut.seen.class_names) - 2] = -99.0  # two classes are named, or so

    def made(logits=logits, looks=("preaugment", 4, 3), epochs=2, seeds=2):
        calls = [vit, cut, logits, looks, epochs, seeds]
        return self_training.upl_trainings(*calls)

    calls = made()
    assert [call.keywords["seed"] for call in calls] == [3, 4]
    views = calls[0].args[0]
    kept = upl.confident_images(logits).tolist()
    expected = store.view_features(vit, cut.seen.subset(kept), "preaugment", 4, 3)
    assert torch.equal(views, expected[:, 1:])
    one, two = self_training.side_by_side(calls, "x")
    assert one.model.context.shape[0] == upl.TOKENS == 16
    assert not torch.equal(one.model.context, two.model.context)
    again = made()[0]()
    assert again.log.equals(one.log)  # seconds, too: it only reads
    changed = [
        made(logits * 1.1),
        made(looks=("augmix", 4, 3)),
        made(epochs=3),
        made(looks=("preaugment", 4, 9)),
    ]
    places = [call.keywords["checkpoint"].folder for call in calls]
    places += [of[0].keywords["checkpoint"].folder for of in changed]
    assert len(set(places)) == 6


def test_label_accuracy_counts_the_taught_alone():
    taught = torch.tensor([[0, 1, NO_LABEL], [0, 2, 2]])
    made = Trained(torch.nn.Identity(), pd.DataFrame(), taught)
    found = self_training.label_accuracy(made, np.array([0, 0, 2]))
    assert found == pytest.approx([1 / 2, 2 / 3])


def test_drawn_views_are_those_of_the_store(vit):
    single = data.load("picto-s", images=64).subset([3, 5])
    drawn = [*self_training.drawn(vit, single, "preaugment", 4, 2)]
    kept = store.view_features(vit, single, "preaugment", 4, 2)
    for of_image, features in zip(drawn, kept, strict=True):
        made = vit.encode_images(vit.normalise(of_image))
        assert torch.allclose(made, features.float(), atol=1e-3)


def test_the_figure_of_the_gap_shows_two_kinds():
    frame = pd.DataFrame({"x": [0.0, 1, 2, 3], "y": 0.0, "panel": "as they are"})
    frame["kind"] = ["texts", "texts", "images", "images"]
    drawn, shown = chapter_05.modality_gap(frame)
    (line,) = [
        line
        for line in drawn.axes[0].lines
        if len(line.get_xdata()) == 2 and line.get_marker() == "None"
    ]
    assert list(line.get_xdata()) == [0.5, 2.5]
    assert shown.equals(frame)
    with pytest.raises(ValueError, match="two kinds of features"):
        chapter_05.modality_gap(frame.assign(kind=["texts", "a", "b", "b"]))


def test_the_figure_of_labels_counts_what_is_learned():
    frame = pd.DataFrame({"confidence": [0.2, 0.96, 0.97, 0.99], "teacher": "texts"})
    frame["right"] = [True, True, False, True]
    drawn, shown = chapter_05b.sure_labels(frame, 0.95)
    (ax,) = drawn.axes
    assert ax.get_title("left") == "texts\n3 of 4 are learned,\n67% of them right"
    right, wrong = ax.containers
    assert [sum(bar.get_height() for bar in bars) for bars in (right, wrong)] == [3, 1]
    assert shown.equals(frame)
    drawn, _ = chapter_05b.sure_labels(frame, 1.0)
    assert drawn.axes[0].get_title("left").endswith("\n0 of 4 are learned")


def ledger(run, vit, cut, method: str, right: int, **used) -> pd.DataFrame:
    """A ledger whose first predictions, `right` of them, are right."""
    chosen = torch.tensor(cut.test.labels)
    chosen[right:] = (chosen[right:] + 1) % 64
    logits = torch.nn.functional.one_hot(chosen, 64).float()
    return self_training.record(run, vit, method, cut, logits, **used)


def test_a_mean_gain_weighs_data_sets_alike_and_earlier_ledgers_fit(vit, tmp_path):
    run = Run("05_lafter", "trial", tmp_path, 0, torch.device("cpu"))
    small, large = (
        self_training.halves(vit, data.load(name, images=64), test_images=count)
        for name, count in (("picto-s", 8), ("picto-a", 24))
    )
    found = [
        ledger(run, vit, cut, method, right)
        for cut, right_of_lafter in ((small, 4), (large, 9))
        for method, right in (("lafter", right_of_lafter), ("text_classifier", 3))
    ]
    found.append(ledger(run, vit, small, "lafter", 5, seed=1))
    mean = self_training.mean_gain(found, "lafter", "text_classifier")
    assert mean["difference"] == pytest.approx(((1 + 2) / 2 / 8 + 6 / 24) / 2)
    assert (mean["datasets"], mean["seeds"]) == (2, 2)

    wanted = ["lafter", "text_classifier", "drml"]
    (one, two) = self_training.earlier(run, vit, small, wanted)
    assert [f.attrs["method"] for f in (one, two)] == wanted[:2]
    for other in (
        self_training.halves(vit, data.load("picto-s", images=64), test_images=9),
        self_training.halves(vit, data.load("picto-s", images=64), None, 5, 8),
    ):
        assert self_training.earlier(run, vit, other, wanted) == []


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("text_templates", "openai_8", "openai_7"),
        ("tap_templates", "", "styles"),
        ("unlabelled", "unlabelled", "picto-unlabelled"),
        ("unlabelled", "{}-unlabeled", "picto-s-unlabelled"),
        ("pool_images", 1, "at least 2"),
        ("seeds", 0, "1 to 100"),
        ("text_noise", -0.1, "at least 0"),
        ("text_steps", 0, "at least 1"),
        ("visual_prompts", -2, "at least -1"),
        ("upl_epochs", 1, "at least 2"),
        ("upl_seeds", 0, "1 to 100"),
        ("prompt_counts", [], "from 0 on"),
        ("prompt_counts", [-1], "from 0 on"),
        ("epochs", 1, "at least 2"),
        ("batch", 1, "at least 2"),
        ("episodic_images", 1, "at least 2"),
    ],
)
def test_impossible_settings_stop_the_study(key, value, accepted):
    given = {"prompt_counts": [0, 4], "unlabelled": "", "text_noise": 0.0}
    check(given, "params/x/05.yaml")
    with pytest.raises(ValueError, match=accepted):
        check({**given, key: value}, "params/x/05.yaml")
