"""Recipes become compiled programs, and programs become arrays."""
