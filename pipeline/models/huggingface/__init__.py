"""Models in Hugging Face folders."""
