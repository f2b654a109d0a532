"""Sanity checks by weight randomization (Adebayo et al. 2018), with statistical verdicts."""
