"""The study's figures: each function draws one and returns it with its numbers.

Every function gives `(figure, data)`: `data` is the tidy table that the figure shows,
fractions of one as everywhere, drawn in percent. A method has one colour throughout.
Here are the figures of several chapters; what one chapter alone draws stands in a
module of its name.
"""

from helpers.figures.shared import (
    accuracy_by_dataset,
    curves,
    difference_map,
    difference_panels,
    image_grid,
    paired_differences,
    reliability_diagram,
)
from helpers.figures.style import colour, save, save_table, use_style
