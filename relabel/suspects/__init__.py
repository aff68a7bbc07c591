"""Suspect labels: what a dataset's own specialists, each on images it has not seen, object to.

In go a dataset and out-of-fold predictions, of specialists trained here or of the user's own
detector; out comes one ranked list of suspects, as JSON, FiftyOne dataset and report.
"""
