"""Instrumented forward passes: observed layers and ops, recorded autograd graph, backward rules, attention weights."""
