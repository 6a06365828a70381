"""Chunks of rows: made once, found damaged, resumed after a kill, shared."""

import contextlib
import multiprocessing
import types
import zipfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from helpers import bank, checkpoints, chunks, data, figures, files, parallel
from helpers.bank import captioning
from helpers.chapters import adaptation
from helpers.methods import tpt, vote
from helpers.methods.ctpt import ctpt
from helpers.models import clip, contexts
from helpers.results import predictions
from picto import pool

ROWS, SIZE = 19, 8


class Squares:
    """Work whose row n is [n, n squared], and which spans it was asked for."""

    def __init__(self, dies_at: int = ROWS) -> None:
        self.spans, self.dies_at = [], dies_at

    def __call__(self, span: range):
        self.spans.append(span)
        backwards = list(span)[::-1]
        for some in (backwards[:2], backwards[2:]):
            if self.dies_at in some:
                raise KeyboardInterrupt
            yield some, torch.tensor([[n, n * n] for n in some])


def fill(folder, work):
    return chunks.in_chunks(folder, ROWS, work, "squaring", SIZE)


EXPECTED = torch.tensor([[n, n * n] for n in range(ROWS)])


def test_rows_are_made_once_in_whatever_order_they_come(tmp_path):
    work = Squares()
    assert torch.equal(fill(tmp_path, work), EXPECTED)
    assert torch.equal(fill(tmp_path, work), EXPECTED)
    assert work.spans == [range(8), range(8, 16), range(16, 19)]
    spent = chunks.seconds(tmp_path, ROWS, SIZE)
    assert 0 < spent < 10
    assert chunks.seconds(tmp_path, ROWS, SIZE) == spent
    (tmp_path / "0000008-0000016.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="0000008"):
        chunks.seconds(tmp_path, ROWS, SIZE)


def test_a_kill_loses_the_chunk_at_work(tmp_path):
    dying, work = Squares(dies_at=12), Squares()
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, dying)
    assert torch.equal(fill(tmp_path, work), EXPECTED)
    assert work.spans == [range(8, 16), range(16, 19)]


def test_every_flipped_bit_is_found(tmp_path):
    fill(tmp_path, Squares())
    path = tmp_path / "0000016-0000019.safetensors"
    sound = path.read_bytes()
    for position in range(len(sound)):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert chunks._read(path, range(16, 19)) is None, position
    for length in (0, 4, len(sound) - 1):
        path.write_bytes(sound[:length])
        assert chunks._read(path, range(16, 19)) is None


def test_damage_is_told_in_a_line_and_made_again(tmp_path, capsys):
    fill(tmp_path, Squares())
    path, work = tmp_path / "0000008-0000016.safetensors", Squares()
    path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(fill(tmp_path, work), EXPECTED)
    assert work.spans == [range(8, 16)]
    told = capsys.readouterr().out
    assert told == f"1 of 3 files of {tmp_path.name} damaged: made again\n"


def test_workers_share_the_spans(tmp_path, monkeypatch):
    asked = []

    def spread(work, spans, label):
        asked.extend(spans)
        yield from ((span, work(span)) for span in reversed(spans))

    monkeypatch.setattr(parallel, "active", lambda: True)
    monkeypatch.setattr(parallel, "spread", spread)
    chunks._write(tmp_path / "0000000-0000008.safetensors", EXPECTED[:8], 0.5)
    assert torch.equal(fill(tmp_path, Squares()), EXPECTED)
    assert asked == [range(8, 16), range(16, 19)]
    assert chunks.seconds(tmp_path, ROWS, SIZE) > 0.5


def test_two_processes_fill_one_folder(tmp_path):
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=fill, args=(tmp_path, Squares())) for _ in range(2)]
    for other in others:
        other.start()
    assert torch.equal(fill(tmp_path, Squares()), EXPECTED)
    for other in others:
        other.join(timeout=60)
        assert other.exitcode == 0
    untouched = Squares()
    assert torch.equal(fill(tmp_path, untouched), EXPECTED)
    assert not untouched.spans
    assert len(list(tmp_path.iterdir())) == 3


# Episodic methods


@pytest.fixture(scope="module")
def small():
    model = clip.load("picto-rn", "picto", device="cpu")
    dataset = data.load("picto-few-shot", images=100)
    text = adaptation.prepare(model, dataset.class_names[:12])
    views = bank.view_features(model, dataset, "preaugment", 10)
    return views, text


