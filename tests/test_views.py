"""Views against torchvision and literal oracles, and their independence of order."""

import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import stats
from torchvision import transforms
from torchvision.transforms import functional

from helpers import views
from helpers.views import augmix, crop_flip, library

SIZE = 32


def picture(width: int = 60, height: int = 45, seed: int = 0) -> Image.Image:
    """Smooth blobs of colour with some noise, so that every operation shows."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), 3))
    noise = rng.integers(-9, 10, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 3, 240).astype(np.uint8))


def original(image: Image.Image, size: int = SIZE) -> torch.Tensor:
    return functional.pil_to_tensor(image.resize((size, size)))


def make(name: str, image: Image.Image, count: int, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    return views.make(name, image, count, SIZE, generator, original)


def drawing_from_torch() -> SimpleNamespace:
    """What crops ask of a generator, answered from torch's as torchvision asks it."""
    return SimpleNamespace(
        uniform=lambda low, high: torch.empty(1).uniform_(low, high).item(),
        integers=lambda low, high: torch.randint(low, high, (1,)).item(),
    )


def levels_apart(a: torch.Tensor, b: torch.Tensor) -> int:
    return (a.int() - b.int()).abs().max().item()


@pytest.mark.parametrize("name", views.VIEWS)
def test_the_original_comes_first_and_views_differ(name):
    image = picture()
    made = make(name, image, 9)
    assert made.shape == (9, 3, SIZE, SIZE)
    assert made.dtype == torch.uint8
    assert torch.equal(made[0], original(image))
    assert len({view.numpy().tobytes() for view in made}) == 9
    assert torch.equal(make(name, image, 1), made[:1])
    assert torch.equal(make(name, image, 4), made[:4])  # fewer are a part of more
    assert not torch.equal(make(name, image, 9, seed=1)[1:], made[1:])


@pytest.mark.parametrize("name", views.VIEWS)
def test_views_depend_on_the_image_alone(name):
    images = {f"n{i}.JPEG": picture(seed=i) for i in range(6)}

    def of(image_id):
        return make(name, images[image_id], 5, views.image_seed(3, image_id))

    torch.manual_seed(1)
    before = torch.get_rng_state()
    alone = {image_id: of(image_id) for image_id in images}
    assert torch.equal(torch.get_rng_state(), before)  # nor is torch's generator moved
    torch.manual_seed(2)
    with ThreadPoolExecutor(4) as workers:
        backwards = list(reversed(images))
        for image_id, made in zip(backwards, workers.map(of, backwards), strict=True):
            assert torch.equal(made, alone[image_id])


def test_image_seeds_are_fixed_and_differ():
    assert views.image_seed(0, "n01.JPEG") == 1453375267912523178
    pairs = [(seed, str(i)) for seed in range(20) for i in range(200)]
    seeds = {views.image_seed(*pair) for pair in pairs}
    assert len(seeds) == len(pairs)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("size", [(60, 45), (45, 60), (200, 9), (7, 150), (1, 1)])
def test_boxes_are_torchvisions_draw_for_draw(size):
    image, generator = Image.new("RGB", size), drawing_from_torch()
    for seed in range(80):
        torch.manual_seed(seed)
        top, left, height, width = transforms.RandomResizedCrop.get_params(
            image, (0.08, 1.0), (3 / 4, 4 / 3)
        )
        torch.manual_seed(seed)
        box = crop_flip.random_box(*size, generator)
        assert box == (left, top, width, height), seed


def test_boxes_of_the_default_generator_follow_the_same_law():
    generator, image = np.random.default_rng(0), Image.new("RGB", (500, 375))
    ours = [crop_flip.random_box(500, 375, generator) for _ in range(2000)]
    torch.manual_seed(0)
    theirs = [
        transforms.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
        for _ in range(2000)
    ]
    order = [1, 0, 3, 2]  # left, top, width, height
    for column, values in enumerate(np.array(theirs).T[order]):
        assert stats.ks_2samp(np.array(ours)[:, column], values).pvalue > 0.01
    # Large crops fit less often: the mean is well below (0.08 + 1) / 2 of the whole.
    for boxes in (np.array(ours)[:, 2:], np.array(theirs)[:, 2:]):
        assert 0.41 < (boxes.prod(axis=1) / (500 * 375)).mean() < 0.45


def test_a_box_without_room_is_the_middle_of_the_short_side():
    generator = np.random.default_rng(0)
    for _ in range(20):  # no aspect from 3/4 to 4/3 covers 8 % of such a picture
        assert crop_flip.random_box(3000, 9, generator) == (1494, 0, 12, 9)
        assert crop_flip.random_box(9, 3000, generator) == (0, 1494, 9, 12)


