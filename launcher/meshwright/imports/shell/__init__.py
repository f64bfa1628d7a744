"""A shell script read, never run: what its commands would be, as far as the script itself says so."""
