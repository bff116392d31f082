"""The commands of the command line, one file each, beside main, parser, options and console.

There are more than nine files because a command is found by its name: `add` gives a parser its options, `run` does the
work and returns the exit status. What a command imports besides its options it imports in `run`, so that --help is
quick.
"""

# The exit status where something was wrong with some input; 0 is done, 2 could not be done.
PROBLEM_FOUND = 1
