"""Maintenance campaigns: who is taken out of service when, and what became of it."""
