"""Label-Aligned Transfer: proposals (PPG), fusion (SFF), training, transfer into the target space.

In: datasets and their pseudo-labels. Out: source datasets with target-space boxes.
"""
