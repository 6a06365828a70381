"""Tools of the study's notebooks: images in, features, methods, results."""

import warnings

# tqdm asks for widgets when a library imports it in a notebook; a bar in text will do.
warnings.filterwarnings("ignore", message="IProgress not found")
