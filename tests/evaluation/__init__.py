"""Tests of relabel.evaluation."""
