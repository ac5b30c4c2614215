"""Demonstrations, each one command."""
