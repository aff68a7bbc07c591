"""SAM 3 as a detector that labels from text prompts."""
