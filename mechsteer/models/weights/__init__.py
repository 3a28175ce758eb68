"""Hugging Face's weights in the library's models: as views, without copies, with their norms and rotary tables."""
