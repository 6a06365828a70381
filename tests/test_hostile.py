"""Input made to do harm: bombs, traps, lies and ways out of the study's folders."""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import textwrap
import time
import zlib
from pathlib import Path

import lookalikes
import nbformat
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from nbformat import v4
from PIL import Image

from helpers import data, keys, paths, store
from helpers.data import dataset as images
from helpers.data.dataset import UnreadableImage, open_image
from helpers.models import clip
from helpers.results import predictions
from helpers.store import contexts
from helpers.study import main, parameters, runner


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What was found readable goes to a folder of the test's own."""
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


# Pictures


def chunk(kind: bytes, content: bytes) -> bytes:
    size, checksum = len(content), zlib.crc32(kind + content)
    return struct.pack(">I", size) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, *extra: bytes, rows: int = 1) -> bytes:
    """A grey PNG that claims this size and has so many black rows."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * (width + 1) * rows, 9)
    parts = [chunk(b"IHDR", head), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(size: tuple[int, int] = (40, 30), **options) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "JPEG", **options)
    return file.getvalue()


def claiming(content: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header tells another size."""
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def bomb_profile() -> bytes:
    """An iCCP chunk of a few kilobytes that unpacks to 64 MB."""
    return chunk(b"iCCP", b"x\0\0" + zlib.compress(b"\0" * 2**26, 9))


EPS = """%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
(CANARY) (w) file closefile
%%EOF
"""
EXIF = b"Exif\0\0II*\0\x08\0\0\0"  # and then a directory
HARMFUL = {
    "bomb.png": (png(50_000, 50_000), "over 179 million pixels"),
    "bomb.jpg": (claiming(jpeg(), 65_500, 65_500), "over 179 million pixels"),
    "bomb.gif": (b"GIF89a\xff\xff\xff\xff\x80\0\0" + b"\0" * 50, ""),
    "strip.png": (png(1, 60_000, rows=60_000), "a strip"),
    "strip.jpg": (jpeg((60_000, 2)), "a strip"),
    "vector.jpg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "no picture"),
    "page.jpg": (b"<!doctype html><script>alert(1)</script>", "no picture"),
    "program.jpg": (b"\x7fELF" + b"\0" * 100, "no picture"),
    "script.jpg": (EPS.encode(), "no picture"),
    "archive.jpg": (b"PK\3\4" + b"\0" * 100, "no picture"),
    "profile.png": (png(8, 8, bomb_profile(), rows=8), ""),
    "text.png": (
        png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 2**26)), rows=8),
        "",
    ),
    "loop.tif": (b"II*\0\x08\0\0\0\1\0\0\1\4\0\1\0\0\0\1\0\0\0\x08\0\0\0", ""),
    "zeros.jpg": (b"\0" * 100, "no picture"),
}
FINE = {
    "renamed.png": jpeg(),
    "exif loop.jpg": jpeg(exif=EXIF + b"\1\0i\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0"),
    "exif cut.jpg": jpeg(exif=EXIF + b"\xff\xff"),
    "exif wild.jpg": jpeg(exif=EXIF + b"\1\0\x12\1\3\0\1\0\0\0\x63\0\0\0\0\0\0\0"),
    "profile.jpg": jpeg(icc_profile=b"\0" * 200_000),
    "trailing.jpg": jpeg() + b"<?php" + b"A" * 1000,
}


def test_harmful_pictures_are_left_out_with_a_reason_and_odd_ones_read(tmp_path):
    root = lookalikes.photos(tmp_path / "pets", {"cat": 1, "dog": 1})
    for name, (content, _) in HARMFUL.items():
        (root / "dog" / name).write_bytes(content)
    for name, content in FINE.items():
        (root / "cat" / name).write_bytes(content)
    began = time.process_time()  # other processes do not count
    dataset = data.load("folder", str(root))
    assert time.process_time() - began < 20
    skipped = dict(dataset.skipped)
    assert set(skipped) == {f"dog/{name}" for name in HARMFUL}
    for name, (_, reason) in HARMFUL.items():
        assert reason in skipped[f"dog/{name}"], skipped[f"dog/{name}"]
    assert set(dataset.ids) == {"cat/000.jpg", "dog/000.jpg"} | {
        f"cat/{name}" for name in FINE
    }
    sizes = [dataset.image(i).size for i in range(len(dataset))]
    assert max(max(size) for size in sizes) <= 40


