"""Methods that complete labels: each a network and the losses of a step, behind one interface.

In: feature maps and what is known of their images. Out: logits, and what transfers found.
"""
