"""The networks: ISTVT and those that it is compared with, by name; their cost and their model files."""
