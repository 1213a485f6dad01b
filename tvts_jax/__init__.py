"""Pretrain video models from the speech that videos carry."""

__version__ = '0.1.0'
