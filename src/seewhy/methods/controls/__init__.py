"""Controls: maps that do not depend on the network. Every check of a map must distinguish them from an explanation."""
