"""``accelerate launch -m faitheir.training CONFIG.toml``: the command ``faitheir train``, for launchers of modules."""

from faitheir.cli import main

if __name__ == "__main__":
    import sys

    main(["train", *sys.argv[1:]])
