"""Benchmarks: figures with a baseline run side by side. Never a timed test: machines differ, and drift."""
