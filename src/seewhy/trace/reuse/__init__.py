"""The network's answer to many pictures that differ from one in a small window, computed where they differ only."""

from .engine import MANY, Prepared, answering, prepare

__all__ = ["MANY", "Prepared", "answering", "prepare"]
