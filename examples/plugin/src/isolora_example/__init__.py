"""Plug-ins of isolora, one of each kind, each in a file of its own."""
