"""`python -m sparsernn` is the command `sparsernn`."""

from sparsernn.cli import main

if __name__ == "__main__":
    main()
