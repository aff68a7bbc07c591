"""COCO JSON, LVIS included: reading, column building, decoding, layout and writing."""
