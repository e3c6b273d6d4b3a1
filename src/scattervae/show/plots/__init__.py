"""Panels: each function draws on the axes it is given, from values it is given.

Nothing here loads, computes with a model, or saves.
"""
