"""Metrics of explanations: perturbation curves, robustness, localization."""
