"""Class activation maps (CAM): weighted sums of a layer's activations, and FullGrad."""
