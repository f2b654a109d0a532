"""Attention methods: attention weights, and the gradient of the score with respect to them."""
