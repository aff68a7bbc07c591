"""Detectors: specialists behind one interface.

In: a `DetectionDataset`. Out: a checkpoint folder, and `Detections` for images.
"""
