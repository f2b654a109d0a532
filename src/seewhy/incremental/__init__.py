"""Incremental inference: outputs for pictures that differ from one in a small window, recomputed only there."""

from .inference import MIN_SAMPLES_TO_TRACE, PreparedNetwork, output_function, prepare_network

__all__ = ["MIN_SAMPLES_TO_TRACE", "PreparedNetwork", "output_function", "prepare_network"]
