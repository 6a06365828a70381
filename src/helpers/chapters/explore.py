"""One image under the methods: widgets in a live notebook, else one picture.

Every number comes from the functions that the chapters call. What a control does not
change is kept, so that moving it takes no longer than drawing.
"""

import io
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from PIL.Image import Image
from torch import Tensor

from helpers import store
from helpers.chapters import adaptation
from helpers.chapters.notebook import Run
from helpers.data.dataset import FORMATS, Dataset, UnreadableImage, open_image, to_rgb
from helpers.figures.explore import explorer
from helpers.methods import autoclip, selection, tpt, vote
from helpers.models.clip import Backbone
from helpers.prompts.templates import TEMPLATES
from helpers.store.views import draw, encode

MOST = 64  # views on the slider
CONTROLS = ("views", "rho", "tune", "steps", "learning_rate", "beta")
"""What the panel has a widget for, by the names that `Settings` gives them."""
WIDE = {"style": {"description_width": "115px"}, "layout": {"width": "320px"}}
"""Sliders wide enough for their names."""


def explore(
    run: Run,
    backbone: Backbone,
    dataset: Dataset,
    recipe: str = "preaugment",
    templates: tuple[str, ...] = TEMPLATES["styles"],
) -> None:
    """Show one image under vote, TPT and AutoCLIP, with widgets in a live notebook.

    In a live notebook a person chooses image, class names and settings. Elsewhere the
    first image of the data set is drawn once and saved as `figures/NN_explore`.

    Args:
        recipe: of the views, a key of `helpers.views.VIEWS`.
        templates: what AutoCLIP weighs, each with one {} for the class name.
    """
    exploration = Exploration(backbone, dataset, recipe, templates, run.seed)
    if is_interactive():
        display(Panel(exploration).box)
    else:
        run.figure("explore", *exploration.draw(Settings()))


def vary(
    run: Run,
    name: str,
    draw: Callable[..., tuple[Figure, pd.DataFrame]],
    **controls: widgets.Widget,
) -> None:
    """Show a figure that follows its controls in a live notebook.

    Elsewhere the figure of the controls' first values is saved as `figures/NN_name`.

    Args:
        draw: takes the controls' values as keyword arguments.
    """

    def show(**values: Any) -> None:
        fig, _ = draw(**values)
        display(fig)
        plt.close(fig)

    if is_interactive():
        widgets.interact(show, **controls)
    else:
        run.figure(name, *draw(**{key: c.value for key, c in controls.items()}))


