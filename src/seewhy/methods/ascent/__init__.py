"""Pictures made to please a unit: gradient ascent on the input."""