def test_what_pillow_would_hand_to_other_programs_is_no_picture(tmp_path):
    canary = tmp_path / "canary"
    script = tmp_path / "script.png"
    script.write_text(EPS.replace("CANARY", str(canary)))
    with pytest.raises(UnreadableImage, match=r"script\.png"):
        open_image(script, upright=True)
    assert not canary.exists()


def test_files_that_are_none_do_not_hold_anybody_up(tmp_path):
    root = lookalikes.photos(tmp_path / "pets", {"cat": 1, "dog": 1})
    os.mkfifo(root / "cat" / "pipe.jpg")
    os.mkfifo(root / "beside.jpg")
    (root / "cat" / "folder.jpg").mkdir()
    (root / "cat" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "cat" / "round.jpg").symlink_to("round.jpg")
    (root / "round").symlink_to("round")
    (root / "dog" / "zero.jpg").symlink_to("/dev/zero")
    (root / "dog" / "up").symlink_to(root)
    dataset = data.load("folder", str(root))
    assert dataset.ids == ("cat/000.jpg", "dog/000.jpg")
    skipped = dict(dataset.skipped)
    assert "pipe" in skipped["cat/pipe.jpg"]
    assert "device" in skipped["dog/zero.jpg"]
    assert skipped["cat/gone.jpg"] == skipped["cat/round.jpg"] == "broken link"
    assert "not followed" in skipped["dog/up"]


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "long"])
def test_a_class_table_that_is_none_is_refused(tmp_path, kind):
    root = lookalikes.photos(tmp_path / "pets", {"cat": 1, "dog": 1})
    table = root / "classes.csv"
    if kind == "pipe":
        os.mkfifo(table)
    elif kind == "folder":
        table.mkdir()
    elif kind == "loop":
        table.symlink_to("classes.csv")
    else:
        table.write_text("folder,name\ncat," + "x" * 200_000)
    with pytest.raises(ValueError, match=r"classes\.csv"):
        data.read("folder", str(root))


@pytest.mark.parametrize("name", ["..", "...", ".. ", "a..", "-rf", "$(id)", "a;b"])
def test_folders_named_like_ways_out_stay_where_they_are(tmp_path, name):
    root = tmp_path / f"{name}"
    if name == "..":
        root = tmp_path / "x" / ".." / "pets"
        root.parents[1].mkdir()
    root = lookalikes.photos(root, {"cat": 1, "dog": 1})
    dataset = data.read("folder", str(root))
    path = predictions.ledger_path(tmp_path / "out", dataset.name, "b", "m")
    assert path.resolve().is_relative_to((tmp_path / "out" / "predictions").resolve())
    assert len(path.relative_to(tmp_path / "out").parts) == 4


# Parameter files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: !!python/object/apply:os.system [touch canary]", "not determine"),
        ("study: !!python/name:os.system", "could not determine"),
        ("study: x\nstudy: y", "study is given twice"),
        ("study:\tx\n\timages: 3", "not YAML"),
        ("study: x\0y", "not YAML"),
        ("study: " + "[" * 1500, "nested too deeply"),
        ("study: !!timestamp x", "not YAML"),
        ("images: 2001-13-45", "not YAML"),
        ("images: " + "9" * 5000, "not YAML"),
        ("? [study]\n: x", "not YAML|accepted: lines"),
        ("1: x", "accepted: lines"),
        ("- study", "accepted: lines"),
        ("study: x\n---\nstudy: y", "not YAML"),
        ('study: "\\ud800"', "accepted: a folder's name"),
        ("weights: ~nobody-here/w.pt\nstudy: evil", "weights is"),
        ("weights: " + "w" * 5000 + ".pt\nstudy: evil", "weights is"),
        ('coop_file: "a\\0b"\nstudy: evil', "coop_file is"),
        ("prompt_sets: [[photo]]\nstudy: evil", "prompt_sets is"),
        ("view_counts: []\nfractions: [0.5]\nstudy: evil", "view_counts is"),
        ("view_counts: x\nfractions: [0.5]\nstudy: evil", "view_counts is"),
        ("shifts: 5\nstudy: evil", "shifts is 5"),
        ("beta: 1" + "0" * 400 + "\nstudy: evil", "a finite number"),
    ],
)
def test_hostile_parameter_files_are_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text(text)
    began = time.process_time()  # other processes do not count
    with pytest.raises(ValueError, match=message) as caught:
        parameters.plan("evil", tmp_path, paths.NOTEBOOKS)
    assert "evil.yaml" in str(caught.value)
    assert len(str(caught.value)) < 20_000
    assert time.process_time() - began < 20
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("../../etc/x", "../params/smoke", "params/smoke", "/etc/passwd", "~/x"),
        *("smoke\0", "gone\0.yaml", "", ".", "a" * 5000),
    ],
)
def test_a_study_is_one_of_the_list(name, capsys):
    for command in ("run", "doctor"):
        assert main([command, name]) == 2
        assert "no study" in capsys.readouterr().err


