"""`python -m l2l_core`."""

from l2l_core.cli import main

if __name__ == "__main__":
    main()
