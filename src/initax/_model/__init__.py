"""A model described in records; nothing here knows a framework."""
