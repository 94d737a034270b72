"""Reaching a server: a connection, the agent at the end of a rope, and the proofs."""
