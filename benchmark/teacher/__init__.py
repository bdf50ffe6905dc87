"""Teachers: their import and checks, their outputs, and the cache of these."""
