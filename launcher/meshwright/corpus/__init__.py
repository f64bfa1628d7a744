"""A run's text: tokenized, indexed, and checked before anything is queued."""
