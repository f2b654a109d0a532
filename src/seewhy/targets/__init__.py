"""Targets: ready-made target functions, parsing of `target=` and `score=`, class predictions."""

from .ready_made import box, contrast, region, similarity

__all__ = ["box", "contrast", "region", "similarity"]
