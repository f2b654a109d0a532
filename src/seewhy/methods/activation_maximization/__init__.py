"""Activation maximization: gradient ascent on the input to maximize the activation of a channel."""
