"""Benchmarks of igjax."""
