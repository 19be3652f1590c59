"""``python -m pipeline`` is the command ``twingrad``."""

from pipeline.cli.main import main

if __name__ == "__main__":
    main()
