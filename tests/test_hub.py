"""The hub: a run without a network ends at once and says what to do."""

import socket

import open_clip
import pytest
from huggingface_hub import constants

from helpers.models import clip, hub


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """A network that counts connections and refuses them; no proxy, not offline."""
    tried = []

    def connect(address, timeout):
        tried.append(address)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(hub, "getproxies", dict)
    hub._answers.cache_clear()
    yield tried
    hub._answers.cache_clear()


def test_one_connection_decides_and_the_library_asks_no_more(asked):
    told = "huggingface.co does not answer"
    assert hub.out_of_reach() == hub.out_of_reach() == told
    assert asked == [("huggingface.co", 443)]
    assert constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_asked(monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_: socket.socket())
    assert hub.out_of_reach() == ""
    assert not constants.HF_HUB_OFFLINE


def test_behind_a_proxy_nothing_is_known(asked, monkeypatch):
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert hub.out_of_reach() == ""
    assert not asked


def test_who_chose_to_be_offline_is_told_so(asked, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.out_of_reach() == "HF_HUB_OFFLINE is set"
    assert not asked


def test_a_folder_is_a_model_without_asking_the_hub(asked, tmp_path):
    assert hub.source(str(tmp_path)) == str(tmp_path)
    assert not asked
    assert hub.source("owner/name") == "owner/name"
    assert len(asked) == 1


def test_a_mirror_is_asked_at_its_own_port(asked, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://mirror.local:8080")
    assert hub.out_of_reach() == "mirror.local does not answer"
    assert asked == [("mirror.local", 8080)]


def test_weights_that_cannot_be_fetched_fail_before_any_request(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(clip, "_built", lambda *_: pytest.fail("open_clip was asked"))
    with pytest.raises(RuntimeError) as caught:
        clip.load("ViT-B-32-quickgelu", "openai", device="cpu")
    told = str(caught.value)
    page = "https://huggingface.co/timm/vit_base_patch32_clip_224.openai"
    assert "huggingface.co does not answer" in told
    assert f"download the weights elsewhere from {page} and give" in told
    assert "picto-rn with the weights picto needs no download" in told
    assert told.count("Without a network") == 1


def test_weights_in_the_cache_are_loaded_without_a_network(monkeypatch, tmp_path):
    file = tmp_path / "open_clip_model.safetensors"
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda _, name: str(file) if name == file.name else None,
    )
    config = open_clip.get_pretrained_cfg("RN50-quickgelu", "openai")
    assert hub.download(config)[1] == str(file)

    def built(*_):
        raise OSError("it was asked")

    monkeypatch.setattr(clip, "_built", built)
    with pytest.raises(RuntimeError, match=r"cannot get the weights .*: it was asked"):
        clip.load("RN50-quickgelu", "openai", device="cpu")
