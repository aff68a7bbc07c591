"""``python -m relabel``."""

from relabel.cli import main

if __name__ == "__main__":
    main()
