"""Initax against its peers: time, memory and compilations of re-initializing a model that already exists.

`python -m benchmarks` from the repository's root; every measurement is a process of its own. The parent loads neither
JAX nor initax, and a child loads only what its method needs.
"""
