"""Ways to damage a file, by its kind, and the folder that holds it."""
