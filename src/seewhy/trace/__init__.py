"""3. Where inside a network, and what exactly is asked of it."""
