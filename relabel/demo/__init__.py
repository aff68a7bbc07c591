"""The demo world: rendered street scenes in three native layouts, and the whole job run on them.

In: a seed and a number of images. Out: Cityscapes, Waymo v2 and nuImages folders with their own
annotation conventions, the known truth of the sources in the Cityscapes convention, a relabel.toml,
and, after `run_demo`, relabelled datasets with their scores, pictures and a report.
"""
