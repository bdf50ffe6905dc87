"""The commands, one module each, whose `run(words)` takes the key=value words and returns the exit status."""
