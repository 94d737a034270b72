"""What is installed from packages: an empty machine that follows the README, the hardened service, the container image."""
