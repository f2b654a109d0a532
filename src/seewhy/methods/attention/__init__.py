"""Where the tokens that are read got what they know: attention weights, and the gradient of the score at them."""
