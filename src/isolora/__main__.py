"""`python -m isolora`: the command line, also where its script is not on the path."""

from isolora.cli import main

if __name__ == "__main__":
    main()
