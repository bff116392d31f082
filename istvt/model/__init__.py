"""The network: Xception entry flow, attention, blocks, ISTVT, its cost and its model files."""
