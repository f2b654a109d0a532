"""7. What people see: colour, overlay, sheets, tables, files."""

from __future__ import annotations

from .colour import COLORMAPS, colormap, colour
from .files import load, save
from .gallery import drawn, gallery, image
from .overlay import overlay
from .sheet import figure, path_figure, png, show

__all__ = [
    "COLORMAPS",
    "colormap",
    "colour",
    "drawn",
    "figure",
    "gallery",
    "image",
    "load",
    "overlay",
    "path_figure",
    "png",
    "save",
    "show",
]
