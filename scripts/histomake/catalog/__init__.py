"""The cohort's DuckDB database."""
