"""Training runs, the plan of many, and their execution."""
