"""Faster R-CNN whose boxes are located by classification, with a localisation quality (2021)."""