def is_interactive() -> bool:
    """Whether a person sent the running cell, and so may move sliders.

    Whoever sends a cell says whether it can answer `input()`. JupyterLab, Notebook and
    VS Code can; papermill, nbconvert and `study run` cannot.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if kernel else {}
    return bool(request.get("content", {}).get("allow_stdin"))


@dataclass(frozen=True)
class Upload:
    """A picture file that the reader brought."""

    name: str
    content: bytes

    def image(self) -> Image:
        """The upright RGB picture; raises UnreadableImage with a sentence."""
        try:
            return to_rgb(open_image(io.BytesIO(self.content), upright=True))
        except UnreadableImage as error:
            raise UnreadableImage(
                f"{self.name} cannot be read as a picture: give a whole file of one "
                f"of the formats {', '.join(FORMATS)}"
            ) from error


@dataclass(frozen=True)
class Settings:
    """What the picture is made of."""

    image: int | Upload = 0  # a position in the data set, or a file
    names: tuple[str, ...] = ()  # of classes; those of the data set where empty
    views: int = 32  # the original included
    rho: float = 0.1  # share of the views that vote and TPT keep
    tune: bool = True  # whether TPT runs
    steps: int = 1
    learning_rate: float = 5e-3
    beta: float = 0.85  # entropy of AutoCLIP's weights, as a share of the largest


class Exploration:
    """Computes and draws what `Settings` ask for, and keeps what the next may need."""

    def __init__(
        self,
        backbone: Backbone,
        dataset: Dataset,
        recipe: str,
        templates: tuple[str, ...],
        seed: int,
    ) -> None:
        self.backbone, self.dataset = backbone, dataset
        self.recipe, self.templates, self.seed = recipe, tuple(templates), seed
        self._views = lru_cache(maxsize=4)(self._draw_views)  # of 22 MB or less each
        self._text = lru_cache(maxsize=4)(self._prepare)
        self._tuned = lru_cache(maxsize=4)(self._tune)

    def _draw_views(self, image: int | Upload, count: int) -> tuple[np.ndarray, Tensor]:
        """Pictures uint8 [V, S, S, 3] and features [1, V, D], the store's for one."""
        if isinstance(image, Upload):
            picture, image_id = image.image(), image.name
        else:
            picture, image_id = self.dataset.image(image), self.dataset.ids[image]
        how = self.recipe, count, self.seed
        drawn = draw(self.backbone, picture, image_id, *how)
        features = encode(self.backbone, drawn).to(self.backbone.device)
        return drawn.permute(0, 2, 3, 1).numpy(), features[None]

    def _prepare(self, names: tuple[str, ...]) -> tuple[adaptation.Text, Tensor]:
        """Text side and template features [K, C, D] of these classes."""
        with redirect_stdout(io.StringIO()):  # its report is for long runs
            text = adaptation.prepare(self.backbone, names)
        templates = store.template_features(self.backbone, names, self.templates)
        return text, templates.to(self.backbone.device)

    def _tune(
        self,
        image: int | Upload,
        names: tuple[str, ...],
        count: int,
        rho: float,
        steps: int,
        learning_rate: float,
    ) -> Tensor:
        """TPT's logits [1, C]."""
        how = {"rho": rho, "steps": steps, "learning_rate": learning_rate}
        _, views = self._views(image, count)
        return adaptation.by_tuning(tpt.tpt, **how)(views, self._text(names)[0])

    def draw(self, settings: Settings) -> tuple[Figure, pd.DataFrame]:
        """The picture and its numbers; raises ValueError for what cannot be done."""
        return explorer(**self.facts(settings))

    @torch.no_grad()
    def facts(self, settings: Settings) -> dict[str, Any]:
        """The arguments of `figures.explore.explorer`."""
        image, count, rho = settings.image, settings.views, settings.rho
        keep = selection.keep_count(count, rho)
        names = settings.names or self.dataset.class_names
        text, templates = self._text(names)
        pictures, views = self._views(image, count)
        side = text.class_features, text.logit_scale
        logits = text.logit_scale * views.float() @ text.class_features.T  # [1, V, C]
        kept = selection.confident(logits, keep)[0].tolist()
        by_method = {
            "zero_shot": adaptation.first_view(views, text),
            "vote_mean": vote.mean_vote(views, *side),
            "vote": vote.confident_vote(views, *side, rho=rho),
        }
        if settings.tune:
            how = rho, settings.steps, settings.learning_rate
            by_method["tpt"] = self._tuned(image, names, count, *how)
        probabilities = [
            pd.DataFrame(
                {
                    "class_name": names,
                    "method": method,
                    "probability": found.softmax(dim=-1)[0].tolist(),
                }
            )
            for method, found in by_method.items()
        ]
        weights = autoclip.weights(
            views[:, 0].float(), templates, text.logit_scale, beta=settings.beta
        )
        frame = pd.DataFrame(
            {
                "entropy": selection.entropy(logits)[0].tolist(),
                "kept": [view in kept for view in range(count)],
            }
        )
        return {
            "pictures": pictures,
            "views": frame,
            "probabilities": pd.concat(probabilities, ignore_index=True),
            "weights": dict(zip(self.templates, weights[0].tolist(), strict=True)),
            "title": self._title(image),
        }

    def _title(self, image: int | Upload) -> str:
        if isinstance(image, Upload):
            return image.name
        name, label = self.dataset.ids[image], self.dataset.labels[image]
        if label < 0:  # unknown
            return name
        return f"{name}\ntrue: {self.dataset.class_names[label]}"


