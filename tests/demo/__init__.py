"""The demo cohort: real, openly licensed tissue composed into whole slides, so that nothing is downloaded."""
