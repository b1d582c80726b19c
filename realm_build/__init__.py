"""Realm's build tool: `python3 -m realm_build COMMAND`.

Standard library and zig (from PyPI) only, so that it starts on a bare machine: `bootstrap` makes the
virtual environment everything else runs in. Nothing imports this package at run time.
"""
