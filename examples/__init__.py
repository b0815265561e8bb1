"""Worked examples of igjax on real networks and real data; nothing here is part of the library."""
