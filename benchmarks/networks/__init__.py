"""The networks that the benchmark runs: random weights, and real ones with real inputs."""
