"""Ablations of Label-Aligned Transfer on held-back training images of the target.

In: a workspace of `relabel align`. Out: one table over arms and seeds.
"""
