"""Perturbation methods: scores of the input with parts masked. They require nothing but scores of the model."""
