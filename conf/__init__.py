"""The Hydra config groups of meshwright; ``pkg://meshwright.conf`` finds them."""
