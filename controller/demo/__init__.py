"""The fleet of real OpenSSH servers on one machine, and the story `kps demo` tells on it."""