class Panel:
    """Controls above a picture, which is drawn anew whenever one of them moves.

    The picture is made of the controls' values alone. Where they ask for what cannot
    be, a sentence says so and the last picture stays.
    """

    def __init__(self, exploration: Exploration) -> None:
        self._exploration, self._image = exploration, 0
        dataset = exploration.dataset
        self.position = _slider(widgets.IntSlider, "image", 0, 0, len(dataset) - 1)
        self.upload = widgets.FileUpload(
            accept="image/*", description="your own picture", layout={"width": "auto"}
        )
        self.names = widgets.Text(
            placeholder=f"class names with commas; {len(dataset.class_names)} of "
            f"{dataset.name} unless you write some",
            continuous_update=False,
            layout={"flex": "1", "min_width": "260px"},
        )
        self.views = _slider(widgets.IntSlider, "views", Settings.views, 1, MOST)
        self.rho = _slider(widgets.FloatSlider, "share kept, rho", 0.1, 0.05, 1, 0.05)
        self.tune = widgets.Checkbox(
            value=True, indent=False, description="run TPT at each move"
        )
        self.steps = _slider(widgets.IntSlider, "steps", Settings.steps, 1, 8)
        self.learning_rate = widgets.SelectionSlider(
            options=[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05],
            value=Settings.learning_rate,
            description="learning rate",
            continuous_update=False,
            **WIDE,
        )
        self.beta = _slider(
            widgets.FloatSlider, "AutoCLIP's beta", Settings.beta, 0.05, 1, 0.05
        )
        self.message = widgets.HTML()
        self.picture = widgets.Image(
            format="png", layout={"width": "100%", "max_width": "900px"}
        )
        row = {"flex_flow": "row wrap"}
        choice = [self.position] if len(dataset) > 1 else []
        pairs = (self.views, self.rho), (self.steps, self.learning_rate)
        columns = [widgets.VBox(pair) for pair in (*pairs, (self.beta, self.tune))]
        upper = widgets.HBox([*choice, self.upload, self.names], layout=row)
        lower = widgets.HBox(columns, layout=row)
        self.box = widgets.VBox([upper, lower, self.message, self.picture])
        self.position.observe(self._choose, "value")
        self.upload.observe(self._choose, "value")
        for name in ("names", *CONTROLS):
            getattr(self, name).observe(self._redraw, "value")
        self._redraw()

    def settings(self) -> Settings:
        """What the controls ask for; raises ValueError for a single class name."""
        written = filter(None, map(str.strip, self.names.value.split(",")))
        names = tuple(dict.fromkeys(written))
        if len(names) == 1:
            raise ValueError("one class name: write two or more, with commas between")
        chosen = {name: getattr(self, name).value for name in CONTROLS}
        return Settings(self._image, names, **chosen)

    def _choose(self, change: dict) -> None:
        if change["owner"] is self.position:
            self._image = self.position.value
        else:
            (file,) = self.upload.value
            self._image = Upload(file["name"], bytes(file["content"]))
        self._redraw()

    def _redraw(self, _: object = None) -> None:
        self.message.value, began = "drawing …", time.perf_counter()
        try:
            fig, _ = self._exploration.draw(self.settings())
        except ValueError as error:
            self.message.value = (
                f"<b>{escape(str(error))}.</b> Below is the last picture that could be "
                "drawn."
            )
            return
        png = io.BytesIO()
        fig.savefig(png, format="png")
        plt.close(fig)
        self.picture.value = png.getvalue()
        self.message.value = f"drawn in {time.perf_counter() - began:.1f} s"


def _slider(
    kind: type[widgets.Widget], name: str, value: float, low: float, *rest: float
) -> widgets.Widget:
    """A slider that reports its value when released; `rest`: its maximum and step."""
    ends = dict(zip(("max", "step"), rest, strict=False))
    look = {"description": name, "continuous_update": False, **WIDE}
    return kind(value=value, min=low, **ends, **look)
