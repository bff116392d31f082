"""Faithfulness of explanations: deletion and insertion, where and when the forgery is found, and sanity checks."""
