"""Runs the ``moceir`` command as ``python -m moceir``."""

from moceir.cli.main import main

main()
