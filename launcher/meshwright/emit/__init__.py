"""Plan -> text: what each backend and each launcher reads. Pure functions, nothing is written here."""
