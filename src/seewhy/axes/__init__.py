"""Axes of inputs, outputs and features: what each axis of a tensor means."""
