"""The REST faces. Each speaks its own words to its callers and one language to the services."""
