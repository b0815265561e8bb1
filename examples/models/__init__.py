"""Published networks as plain JAX functions, their weights read from pip packages."""
