"""Maps that know nothing of the network: every test of a map must tell them from a method."""
