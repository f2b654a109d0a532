"""Methods that hide parts of the input and see what changes; they need nothing but scores."""
