"""A machine's own speed: products, attention, memory, host, optimizer and links, measured and made a cluster file."""
