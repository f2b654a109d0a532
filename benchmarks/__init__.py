"""Comparisons with other libraries, measured in one run. Durations are reported as ratios; no test measures time."""
