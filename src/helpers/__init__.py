"""Tools of the study's notebooks: images in, features, methods, results."""

import logging
import warnings

# tqdm asks for widgets when a library imports it in a notebook; a bar in text will do.
warnings.filterwarnings("ignore", message="IProgress not found")
# Pillow warns of a file without naming it.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
