"""Gradient methods: gradients at the input, at noisy copies of it, and along paths from a baseline to it."""
