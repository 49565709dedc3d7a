"""`python -m llmsys`: the same as the installed `llmsys` command."""

from llmsys.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
