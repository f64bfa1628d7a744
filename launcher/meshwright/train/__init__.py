"""What runs on the nodes: reads a run folder, never imports Hydra."""
