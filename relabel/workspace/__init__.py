"""Workspace: stages with fingerprints, resume, atomic files, manifests, progress.

In: settings and inputs. Out: finished folders that are never redone.
"""
