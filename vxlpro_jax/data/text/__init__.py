"""Tokenizer and chat format."""
