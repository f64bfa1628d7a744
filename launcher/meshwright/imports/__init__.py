"""What people already run, read: a foreign file in, values of ours and the fate of every key of it out."""
