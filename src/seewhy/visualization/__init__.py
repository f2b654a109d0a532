"""Colormaps, overlays, sheets, reports, tables and files: everything that turns records into output for people."""

from __future__ import annotations

from .colormaps import COLORMAPS, apply_colormap, colormap
from .overlay import overlay
from .serialization import load_explanation, save_explanation
from .sheet import figure, path_figure, png, show
from .tile_figure import figure_to_image, tensor_to_image, tile_images

__all__ = [
    "COLORMAPS",
    "apply_colormap",
    "colormap",
    "figure",
    "figure_to_image",
    "load_explanation",
    "overlay",
    "path_figure",
    "png",
    "save_explanation",
    "show",
    "tensor_to_image",
    "tile_images",
]
