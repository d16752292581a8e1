"""`python -m faitheir`: the command line."""

from faitheir.cli import main

if __name__ == "__main__":
    main(prog_name="faitheir")
