"""Semi-supervised training: a teacher labels images that nobody has, a student learns from both."""
