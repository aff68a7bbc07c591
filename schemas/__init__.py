"""Label spaces (YAML) and JSON Schemas of our own files."""
