"""``python -m trifcgi`` is ``trifcgi``."""

from trifcgi.cli import main

if __name__ == "__main__":
    main()
