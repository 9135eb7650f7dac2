"""Pools in this process."""
