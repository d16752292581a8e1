"""Rivals made, and everything side by side: systems, tables, plots, sheets and the report."""