@pytest.mark.parametrize("batch", [3, 8])
@pytest.mark.parametrize(
    ("method", "settings"), [(tpt.tpt, {}), (tpt.revote, {"rho": 0.3}), (ctpt, {})]
)
def test_bits_do_not_depend_on_the_chunks(
    small, tmp_path, monkeypatch, method, settings, batch
):
    views, text = small
    text = adaptation.replace(text, batch=batch)
    monkeypatch.setattr(adaptation, "CACHE", tmp_path)
    tuning = adaptation.by_tuning(method, **settings)
    with torch.no_grad():
        whole = tuning(views, text)
    for chunk in (1, 64):
        monkeypatch.setattr(adaptation, "CHUNK", chunk)
        found, seconds = adaptation._logits(tuning, views, text, f"{chunk}", "x")
        assert torch.equal(found, whole)
        assert seconds > 0
    assert len({p.parent for p in tmp_path.rglob("*.safetensors")}) == 2


def test_contexts_of_their_own_go_with_their_images(small, tmp_path, monkeypatch):
    views, text = small
    monkeypatch.setattr(adaptation, "CACHE", tmp_path)
    monkeypatch.setattr(adaptation, "CHUNK", 32)
    shifts = torch.linspace(0, 0.1, 40)[:, None, None]
    own = adaptation.replace(text, context=text.context + shifts)
    tuning = adaptation.by_tuning(tpt.tpt)
    with torch.no_grad():
        whole = tuning(views[:40], own)
    found, _ = adaptation._logits(tuning, views[:40], own, "key", "x")
    assert torch.equal(found, whole)


def test_what_is_kept_is_found_by_all_that_made_it(small, tmp_path, monkeypatch):
    views, text = small
    views = views[:4]
    monkeypatch.setattr(adaptation, "CACHE", tmp_path)
    blurry = adaptation.replace(text, context=text.context * 1.01)
    other_views = views.clone()
    other_views[3, 9] = other_views[2, 9]
    cases = [
        (adaptation.by_tuning(tpt.tpt), views, text, "a"),
        (adaptation.by_tuning(tpt.tpt), views, text, "b"),
        (adaptation.by_tuning(tpt.tpt), views, blurry, "a"),
        (adaptation.by_tuning(tpt.tpt), other_views, text, "a"),
        (adaptation.by_tuning(tpt.tpt, steps=2), views, text, "a"),
        (adaptation.by_tuning(ctpt), views, text, "a"),
        (adaptation.by_tuning(tpt.tpt), views, adaptation.replace(text, batch=4), "a"),
    ]
    for _ in range(2):
        for method, seen, side, backbone in cases:
            adaptation._logits(method, seen, side, backbone, "x")
        assert len(list((tmp_path / "adapted").iterdir())) == len(cases)


def test_what_has_no_key_is_not_kept(small, tmp_path, monkeypatch):
    views, text = small
    monkeypatch.setattr(adaptation, "CACHE", tmp_path)
    written_here = adaptation.by_tuning(lambda views, *side, **more: views[:, 0, :2])
    with_loss = adaptation.by_tuning(tpt.tpt, loss=lambda z, t: z.sum(dim=(1, 2)))
    plain = adaptation.in_feature_space(vote.confident_vote)
    for method in (written_here, with_loss, plain, adaptation.as_it_is):
        logits, seconds = adaptation._logits(method, views[:4], text, "key", "x")
        assert len(logits) == 4
        assert seconds > 0
    assert not list(tmp_path.iterdir())


# Other files that are kept


