"""FiftyOne: dataset folders that are read and written without a database."""
