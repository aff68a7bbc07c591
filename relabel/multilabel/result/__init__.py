"""Result: the labels as TSV, Parquet and FiftyOne, confused classes and the report."""
