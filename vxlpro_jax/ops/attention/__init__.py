"""Attention with interchangeable backends; `dispatch` holds the functions that models call."""
