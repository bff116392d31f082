"""Learning a new forgery without forgetting the old ones: a run that starts from another, and what that changed.

from istvt.comparison.adaptation.adapt import adapt
result = adapt("runs/old", DataSettings("data/new"), "runs/adapted")
print(result.markdown)
"""
