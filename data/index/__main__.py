"""`python -m data.index FOLDER`: the command line of `data.tally`."""

from data.cli import run
from data.tally import main

if __name__ == "__main__":
    run(main)
