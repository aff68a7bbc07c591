"""COCO JSON, LVIS too: one decoder, the reader of datasets, files as written, the writer."""
