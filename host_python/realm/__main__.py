"""`python -m realm` is the command `realm`."""

from ._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
