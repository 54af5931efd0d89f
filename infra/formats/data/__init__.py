"""Files of samples, each in a format of its own: a module for each, all behind `tables`. A new format is a new module.

A file is what its first bytes say, and only where they leave that open what its name ends in (see `formats`).
"""
