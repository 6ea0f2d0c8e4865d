"""Files: tables (CSV, JSON, Parquet), weights, and result folders that appear whole or not at all."""
