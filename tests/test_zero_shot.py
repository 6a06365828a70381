"""Zero-shot against a literal oracle, and its edge cases."""

import torch
import torch.nn.functional as F

from helpers.methods.zero_shot import best_name, best_template, ensemble, zero_shot
from helpers.prompts.templates import TEMPLATES


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def test_against_the_literal_definition():
    texts, images, scale = unit(3, 4, 8), unit(5, 8, seed=1), 50.0
    logits = zero_shot(images, ensemble(texts), scale)
    for n in range(5):
        for c in range(4):
            mean = sum(texts[k, c].double() for k in range(3)) / 3
            cosine = (images[n].double() * mean / mean.norm()).sum()
            assert abs(logits[n, c].item() - float(scale * cosine)) < 1e-4


def test_one_template_is_no_ensemble_and_duplicates_change_nothing():
    texts = unit(1, 4, 8)
    assert torch.allclose(ensemble(texts), texts[0], atol=1e-6)
    assert torch.allclose(ensemble(texts.repeat(3, 1, 1)), texts[0], atol=1e-6)


def test_permutations_carry_through():
    texts, images = unit(3, 4, 8), unit(5, 8, seed=1)
    logits = zero_shot(images, ensemble(texts), 10.0)
    rows, columns = [4, 2, 0, 1, 3], [2, 0, 3, 1]
    moved = zero_shot(images[rows], ensemble(texts[[2, 0, 1]][:, columns]), 10.0)
    assert torch.allclose(moved, logits[rows][:, columns], atol=1e-5)


def test_one_class_ties_and_half_precision():
    images = unit(5, 8)
    assert zero_shot(images, unit(1, 8), 10.0).argmax(-1).tolist() == [0] * 5
    twins = unit(1, 8).repeat(2, 1)
    assert zero_shot(images, twins, 10.0).argmax(-1).tolist() == [0] * 5
    half = zero_shot(images.half(), unit(3, 8).half(), 100.0)
    assert half.dtype == torch.float32


def test_template_sets_are_openais():
    assert {name: len(texts) for name, texts in TEMPLATES.items()} == {
        "name": 1,
        "photo": 1,
        "openai_7": 7,
        "openai_80": 80,
        "styles": 23,
    }
    assert TEMPLATES["openai_7"][0] == "itap of a {}."
    assert set(TEMPLATES["openai_7"]) < set(TEMPLATES["openai_80"])
    assert all(t.count("{}") == 1 for texts in TEMPLATES.values() for t in texts)


def test_a_class_has_the_logit_of_its_best_name():
    logits = torch.tensor([[1.0, 5.0, -2.0, 3.0], [0.0, -9.0, -2.0, -3.0]])
    owner = torch.tensor([0, 1, 0, 2])
    expected = torch.tensor([[1.0, 5.0, 3.0], [0.0, -9.0, -3.0]])
    assert torch.equal(best_name(logits, owner), expected)
    order = [3, 0, 2, 1]
    assert torch.equal(best_name(logits[:, order], owner[order]), expected)
    twice = [0, 1, 2, 3, 1, 2]
    assert torch.equal(best_name(logits[:, twice], owner[twice]), expected)
    alone = torch.arange(4)
    assert torch.equal(best_name(logits, alone), logits)


def test_the_chosen_template_is_right_most_often_and_the_first_of_equals():
    images, texts = unit(40, 8), unit(5, 4, 8, seed=1)
    labels = (images @ texts[3].T).argmax(dim=-1)
    labels[:10] = (labels[:10] + 1) % 4
    right = [
        sum(int((t @ i).argmax()) == y for i, y in zip(images, labels, strict=True))
        for t in texts
    ]
    chosen = best_template(images, texts, labels.tolist())
    assert right[chosen] == max(right)
    assert chosen == 3
    assert best_template(images.half(), texts.half(), labels.tolist()) == 3
    twice = texts[[0, 3, 3]]
    assert best_template(images, twice, labels.tolist()) == 1
    assert best_template(images[:1], texts[:1], labels[:1].tolist()) == 0
