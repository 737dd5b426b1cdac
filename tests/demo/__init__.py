"""The demo cohort: whole slides composed of real, openly licensed tissue, so that nothing has to be downloaded."""
