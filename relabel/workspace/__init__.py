"""Workspace: stages, the pipeline that runs them, shards, locks, atomic files, progress.

In: a named step with its settings and the fingerprints of its inputs. Out: a folder that says
whether the step is done, so that the same command after a kill goes on where it stopped.
"""
