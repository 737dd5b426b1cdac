"""histomake: the library behind the workflow's rules. A package imports only from packages below it."""