@pytest.mark.parametrize("study", ["../x", "/tmp/x", "a/b", "..", "x\0", "a\nb", "."])
def test_a_study_cannot_name_a_folder_elsewhere(tmp_path, study, capsys):
    file = tmp_path / "evil.yaml"
    file.write_text(f"study: {json.dumps(study)}\n")
    outputs = tmp_path / "outputs"
    assert main(["run", str(file), "--outputs", str(outputs)]) == 2
    assert "study is" in capsys.readouterr().err
    assert not outputs.exists()


WAYS_OUT = ["..", ".", "../x", "/x", "a/b", "a\\b", "x\0", "", "a\nb", ".hidden", "a:b"]


@pytest.mark.parametrize("name", WAYS_OUT)
@pytest.mark.parametrize("key", ["dataset", "backbone", "method"])
def test_ledgers_have_no_way_out_of_their_folder(tmp_path, key, name):
    names = {"dataset": "d", "backbone": "b", "method": "m"} | {key: name}
    with pytest.raises(ValueError, match=f"{key} .* cannot name a file"):
        predictions.ledger_path(tmp_path, **names)


@pytest.mark.parametrize("name", ["../x", "a/../../b", "\0"])
def test_data_sets_and_backbones_are_names_not_paths(name):
    with pytest.raises(ValueError, match="unknown data set"):
        data.read(name)
    with pytest.raises(ValueError, match="unknown backbone"):
        clip.load(name)


# Weights