@pytest.mark.parametrize(
    ("width", "height", "size"), [(64, 64, 64), (150, 90, 48), (700, 900, 32)]
)
def test_crops_are_torchvisions_to_one_level(width, height, size):
    image, count = picture(width, height), 12
    recipe = transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    torch.manual_seed(5)
    theirs = torch.stack([recipe(image) for _ in range(count)])
    torch.manual_seed(5)
    ours = crop_flip.preaugment(image, count, size, drawing_from_torch())
    assert levels_apart(ours, theirs) <= 1
    assert (ours != theirs).float().mean() < 0.05


def test_half_of_the_crops_are_flipped():
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 1, 3))
    made = make("preaugment", Image.fromarray(ramp), 401)[1:].float()
    flipped = made[..., 0].mean((1, 2)) > made[..., -1].mean((1, 2))
    assert 0.42 < flipped.float().mean() < 0.58


@pytest.mark.parametrize("name", views.VIEWS)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2)])
def test_tiny_and_long_pictures_have_views(name, size):
    made = make(name, picture(*size), 6)
    assert made.shape == (6, 3, SIZE, SIZE)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_pictures_of_other_modes_are_seen_as_rgb(mode):
    image = picture().convert(mode)
    made = make("preaugment", image, 3)
    assert torch.equal(made, make("preaugment", image.convert("RGB"), 3))


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match=r"'crops': choose one of preaugment, augmix"):
        make("crops", picture(), 4)
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"{count} views.*1 or more"):
            make("preaugment", picture(), count)
    for wrong in (lambda i: original(i, 16), lambda i: original(i).float()):
        with pytest.raises(ValueError, match=r"not torch.uint8 \[3, 32, 32\]"):
            views.make(
                "preaugment", picture(), 4, SIZE, np.random.default_rng(0), wrong
            )


def test_every_recipe_has_a_version_and_new_ones_can_join(monkeypatch):
    assert set(views.VERSION) == set(views.VIEWS)

    def black(image, count, size, generator):
        return torch.zeros(count, 3, size, size, dtype=torch.uint8)

    monkeypatch.setitem(views.VIEWS, "black", black)
    made = make("black", picture(), 3)
    assert torch.equal(made[0], original(picture()))
    assert made[1:].sum() == 0


def test_all_recipes_see_the_same_crops():
    image = picture()
    crops = make("preaugment", image, 64)[1:]
    replaced = make("torchvision_autoaugment", image, 64)[1:]
    blended = make("autoaugment", image, 64)[1:]
    # Policies skip operations with some probability: such views are the crop itself.
    same = [torch.equal(a, b) for a, b in zip(crops, replaced, strict=True)]
    assert 0 < sum(same) < 32
    # And what the policy did to the others, the blend holds a part of.
    low, high = torch.minimum(crops, replaced), torch.maximum(crops, replaced)
    assert ((low <= blended) & (blended <= high)).all()
    after = set()
    for recipe in views.VIEWS.values():
        generator = np.random.default_rng(0)
        recipe(image, 3, SIZE, generator)
        after.add(generator.random())
    assert len(after) == 1


def test_autoaugment_blends_evenly_and_anew_for_each_view(monkeypatch):
    monkeypatch.setattr(library.v2, "AutoAugment", lambda: ImageOps.invert)
    image = picture()
    crops = make("preaugment", image, 301)[1:].double()
    made = make("autoaugment", image, 301)[1:].double()
    contrast = 2 * crops - 255  # of the crop and its negative, which the policy is here
    m = ((made + crops - 255) * contrast).sum((1, 2, 3)) / contrast.square().sum(
        (1, 2, 3)
    )
    exact = m[:, None, None, None] * contrast + 255 - crops
    assert (made - exact).abs().max() < 0.6  # half a level, and the fit's own error
    assert stats.kstest(m.numpy(), "uniform").pvalue > 0.01


def operate_by_torchvision(name: str, image: Image.Image, amount: float) -> Image.Image:
    """The nine operations in torchvision's words."""

    def affine(slopes=(0.0, 0.0), shift=(0, 0), **where):
        degrees = [math.degrees(math.atan(slope)) for slope in slopes]
        bilinear = functional.InterpolationMode.BILINEAR
        return functional.affine(
            image, 0.0, list(shift), 1.0, degrees, bilinear, **where
        )

    match name:
        case "autocontrast":
            return functional.autocontrast(image)
        case "equalize":
            pixels = functional.equalize(functional.pil_to_tensor(image))
            return functional.to_pil_image(pixels)
        case "posterize":
            pixels = functional.posterize(functional.pil_to_tensor(image), 4 - amount)
            return functional.to_pil_image(pixels)
        case "solarize":
            pixels = functional.solarize(functional.pil_to_tensor(image), 256 - amount)
            return functional.to_pil_image(pixels)
        case "rotate":
            bilinear = functional.InterpolationMode.BILINEAR
            return functional.rotate(image, amount, bilinear)
        case "shear_x":
            return affine(slopes=(amount, 0.0), center=[0, 0])
        case "shear_y":
            return affine(slopes=(0.0, amount), center=[0, 0])
        case "translate_x":
            return affine(shift=(-amount, 0))
        case "translate_y":
            return affine(shift=(0, -amount))


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        ("autocontrast", 0),
        ("equalize", 0),
        ("posterize", 0),
        ("posterize", 2),
        ("solarize", 25),
        ("rotate", 2),
        ("rotate", -7),
        ("shear_x", 0.03),
        ("shear_x", -0.2),
        ("shear_y", 0.2),
        ("translate_x", 7),
        ("translate_x", -2),
        ("translate_y", 5),
    ],
)
def test_operations_are_torchvisions(name, amount):
    image = picture(SIZE, SIZE)
    ours = functional.pil_to_tensor(augmix.operate(name, image, amount))
    theirs = functional.pil_to_tensor(operate_by_torchvision(name, image, amount))
    assert levels_apart(ours, theirs) == 0
    assert levels_apart(ours, functional.pil_to_tensor(image)) > 0


