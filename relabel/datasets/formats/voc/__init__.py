"""Pascal VOC: one XML file per image."""
