"""Face detectors that bring their weights in their package, behind one interface."""
