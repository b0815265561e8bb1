"""Functions as JAX traces them: read, cut in parts, and evaluated by other rules."""
