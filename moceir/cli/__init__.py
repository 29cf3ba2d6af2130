"""Thin doors: parse, build, call."""
