"""A model taken apart: operations and their weights, counts, and the architectures of transformers."""
