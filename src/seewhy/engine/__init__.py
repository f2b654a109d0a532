"""The engine: from a call of `explain()` to the kernels of the methods, and activation maximization."""
