"""People look at a result, decide label by label, and the next run respects it.

In: a result loaded into FiftyOne. `edits` changes its labels there (accept, reject, relabel,
restore, undo), `plugin/` puts these into the App. `export` makes the decisions of it, `decisions`
is the file that holds them. Out: `apply` puts them into the labels of a later run.
"""
