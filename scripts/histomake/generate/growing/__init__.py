"""Growing generative networks: fields of view out of random numbers (Karras et al., ICLR 2018)."""
