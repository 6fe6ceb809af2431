"""Tells the patients of many doctors about one data breach, and proves it."""

__version__ = "0.1.0"
