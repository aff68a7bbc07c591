"""What methods are put together of: SARL and its graph, transfers, prototypes, blends, saliency.

They know maps and labels alone: no settings, files or training.
"""
