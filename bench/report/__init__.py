"""Tables and plots of runs, and the plot of the architecture."""
