"""What other tools need in order to do their part: programs, each run by itself with the Python that has the tool."""
