"""Gradients at the input, and along paths of inputs."""