def flips(content: bytes, number: int = 40):
    """The content, cut and with a bit flipped, at seeded places."""
    rng = np.random.default_rng(0)
    yield content[: len(content) // 2]
    for position in rng.integers(0, len(content), number):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        yield bytes(damaged)


def test_damaged_checkpoints_are_left_out(tmp_path, capsys):
    path, state = tmp_path / "run" / "checkpoint.pt", {"weight": torch.rand(30, 30)}
    assert checkpoints.load(path) is None
    checkpoints.save(path, state)
    sound = path.read_bytes()
    assert torch.equal(checkpoints.load(path)["weight"], state["weight"])
    for damaged in flips(sound):
        path.write_bytes(damaged)
        found = checkpoints.load(path)
        # What neither zip nor torch looks at may be anything.
        assert found is None or torch.equal(found["weight"], state["weight"])
    start = zipfile.ZipFile(path).infolist()[1].header_offset + 2000
    path.write_bytes(sound[:start] + bytes([sound[start] ^ 1]) + sound[start + 1 :])
    capsys.readouterr()
    assert checkpoints.load(path) is None
    assert "run/checkpoint.pt is damaged" in capsys.readouterr().out


def test_damaged_contexts_are_learned_again(tmp_path, monkeypatch):
    model = clip.load("picto-rn", "picto", device="cpu")
    path = tmp_path / "c.safetensors"
    width = model.model.token_embedding.weight.shape[1]
    learned = {"context": torch.rand(4, width)}
    contexts.save(path, learned, model, "toy", {"method": "coop"})
    assert contexts.sound(path)
    sound = path.read_bytes()
    offset = len(sound) - 4 * 4 * width
    for damaged in (sound[:-1], sound[:offset] + b"\x55" + sound[offset + 1 :]):
        path.write_bytes(damaged)
        assert not contexts.sound(path)
        with pytest.raises(ValueError, match="damaged"):
            contexts.load(path, model)
    monkeypatch.setattr(contexts, "CACHE", tmp_path)
    calls, trained = [], types.SimpleNamespace(context=learned["context"])
    monkeypatch.setattr(
        adaptation.coop, "train", lambda *_, **__: calls.append(1) or trained
    )
    few = data.load("picto-few-shot", images=2)
    asked = (model, few, 4, "preaugment", 2, 1)
    learned_file = adaptation.learn_coop(*asked)
    adaptation.learn_coop(*asked)
    assert len(calls) == 1
    learned_file.write_bytes(learned_file.read_bytes()[:-1])
    adaptation.learn_coop(*asked)
    assert len(calls) == 2
    assert contexts.sound(learned_file)


def test_every_damaged_caption_is_left_out(tmp_path):
    store = tmp_path / "captions.jsonl"
    rows = {f"hash{i}": (f"a picture of {i}\n", i / 7) for i in range(5)}
    captioning._append(store, dict(list(rows.items())[:2]))
    captioning._append(store, dict(list(rows.items())[2:]))
    assert captioning._read(store) == (rows, 0)
    for damaged in flips(store.read_bytes()):
        store.write_bytes(damaged)
        found, lost = captioning._read(store)
        assert found.items() < rows.items()
        assert lost


def test_damaged_pictures_are_drawn_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pool, "CACHE", tmp_path)
    monkeypatch.setattr(pool, "DRAWN", 4)
    drawn = pool.render("picto-dev", range(3, 9))
    _, other = sorted(tmp_path.rglob("*.safetensors"))
    other.write_bytes(other.read_bytes()[:-5] + b"12345")
    assert np.array_equal(pool.render("picto-dev", range(3, 9)), drawn)
    assert "1 of 2 files" in capsys.readouterr().out


# A full disk


@contextlib.contextmanager
def files_of_at_most(size: int):
    """Whoever writes more bytes into a file is told, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_names_folder_and_cure(tmp_path):
    rows, store = torch.rand(100, 100), tmp_path / "store.jsonl"
    captions = {f"{n}": ("word " * 50, 0.1) for n in range(100)}
    writes = {
        "rows.safetensors": lambda path: chunks._write(path, rows, 1.0),
        "state.pt": lambda path: checkpoints.save(path, {"rows": rows}),
        "store.jsonl": lambda path: captioning._append(store, captions),
    }
    for name, write in writes.items():
        with pytest.raises(files.DiskFull) as refused, files_of_at_most(5000):
            write(tmp_path / name)
        told = str(refused.value)
        assert f"no room for {name} in {tmp_path}" in told
        assert "STUDY_CACHE" in told
    assert [path.name for path in tmp_path.iterdir()] == ["store.jsonl"]
    assert 0 < len(captioning._read(store)[0]) < 100  # those that are whole


def test_results_on_a_full_disk_leave_no_half_file(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.random((300, 9)))
    fig, ax = plt.subplots()
    ax.plot(frame)
    logits, ids = rng.random((300, 9)), [f"{i}" for i in range(300)]
    told = {"dataset": "toy", "backbone": "toy", "method": "toy", "settings": {}}
    told |= {"ids": ids, "labels": [0] * 300, "seconds_per_image": 1.0}
    for write in (
        lambda: predictions.write(tmp_path, logits=logits, **told),
        lambda: predictions.write_csv(tmp_path / "a.csv", frame),
        lambda: figures.save(tmp_path, "01_a", fig, frame),
    ):
        with pytest.raises(files.DiskFull, match="--outputs"), files_of_at_most(5000):
            write()
    plt.close(fig)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["toy.cost.json"]


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(KeyError), files.replacing(tmp_path / "x"):
        raise KeyError("x")
    (tmp_path / "file").touch()
    with pytest.raises(files.NotWritable), files.replacing(tmp_path / "file" / "x"):
        pass
