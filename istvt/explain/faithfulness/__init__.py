"""Faithfulness of explanations: deletion curves, pointing game and mass in the mask, for each method and for chance."""
