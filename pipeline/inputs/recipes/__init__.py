"""Recipes that come with models: how one of their images becomes an input; a module for each kind."""
