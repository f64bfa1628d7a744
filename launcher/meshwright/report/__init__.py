"""What people and programs read: terminal tables and JSON, of plans, costs, verdicts, recipes."""
