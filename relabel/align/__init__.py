"""Align: the whole job, from native datasets to source datasets in the target's label space.

In: a catalogue, a target and sources. Out: a workspace of stages (specialists, cross-labels, LAT,
transferred boxes) and a ``result`` folder with the relabelled datasets.
"""
