"""The network's answer to many pictures that differ from one in a small window, computed where they differ only."""

from .engine import Prepared, prepare

__all__ = ["Prepared", "prepare"]
