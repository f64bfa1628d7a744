"""Where ranks, layers and sequences stand: the grid, the pipeline, the length of a run, and the Plan of all."""
