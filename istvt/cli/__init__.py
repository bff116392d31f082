"""The commands, one a file: `add` gives a parser its options, `run` does it and returns the exit status.

What a command imports besides its options it imports in `run`, so that --help is quick.
"""

# The exit status where something was wrong with some input; 0 is done, 2 could not be done.
PROBLEM_FOUND = 1
