"""Reports: self-contained HTML pages with charts and pictures.

In: datasets before and after. Out: pages a person looks at.
"""
