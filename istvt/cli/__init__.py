"""The commands of the command line, one file each, beside main, parser, options and console.

There are more than nine files because a command is found by its name: `add` gives a parser its options, `run` does the
work and returns the exit status. What a command imports besides its options it imports in `run`, so that --help is
quick.
"""

# Exit status where some inputs could not be used; 0 is success, 2 a failure of the command.
PROBLEM_FOUND = 1
