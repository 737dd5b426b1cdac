"""The catalog: a DuckDB database of the cohort."""
