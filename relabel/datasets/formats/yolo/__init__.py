"""YOLO label files and the folder layouts they come in."""
