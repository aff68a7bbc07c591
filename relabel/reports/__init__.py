"""Reports: self-contained HTML, pictures, FiftyOne.

In: datasets before and after. Out: pages a person looks at.
"""
