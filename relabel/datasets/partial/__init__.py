"""Image sets of which only a part is known: a class is present, absent, or nobody looked.

In: label files, the layouts of multi-label sets, detection sets. Out: `PartialLabels`.
"""
