"""`python -m webapp.cli`: the command line, for processes that start each other."""

from webapp.cli import main

if __name__ == "__main__":
    main(prog_name="forgepool")