@pytest.mark.parametrize(
    ("name", "severity", "low", "high"),
    [
        ("autocontrast", 1, 0, 0),
        ("posterize", 1, 0, 0),
        ("posterize", 3, 0, 1),
        ("rotate", 1, -2, 2),
        ("rotate", 3, -8, 8),
        ("solarize", 1, 2, 25),
        ("solarize", 3, 2, 76),
        ("shear_x", 1, -0.03, 0.03),
        ("shear_y", 3, -0.09, 0.09),
        ("translate_x", 1, -7, 7),
        ("translate_y", 3, -22, 22),
    ],
)
def test_strengths_reach_their_ends_and_no_further(name, severity, low, high):
    generator = np.random.default_rng(0)
    drawn = [augmix.strength(name, 224, severity, generator) for _ in range(3000)]
    assert min(drawn) == pytest.approx(low, rel=0.01)
    assert max(drawn) == pytest.approx(high, rel=0.01)
    if low < 0:
        assert abs(np.mean(np.sign(drawn))) < 0.06
    if name == "posterize" and severity == 3:
        assert np.mean(drawn) == pytest.approx(0.5 / 2.9, abs=0.03)


def test_augmix_is_the_algorithm_to_half_a_level():
    image, count = picture(), 24
    made = make("augmix", image, count + 1, seed=4)[1:]
    crops = make("preaugment", image, count + 1, seed=4)[1:]
    rng = np.random.default_rng(4).spawn(1)[0]
    for view, crop in zip(made, crops, strict=True):
        w, m = rng.dirichlet((1, 1, 1)), rng.beta(1, 1)
        exact = m * crop.double()
        for weight in w:
            chained = functional.to_pil_image(crop)
            for _ in range(rng.integers(1, 4)):
                name = augmix.OPERATIONS[rng.integers(9)]
                amount = augmix.strength(name, SIZE, 1, rng)
                chained = operate_by_torchvision(name, chained, amount)
            pixels = functional.pil_to_tensor(chained).double()
            exact += (1 - m) * weight * pixels
        assert (view - exact).abs().max() <= 0.5 + 1e-3


def test_chains_take_all_depths_and_operations_evenly(monkeypatch):
    taken = []

    def record(name, crop, amount):
        taken.append(name)
        return crop

    monkeypatch.setattr(augmix, "operate", record)
    crop, generator, depths = picture(8, 8), np.random.default_rng(0), []
    for _ in range(2700):
        before = len(taken)
        augmix.chain(crop, 1, generator)
        depths.append(len(taken) - before)
    assert stats.chisquare(np.bincount(depths)[1:]).pvalue > 0.01
    assert len(np.bincount(depths)) == 4
    counts = [taken.count(name) for name in augmix.OPERATIONS]
    assert stats.chisquare(counts).pvalue > 0.01


def test_mixing_one_picture_with_itself_changes_nothing():
    image = picture(SIZE, SIZE)
    mixed = augmix.mix([image] * 4, [0.1, 0.2, 0.3, 0.4])
    assert torch.equal(mixed, functional.pil_to_tensor(image))
    white = Image.new("RGB", (SIZE, SIZE), "white")
    assert augmix.mix([white] * 4, np.full(4, 0.25)).min() == 255


def test_torchvisions_recipes_are_torchvisions():
    image = picture()
    crops = make("preaugment", image, 8)[1:]
    for name, transform in (
        ("torchvision_augmix", transforms.v2.AugMix()),
        ("torchvision_autoaugment", transforms.v2.AutoAugment()),
    ):
        own = np.random.default_rng(0).spawn(1)[0]
        torch.manual_seed(int(own.integers(2**63)))
        plain = [transform(functional.to_pil_image(crop)) for crop in crops]
        plain = torch.stack([functional.pil_to_tensor(view) for view in plain])
        assert torch.equal(make(name, image, 8)[1:], plain)
