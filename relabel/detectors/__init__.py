"""Detectors: Faster R-CNN, its certainty-aware kin, RT-DETR and SAM 3 behind one interface.

In: a `DetectionDataset`. Out: a checkpoint folder, and `Detections` for images.
"""
