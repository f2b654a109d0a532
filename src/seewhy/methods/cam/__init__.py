"""Methods that weigh a layer's activations."""
