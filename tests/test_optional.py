"""Models that a study can do without: what is there of them, and what is told."""

from pathlib import Path

from helpers.models import optional


def written(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def test_a_folder_needs_weights(tmp_path):
    assert optional.lacking("captioner", "nowhere/x") == "not on this machine"
    written(tmp_path, ["model_index.json", "unet/config.json"])
    assert "weights" in optional.lacking("diffusion", str(tmp_path))
    written(tmp_path, ["unet/diffusion_pytorch_model.safetensors"])
    assert optional.lacking("diffusion", str(tmp_path)) == ""


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
