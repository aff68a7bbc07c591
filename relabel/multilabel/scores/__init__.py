"""Scores: what label maps, given or computed, say about every region."""
