"""Megatron programs with one thing wrong each: what a rehearsal must notice."""
