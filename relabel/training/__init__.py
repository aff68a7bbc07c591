"""Training: one loop on accelerate, with checkpoints, EMA, schedules and progress.

In: a model, its batches. Out: a checkpoint folder that training can resume from exactly.
"""
