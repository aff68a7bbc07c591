"""Damaged inputs for every reader and command, and what must hold of each run.

``python -m tests.fuzz --count 20000 --seed 1`` runs them; an input is made from (seed, number)
alone, so ``--only NUMBER`` makes one again.
"""
