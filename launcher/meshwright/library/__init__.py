"""Published recipes: their files, what each says of its values, and the audit of its numbers."""
