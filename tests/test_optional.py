"""Models that a study can do without: what is there of them, and what is told."""

import json
from pathlib import Path

import pytest

from helpers.models import optional

CAPTIONER = ["config.json", "model.safetensors", "tokenizer.json"]
CAPTIONER += ["preprocessor_config.json"]
PIPELINE = ["unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"]
PIPELINE += ["scheduler/scheduler_config.json"]
INDEX = {
    "_class_name": "P",
    "unet": ["diffusers", "U"],
    "scheduler": ["diffusers", "S"],
}
INDEX |= {"safety_checker": [None, None]}


def written(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("missing", range(len(CAPTIONER)))
def test_a_captioner_is_whole_or_what_it_lacks_is_named(tmp_path, missing):
    written(tmp_path, CAPTIONER)
    assert optional.lacking("captioner", str(tmp_path)) == ""
    (tmp_path / CAPTIONER[missing]).unlink()
    told = optional.lacking("captioner", str(tmp_path))
    assert told.startswith("incomplete, without ")
    assert {1: "weights"}.get(missing, CAPTIONER[missing]) in told


@pytest.mark.parametrize("missing", PIPELINE)
def test_a_pipeline_is_whole_or_the_part_that_it_lacks_is_named(tmp_path, missing):
    written(tmp_path, PIPELINE)
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    assert optional.lacking("diffusion", str(tmp_path)) == ""
    (tmp_path / missing).unlink()
    assert f"without {Path(missing).parent}/" in optional.lacking(
        "diffusion", str(tmp_path)
    )


def test_of_weights_in_shards_all_are_needed(tmp_path):
    names = [name for name in CAPTIONER if "safetensors" not in name]
    written(tmp_path, [*names, "m-1.safetensors", "m-2.safetensors"])
    shards = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps(shards))
    assert optional.lacking("captioner", str(tmp_path)) == ""
    (tmp_path / "m-2.safetensors").unlink()
    assert "weights" in optional.lacking("captioner", str(tmp_path))


def test_the_hubs_cache_is_looked_into(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "all-MiniLM-L6-v2"
    assert optional.lacking("embeddings", name) == "not on this machine"
    page = tmp_path / f"models--sentence-transformers--{name}"
    written(page / "snapshots" / "abc", ["config.json", "vocab.txt"])
    (page / "refs").mkdir()
    (page / "refs" / "main").write_text("abc")
    assert optional.lacking("embeddings", name) == "incomplete, without weights"
    written(page / "snapshots" / "abc", ["pytorch_model.bin"])
    assert optional.lacking("embeddings", name) == ""
    page.rename(tmp_path / "models--lambdalabs--sd-image-variations-diffusers")
    told = optional.lacking("diffusion", "lambdalabs/sd-image-variations-diffusers")
    assert told == "not on this machine", "another revision is needed"


def test_what_ships_is_not_asked_for():
    given = {"captioner": "picto-captioner", "embeddings": "clip", "diffusion": ""}
    assert optional.wanted(given) == {}
    given = {"captioner": "a/b", "embeddings": "all-MiniLM-L6-v2", "dataset": "picto"}
    assert optional.wanted(given) == {
        "captioner": "a/b",
        "embeddings": given["embeddings"],
    }
    assert optional.command("embeddings", "x") == "hf download sentence-transformers/x"
    variations = "lambdalabs/sd-image-variations-diffusers"
    assert optional.command("diffusion", variations).endswith(" --revision v2.0")
