"""The observers: two gradients just inside the ends of the path, which belong to no rule.

Where an integrand is steep near an end, as behind a norm from a zero baseline, no node may be near
enough to see it.
"""

DISTANCE = 2.0**-16  # from the ends, where a gradient may not be defined

# Nodes that all see the same, and an observer that sees something else: then the nodes may have
# been in step with the integrand. By this much more than from node to node, and of the whole.
ALARM, ALARM_OF_WHOLE = 8.0, 0.3

# So much of the way to the outermost node may be as different from what the nodes let expect as
# the observer is.
BETWEEN_OBSERVER = 0.5
