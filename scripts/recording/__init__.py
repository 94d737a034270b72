"""Recordings of the command line for docs/: a real one at a terminal of its own, kept as asciicast, shown as SVG."""
