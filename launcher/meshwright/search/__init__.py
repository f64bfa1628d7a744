"""The best layout of all there are, the reason each other one lost, and what lies between."""
