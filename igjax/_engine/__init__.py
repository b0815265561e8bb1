"""What integrates: from a derivative, a path and a rule to attributions and their error."""
