"""Detectors: Faster R-CNN, RT-DETR and SAM 3 behind one interface.

In: a `DetectionDataset`. Out: a checkpoint folder, and `Detections` for images.
"""
