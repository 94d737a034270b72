"""Rotation, decided: when a key pair is due, what the next one is called, and what a rotation does next. Pure."""
