"""How the nodes and weights of rules are computed, in float64, once."""
