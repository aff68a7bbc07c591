"""Doctor: what is installed, which devices there are, what is missing and what to do about it."""
