"""The verbs users ask for, by noun."""
