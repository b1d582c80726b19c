# Generated from guest_src/realm.wit by realm_build gen; do not edit.
"""Bindings made from guest_src/realm.wit."""
