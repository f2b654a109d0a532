"""Gradients whose rectifiers pass something else backwards."""
