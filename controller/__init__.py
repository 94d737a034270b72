"""The controller: keeps key pairs, knows the servers, and drives the agent on each of them."""
