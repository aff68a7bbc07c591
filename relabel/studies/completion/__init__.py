"""Methods that complete partial labels, compared by the published protocol.

In: image sets whose labels are all known, of which shares are hidden. Out: mAP of every method over
the share that stays known, in one table, with a plot and intervals.
"""
