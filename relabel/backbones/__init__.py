"""Backbones: frozen and trainable networks that several rooms use.

In: a hub id, a local folder or a torchvision name. Out: feature maps, folded batch norms,
classification heads and published classifiers.
"""

# A stride that no layer exceeds: freezing up to it leaves nothing of a backbone to train.
WHOLE_BODY = 32
