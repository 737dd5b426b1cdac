"""Tests, benchmarks and the demo cohort; a real package, because a dependency installs its own top-level `tests`."""
