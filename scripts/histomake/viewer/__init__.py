"""The viewer: slides of a results folder in a browser, on this machine only."""
