"""Files from elsewhere: every decoder of foreign bytes is called here, bounded, with one error.

In: paths and bytes of unknown origin. Out: text, plain values, pixels, tables; or one `DataError`.
"""
