"""Layers of a network: the layer table, the default feature layer, activations."""
