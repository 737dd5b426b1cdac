"""RADHicaL: low magnifications decide where high ones must look."""
