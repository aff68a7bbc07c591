"""Waymo Open, camera boxes: v1 TFRecords and v2 Parquet files."""
