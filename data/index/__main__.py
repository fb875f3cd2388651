"""`python -m data.index FOLDER`: the command line of `data.index.tally`."""

from data.cli import run
from data.index.tally import main

if __name__ == "__main__":
    run(main)
