"""Offline: from anyone's videos and words to shards. Training never imports this package."""
