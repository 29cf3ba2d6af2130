"""``python -m moceir`` is the ``moceir`` command."""

from moceir.cli.main import main

main()
