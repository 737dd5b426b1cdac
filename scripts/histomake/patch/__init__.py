"""Patches: grid, table, sampler, augmentation."""