class Trap:
    """Runs a function when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def traps(folder: Path, canary: Path) -> dict[str, Path]:
    """Files that would touch the canary, in every format that torch has had."""
    zipped, old, bare, inner, script = (
        folder / f"{name}.pt" for name in ("zipped", "old", "bare", "inner", "script")
    )
    torch.save({"weights": Trap(canary)}, zipped)
    torch.save(Trap(canary), old, _use_new_zipfile_serialization=False)
    bare.write_bytes(pickle.dumps(Trap(canary)))
    state = {"state_dict": {"ctx": torch.zeros(4, 8)}, "optimizer": Trap(canary)}
    torch.save(state, inner)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    for suffix in (".bin", ".pth"):
        zipped.with_suffix(suffix).write_bytes(zipped.read_bytes())
    named = folder / "trap.safetensors"
    named.write_bytes(zipped.read_bytes())
    return {path.name: path for path in folder.iterdir() if path.is_file()}


def test_no_weights_file_runs_anything(tmp_path):
    canary = tmp_path / "out" / "canary"
    canary.parent.mkdir()
    (tmp_path / "weights").mkdir()
    for name, path in traps(tmp_path / "weights", canary).items():
        with pytest.raises(ValueError, match=re.escape(name)):
            clip.load("picto-rn", str(path), device="cpu")
        assert not canary.exists(), name
    pickle.loads(pickle.dumps(Trap(canary)))
    assert canary.exists()  # the trap works


def safetensors(header: dict | bytes, content: bytes = b"", size: int | None = None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + content


def tensor(shape: list[int], end: int) -> dict:
    return {"context": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}


LIES = {
    "empty": b"",
    "huge header": safetensors({}, size=2**62),
    "header past the end": safetensors({}, size=1000),
    "no JSON": safetensors(b"[[[["),
    "deep JSON": safetensors(b"[" * 100_000),
    "content missing": safetensors(tensor([4, 8], 128)),
    "shape larger than content": safetensors(tensor([2**40, 2**40], 128), b"\0" * 128),
    "offsets past the end": safetensors(tensor([4, 8], 2**60), b"\0" * 128),
    "other tensors": safetensors(tensor([4, 8], 128), b"\0" * 128),
}


@pytest.fixture(scope="module")
def picto() -> clip.Backbone:
    return clip.load("picto-rn", "picto", device="cpu")


@pytest.mark.parametrize("lie", LIES)
def test_files_of_tensors_that_lie_are_refused(tmp_path, picto, lie):
    path = tmp_path / "lie.safetensors"
    path.write_bytes(LIES[lie])
    with pytest.raises(ValueError, match=r"lie\.safetensors"):
        clip.load("picto-rn", str(path), device="cpu")
    with pytest.raises(ValueError, match=r"lie\.safetensors"):
        contexts.load(path, picto)


def test_checkpoints_of_contexts_run_nothing_and_hold_tensors(tmp_path, picto):
    canary = tmp_path / "canary"
    (tmp_path / "weights").mkdir()
    for name, path in traps(tmp_path / "weights", canary).items():
        with pytest.raises(ValueError, match=re.escape(name)):
            contexts.load(path, picto)
        assert not canary.exists(), name
    for i, state in enumerate([[1], {"ctx": "text"}, {"ctx": None}, "text", {5: 6}]):
        path = tmp_path / f"{i}.pt"
        torch.save({"state_dict": state}, path)
        with pytest.raises(ValueError, match=rf"{i}\.pt"):
            contexts.load(path, picto)


# What lies in the cache and in the outputs


def ledger(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    predictions.write(
        folder,
        dataset="d",
        backbone="b",
        method="m",
        ids=["a", "b"],
        labels=[0, 1],
        logits=rng.normal(size=(2, 3)),
        seconds_per_image=0.5,
        settings={},
    )
    return predictions.ledger_path(folder, "d", "b", "m")


def rewritten(path: Path, **changed: str) -> None:
    table = pq.read_table(path)
    metadata = table.schema.metadata
    metadata |= {key.encode(): value.encode() for key, value in changed.items()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "5", "null", '"x"', "\0", "[" * 10**5),
        *(f'{{"seconds_per_image": {cost}}}' for cost in ('"x"', "null", "[1]")),
    ],
)
def test_costs_that_are_none_are_refused(tmp_path, content):
    path = ledger(tmp_path)
    path.with_suffix(".cost.json").write_text(content)
    with pytest.raises(ValueError, match=r"m\.parquet is not a readable ledger"):
        predictions.read(path)


@pytest.mark.parametrize(
    "changed",
    [
        *({"seed": "x"}, {"seed": "9" * 5000}, {"classes": "4"}, {"classes": "-1"}),
        *({"settings": "{"}, {"settings": "[" * 10**5}),
    ],
)
def test_ledgers_whose_facts_are_none_are_refused(tmp_path, changed):
    path = ledger(tmp_path)
    rewritten(path, **changed)
    with pytest.raises(ValueError, match=r"m\.parquet is not a readable ledger"):
        predictions.read(path)


@pytest.mark.parametrize("way", ["../../../x", "/x", "d\0"])
def test_a_ledger_cannot_claim_to_lie_elsewhere(tmp_path, way):
    rewritten(ledger(tmp_path), dataset=way)
    with pytest.raises(ValueError, match="cannot name a file"):
        predictions.collect(tmp_path)


def test_other_tables_are_no_ledgers(tmp_path):
    path = ledger(tmp_path)
    for table in (pa.table({"a": [1]}), pa.table({}), pq.read_table(path).slice(0, 1)):
        pq.write_table(table.replace_schema_metadata({}), path)
        with pytest.raises(ValueError, match="not a readable ledger"):
            predictions.read(path)
    path.write_bytes(b"PAR1" + b"\xff" * 64 + b"PAR1")
    with pytest.raises(ValueError, match="not a readable ledger"):
        predictions.read(path)


@pytest.mark.parametrize("content", ["[]", "5", '{"x": 1}', "[" * 10**5, "\udcff"])
def test_a_list_of_checked_files_that_is_none_is_made_anew(tmp_path, content):
    root = lookalikes.photos(tmp_path / "pets", {"cat": 1, "dog": 1})
    dataset = data.read("folder", str(root))
    kept = images.CACHE / "verified" / f"{keys.key(dataset.name)}.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(content, errors="surrogateescape")
    assert images.verify(dataset) == []
    assert len(json.loads(kept.read_text())) == 2


class Parrot:
    """A captioner that says one thing."""

    name, key, batch = "parrot", "parrot", 2

    def __call__(self, pictures: list) -> list[str]:
        return ["a parrot"] * len(pictures)


def test_captions_that_are_none_are_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "CACHE", tmp_path / "cache")
    root = lookalikes.photos(tmp_path / "pets", {"cat": 1, "dog": 1})
    dataset = data.read("folder", str(root))
    first = store.captions(Parrot(), dataset)
    (kept,) = (tmp_path / "cache").rglob("*.jsonl")
    (hashes,) = (tmp_path / "cache").rglob("keys.json")
    lines = ["5", "null", "[[1], 2, 3]", '{"a": 1, "b": 2, "c": 3}', "[" * 10**5]
    kept.write_text("\n".join([*lines, '["x", "y", "z"]', kept.read_text()]))
    for content in ("5", "[1]", "{", "[" * 10**5, '{"a": 1, "b": 2}'):
        hashes.write_text(content)
        again = store.captions(Parrot(), dataset)
        pd.testing.assert_frame_equal(first, again)
    kept.write_text("\n".join(lines))
    assert store.captions(Parrot(), dataset)["caption"].tolist() == ["a parrot"] * 2


# Doors


ONLY_AS_ROOT = "$(if $(filter 0,$(shell id -u)),--allow-root)"
UPLOADS = """--ServerApp.tornado_settings='{"websocket_max_message_size": 100000000}'"""


def test_jupyterlab_keeps_its_token_and_to_this_machine():
    opened = r"ServerApp|NotebookApp|IdentityProvider|--ip\b|0\.0\.0\.0|--allow-root"
    files = [paths.ROOT / "Makefile", *paths.ROOT.glob("*.*")]
    for folder in ("src", "params", "notebooks"):
        files += (paths.ROOT / folder).rglob("*")
    kinds = ("", ".py", ".yaml", ".yml", ".ipynb", ".json", ".toml", ".md")
    texts = {f: f.read_text() for f in files if f.is_file() and f.suffix in kinds}
    assert len(texts) > 100
    makefile = texts[paths.ROOT / "Makefile"]
    texts[paths.ROOT / "Makefile"] = makefile.replace(ONLY_AS_ROOT, "").replace(
        UPLOADS, ""
    )
    for file, text in texts.items():
        assert not re.search(opened, text), file
        assert "jupyter" not in file.name, file  # no settings of a server
    lab = re.search("^lab:.*\n((?:\t.*\n)+)", makefile, re.M)
    line = f"\t$(BIN)/jupyter lab notebooks {ONLY_AS_ROOT} \\\n\t\t{UPLOADS}\n"
    assert lab[1] == line


@pytest.mark.parametrize(("user", "option"), [("0", " --allow-root"), ("1000", "")])
def test_jupyterlab_is_allowed_to_root_where_root_opens_it(tmp_path, user, option):
    fake = tmp_path / "id"
    fake.write_text(f"#!/bin/sh\necho {user}\n")
    fake.chmod(0o755)
    command = ["make", "-n", "--no-print-directory", "-o", ".venv/.ready", "lab"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=paths.ROOT, env=environment, capture_output=True, text=True
    )
    first = done.stdout.split("\n")[0].rstrip("\\ ")
    assert first == f".venv/bin/jupyter lab notebooks{option}", done.stderr


def test_kernels_listen_on_this_machine_alone(tmp_path):
    look = """
        import json, os, psutil
        from ipykernel.connect import get_connection_file
        told = json.load(open(get_connection_file()))
        found = [
            c.laddr.ip for c in psutil.Process().net_connections("inet")
            if c.status == psutil.CONN_LISTEN
        ]
        mode = os.stat(get_connection_file()).st_mode & 0o777
        print(json.dumps([told["ip"], len(told["key"]), sorted(set(found)), mode]))
    """
    book = v4.new_notebook()
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    book.metadata.kernelspec["language"] = "python"
    cell = v4.new_code_cell('study: str = "doors"', metadata={"tags": ["parameters"]})
    book.cells = [cell, v4.new_code_cell(textwrap.dedent(look))]
    nbformat.write(book, tmp_path / "01_doors.ipynb")
    job = parameters.Job(tmp_path / "01_doors.ipynb", {}, {"study": "doors"})
    folder = runner.run([job], tmp_path / "outputs")
    cells = nbformat.read(folder / "01_doors.ipynb", as_version=4).cells
    ip, key, found, mode = json.loads(cells[-1].outputs[0].text)
    assert (ip, found, mode) == ("127.0.0.1", ["127.0.0.1"], 0o600)
    assert key >= 32  # messages are signed
